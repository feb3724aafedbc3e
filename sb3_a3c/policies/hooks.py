"""
Frozen parameters and hooks: read from the model's policy, and applied to the workers' copies.

The names of torch's dictionaries of hooks are private. They are those of torch 2.13.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import CellType
from typing import Any, NamedTuple

import cloudpickle
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.utils.hooks import RemovableHandle

#: The attributes in which a module keeps its hooks.
_OF_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ParameterHook(NamedTuple):
    """
    A hook of a parameter.

    :param parameter: Name of the parameter
    :param function: The function. It is called with the gradient, or, after accumulation, with the parameter
    :param after_accumulation: Whether it was registered with ``register_post_accumulate_grad_hook``
    """

    parameter: str
    function: Callable[[th.Tensor], Any]
    after_accumulation: bool


@dataclass(frozen=True)
class GradientRules:
    """
    Rules for the gradients of single parameters.

    :param frozen: Names of the parameters with ``requires_grad=False``
    :param hooks: The hooks of parameters, in the order in which they are called
    """

    frozen: frozenset[str] = frozenset()
    hooks: tuple[ParameterHook, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.frozen or self.hooks)

    def impose(self, policy: ActorCriticPolicy) -> list[RemovableHandle]:
        """
        :param policy: A copy of the policy. Its parameters get the same hooks, and are frozen in the same way
        :return: Handles that remove the hooks
        """
        params = dict(policy.named_parameters())
        for name, param in params.items():
            param.requires_grad_(name not in self.frozen)
        handles = []
        for name, function, after_accumulation in self.hooks:
            if name not in self.frozen:
                param = params[name]
                register = param.register_post_accumulate_grad_hook if after_accumulation else param.register_hook
                handles.append(register(function))
        return handles

    def apply(self, names: Sequence[str], values: Sequence[th.Tensor], gradients: Sequence[th.Tensor]) -> None:
        """
        Apply the rules, as torch does, to gradients that were not computed by torch.

        :param names: Names of the parameters
        :param values: Their values
        :param gradients: Their gradients, which are changed in place
        """
        for name, value, gradient in zip(names, values, gradients, strict=True):
            if name in self.frozen:
                gradient.zero_()
                continue
            for hook in (hook for hook in self.hooks if hook.parameter == name):
                if hook.after_accumulation:
                    param = nn.Parameter(value.clone())
                    param.grad = gradient.clone()
                    hook.function(param)
                    gradient.copy_(param.grad)
                elif (changed := hook.function(gradient.clone())) is not None:
                    gradient.copy_(changed)


class RulesOfPolicy:
    """
    Reads the rules of the model's policy, which callbacks may change.

    :param policy: The model's policy
    :param is_remote: Whether workers are in other processes. Hooks that can't be sent are left out, with a warning
    """

    def __init__(self, policy: ActorCriticPolicy, is_remote: bool) -> None:
        self._params = list(policy.named_parameters())
        self._is_remote = is_remote
        self._sent: dict[int, Any] = {}
        self._rules = GradientRules()

    def read(self) -> GradientRules:
        """
        :return: The present rules. If they have not changed, this is the same object as before
        """
        frozen = frozenset([name for name, param in self._params if not param.requires_grad])
        hooks = tuple([hook for name, param in self._params for hook in self._hooks(name, param)])
        if (frozen, hooks) != (self._rules.frozen, self._rules.hooks):
            self._rules = GradientRules(frozen, hooks)
        return self._rules

    def _hooks(self, name: str, param: nn.Parameter) -> Iterator[ParameterHook]:
        for hooks, after in ((param._backward_hooks, False), (param._post_accumulate_grad_hooks, True)):  # type: ignore
            for function in hooks.values() if hooks else ():
                if not self._is_remote:
                    yield ParameterHook(name, function, after)
                    continue
                if id(function) not in self._sent:
                    # It keeps the function alive, and so its id unique.
                    self._sent[id(function)] = function, _sendable(function, f"parameter {name}")
                if (sent := self._sent[id(function)][1]) is not None:
                    yield ParameterHook(name, sent, after)


_NUMBERS = count()
#: Whether a hook's first call succeeded in this process, by its number. A hook is sent again when hyperparameters change.
_WORKS: dict[int, bool] = {}


class SentHook:
    """
    A hook in a worker process. If its first call fails, it depends on the main process: it is not called again, and the main
    process gets a notice. If a later call fails, the worker fails.

    :param function: The hook
    :param owner: The parameter or module of the hook, for messages
    """

    def __init__(self, function: Callable, owner: str) -> None:
        self._function = function
        self._owner = owner
        self._number = next(_NUMBERS)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        works = _WORKS.get(self._number)
        if works is False:
            return None
        try:
            result = self._function(*args, **kwargs)
        except Exception as error:
            if works:
                raise
            _WORKS[self._number] = False
            _NOTICES.append(_not_called(self._owner, f"it fails in another process ({type(error).__name__}: {error})"))
            return None
        _WORKS[self._number] = True
        return result


#: Notices for the main process.
_NOTICES: list[str] = []


def take_notices() -> list[str]:
    """
    :return: New notices about hooks in this process, for the main process
    """
    notices = _NOTICES[:]
    _NOTICES.clear()
    return notices


def module_hooks(policy: nn.Module) -> list[Callable]:
    """
    :param policy: A policy
    :return: The hooks of its modules
    """
    return [function for _, hooks in _dictionaries(policy) for function in hooks.values()]


def own_hooks(policy: nn.Module) -> list[Callable]:
    """
    :param policy: A policy
    :return: Those hooks of its modules that belong to one of the modules: its methods, and functions that refer to it. A copy
        of the policy needs copies of them
    """
    modules = {id(module) for module in policy.modules()}

    def refers(hook: Any) -> bool:
        if isinstance(hook, partial):
            return any(map(refers, (hook.func, *hook.args, *hook.keywords.values())))
        cells = [cell.cell_contents for cell in getattr(hook, "__closure__", None) or () if cell != CellType()]
        return any(id(value) in modules for value in (hook, getattr(hook, "__self__", None), *cells))

    return [hook for hook in module_hooks(policy) if refers(hook)]


def step_hooks(optimizer: th.optim.Optimizer) -> list[Callable]:
    """
    :param optimizer: An optimizer
    :return: The hooks that its ``step()`` calls
    """
    return [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]  # type: ignore


def prepare_module_hooks(policy: nn.Module) -> None:
    """
    Replace the hooks of modules by hooks that can be sent to another process. Others are removed, with a warning.

    :param policy: A copy of the policy that shares the hooks of its modules with the original, except for its own hooks
    """
    own = set(map(id, own_hooks(policy)))
    for name, hooks in _dictionaries(policy):
        for key, function in [(key, function) for key, function in hooks.items() if id(function) not in own]:
            sent = _sendable(function, f"module {name or type(policy).__name__}")
            if sent is None:
                del hooks[key]
            else:
                hooks[key] = sent


def _dictionaries(policy: nn.Module) -> Iterator[tuple[str, dict[int, Callable]]]:
    for name, module in policy.named_modules():
        for dictionary in _OF_MODULES:
            if vars(module).get(dictionary):
                yield name, vars(module)[dictionary]


def _sendable(function: Callable, owner: str) -> SentHook | None:
    if str(getattr(function, "__module__", "")).startswith("wandb."):
        warnings.warn(
            "the hooks of wandb.watch() are not called by the workers: they log to the W&B run of the main process. With "
            "backend='thread' they are called",
            stacklevel=2,
        )
        return None
    sent = SentHook(function, owner)
    try:
        pickle.loads(cloudpickle.dumps(sent))
    except Exception as error:
        warnings.warn(_not_called(owner, f"it can't be pickled ({type(error).__name__}: {error})"), stacklevel=2)
        return None
    return sent


def _not_called(owner: str, why: str) -> str:
    return f"a hook of {owner} is not called by the workers: {why}. With backend='thread' it is"

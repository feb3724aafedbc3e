"""
Copies of a policy, in this process or for another one.

A policy is pickled, with cloudpickle. Parametrized modules (``torch.nn.utils.parametrizations``), which torch does not
pickle, are taken apart and put together again. A policy that still can't be pickled is built again, as SB3 does when it
loads a model: from the parameters of its constructor and its state dict.
"""

import io
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.nn.utils import parametrize

from sb3_a3c.policies.hooks import module_hooks


class CannotCopyPolicy(TypeError):
    """A policy that can be neither pickled nor built again."""


def clone_policy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """
    A policy of its own with equal parameters, buffers and optimizer. (``copy.deepcopy`` fails once a policy has
    learned or with gSDE, for it then holds tensors of a graph; always building a new one would lose what was changed since.)

    :param policy: The policy to clone
    :return: The clone, which shares nothing with the original but the hooks of its modules
    :raises CannotCopyPolicy: if that can't be done
    """
    try:
        hooks = module_hooks(policy)
        return _Unpickler(io.BytesIO(_dump(policy, hooks)), hooks).load()
    except Exception as error:
        with _explained(policy, error):
            return _build(*_plan_of(policy))


def reduce_policy(policy: ActorCriticPolicy) -> tuple[Callable[..., ActorCriticPolicy], tuple[Any, ...]]:
    """
    :param policy: A policy that another process is to get
    :return: A function that makes an equal one over there, and its arguments: what ``__reduce__`` returns
    :raises CannotCopyPolicy: if that can't be done
    """
    try:
        return pickle.loads, (_dump(policy),)
    except Exception as error:
        with _explained(policy, error):
            content = _dump(_plan_of(policy))
            _build_from(content)  # an error is the caller's here, not the other process's
            return _build_from, (content,)


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, hooks: Sequence[Callable]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._indices = {id(hook): index for index, hook in enumerate(hooks)}

    def persistent_id(self, obj: Any) -> int | None:
        """Hooks are not copied: they may log, or belong to something that can't be pickled."""
        return self._indices.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        """torch injects a class of its own into a parametrized module, which refuses to be pickled."""
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            names = list(obj.parametrizations)  # type: ignore[arg-type]
            shell = _parametrized_shell, (parametrize.type_before_parametrizations(obj), names)
            return *shell, vars(obj), None, None, _set_state
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, hooks: Sequence[Callable]) -> None:
        super().__init__(file)
        self._hooks = hooks

    def persistent_load(self, index: int) -> Callable:
        """The hook with an index."""
        return self._hooks[index]


def _dump(content: Any, hooks: Sequence[Callable] = ()) -> bytes:
    file = io.BytesIO()
    _Pickler(file, hooks).dump(content)
    return file.getvalue()


def _parametrized_shell(module_class: type[nn.Module], names: list[str]) -> nn.Module:
    """A module whose class torch has made parametrized; its state is set afterwards."""
    module = module_class.__new__(module_class)
    nn.Module.__init__(module)
    for name in names:
        module.register_parameter(name, nn.Parameter(th.empty(0)))
        parametrize.register_parametrization(module, name, nn.Identity())
    return module


def _set_state(module: nn.Module, state: dict[str, Any]) -> None:
    module.__dict__.update(state)


class _Plan(NamedTuple):
    """What a policy is built again from."""

    policy_class: type[ActorCriticPolicy]
    arguments: dict[str, Any]
    state: dict[str, Any]
    optimizer_state: dict[str, Any]
    device: th.device
    training: bool
    frozen: list[str]


def _plan_of(policy: ActorCriticPolicy) -> _Plan:
    arguments = policy._get_constructor_parameters()
    if not policy.share_features_extractor:  # SB3 leaves it out
        arguments["share_features_extractor"] = False
    return _Plan(
        type(policy),
        arguments,
        policy.state_dict(),
        policy.optimizer.state_dict(),
        policy.device,
        policy.training,
        [name for name, param in policy.named_parameters() if not param.requires_grad],
    )


def _build(
    policy_class: type[ActorCriticPolicy],
    arguments: dict[str, Any],
    state: dict[str, Any],
    optimizer_state: dict[str, Any],
    device: th.device,
    training: bool,
    frozen: list[str],
) -> ActorCriticPolicy:
    with _untouched_generators(device):
        policy = policy_class(**arguments).to(device)
    policy.load_state_dict(state)
    policy.optimizer.load_state_dict(pickle.loads(_dump(optimizer_state)))  # it would keep our tensors
    policy.set_training_mode(training)
    for name in frozen:
        policy.get_parameter(name).requires_grad_(False)
    return policy


def _build_from(content: bytes) -> ActorCriticPolicy:
    return _build(*pickle.loads(content))


@contextmanager
def _untouched_generators(device: th.device) -> Iterator[None]:
    """A policy draws its first parameters at random; nobody else's random numbers depend on that."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with th.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _explained(policy: ActorCriticPolicy, error: Exception) -> Iterator[None]:
    """Say of a policy that can't be built again which part of it can't be pickled, and why."""
    try:
        yield
    except Exception as second:
        raise CannotCopyPolicy(
            f"The policy, a {type(policy).__name__}, can't be copied for the workers. {_culprit(policy)} can't be pickled "
            f"({type(error).__name__}: {error}), and the policy can't be built again from its _get_constructor_parameters() "
            f"and its state_dict() ({type(second).__name__}: {second})."
        ) from second


def _culprit(policy: ActorCriticPolicy) -> str:
    """The innermost part of a policy that can't be pickled."""
    for path, module in reversed(list(policy.named_modules(prefix="policy"))):
        for name, value in vars(module).items():
            if name != "_modules" and not _can_be_pickled(value):
                return f"{path}.{name}"
    return "It"


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.loads(_dump(value))
    except Exception:
        return False
    return True

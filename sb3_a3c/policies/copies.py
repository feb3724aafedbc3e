"""
Copies of a policy, in this process or for another one.

Policies are pickled with cloudpickle. torch can't pickle parametrized modules (``torch.nn.utils.parametrizations``), so these
are pickled in parts. A policy that can't be pickled is built anew from its constructor's parameters and its state dict, as SB3
does when it loads a model.
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

from sb3_a3c.policies.hooks import module_hooks, own_hooks
from sb3_a3c.policies.recurrent_states import constructor_arguments, is_recurrent


class CannotCopyPolicy(TypeError):
    """A policy can be neither pickled nor built anew."""


def clone_policy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """
    Clone a policy with its parameters, buffers and optimizer. (``copy.deepcopy`` fails after a policy has learned, and with
    gSDE, because the policy then holds tensors of a graph. Building a new one would lose later changes of the policy.)

    :param policy: The policy to clone
    :return: The clone. It shares only hooks of its modules with the original, and not those that refer to a module
    :raises CannotCopyPolicy: if it can't be cloned
    """
    try:
        own = set(map(id, own_hooks(policy)))
        hooks = [hook for hook in module_hooks(policy) if id(hook) not in own]
        return IndexUnpickler(_dump(policy, hooks), hooks).load()
    except Exception as error:
        with _explained(policy, error):
            return _build(_plan_of(policy))


def reduce_policy(policy: ActorCriticPolicy) -> tuple[Callable[..., ActorCriticPolicy], tuple[Any, ...]]:
    """
    :param policy: A policy to send to another process
    :return: A function that makes an equal policy there, and its arguments, as ``__reduce__`` returns them
    :raises CannotCopyPolicy: if it can't be copied
    """
    try:
        return pickle.loads, (_dump(policy),)
    except Exception as error:
        with _explained(policy, error):
            content = _dump(_plan_of(policy))
            _build_from(content)  # so that an error is raised here, not in the other process
            return _build_from, (content,)


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, hooks: Sequence[Callable]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._indices = {id(hook): index for index, hook in enumerate(hooks)}

    def persistent_id(self, obj: Any) -> int | None:
        """Hooks are not copied: they may log, or refer to objects that can't be pickled."""
        return self._indices.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        """torch replaces the class of a parametrized module by one that can't be pickled."""
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            names = list(obj.parametrizations)  # type: ignore[arg-type]
            shell = _parametrized_shell, (parametrize.type_before_parametrizations(obj), names)
            return *shell, vars(obj), None, None, _set_state
        return super().reducer_override(obj)


class IndexUnpickler(pickle.Unpickler):
    """
    :param content: What was pickled with indices in place of some objects
    :param objects: Objects for these indices
    """

    def __init__(self, content: bytes, objects: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._objects = objects

    def persistent_load(self, index: int) -> Any:
        """The object with an index."""
        return self._objects[index]


def _dump(content: Any, hooks: Sequence[Callable] = ()) -> bytes:
    file = io.BytesIO()
    _Pickler(file, hooks).dump(content)
    return file.getvalue()


def _parametrized_shell(module_class: type[nn.Module], names: list[str]) -> nn.Module:
    """A parametrized module without its state."""
    module = module_class.__new__(module_class)
    nn.Module.__init__(module)
    for name in names:
        module.register_parameter(name, nn.Parameter(th.empty(0)))
        parametrize.register_parametrization(module, name, nn.Identity())
    return module


def _set_state(module: nn.Module, state: dict[str, Any]) -> None:
    module.__dict__.update(state)


class _Plan(NamedTuple):
    """Everything needed to build a policy anew."""

    policy_class: type[ActorCriticPolicy]
    arguments: dict[str, Any]
    state: dict[str, Any]
    optimizer_state: dict[str, Any]
    device: th.device
    training: bool
    frozen: list[str]


def _plan_of(policy: ActorCriticPolicy) -> _Plan:
    arguments = policy._get_constructor_parameters()
    if not policy.share_features_extractor:  # SB3 omits it
        arguments["share_features_extractor"] = False
    if is_recurrent(policy):
        arguments |= constructor_arguments(policy)
    return _Plan(
        type(policy),
        arguments,
        policy.state_dict(),
        policy.optimizer.state_dict(),
        policy.device,
        policy.training,
        [name for name, param in policy.named_parameters() if not param.requires_grad],
    )


def _build(plan: _Plan) -> ActorCriticPolicy:
    with _untouched_generators(plan.device):
        policy = plan.policy_class(**plan.arguments).to(plan.device)
    policy.load_state_dict(plan.state)
    policy.optimizer.load_state_dict(pickle.loads(_dump(plan.optimizer_state)))  # a copy, because it keeps these tensors
    policy.set_training_mode(plan.training)
    for name in plan.frozen:
        policy.get_parameter(name).requires_grad_(False)
    return policy


def _build_from(content: bytes) -> ActorCriticPolicy:
    return _build(pickle.loads(content))


@contextmanager
def _untouched_generators(device: th.device) -> Iterator[None]:
    """Restore the random generators, which building a policy uses."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with th.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _explained(policy: ActorCriticPolicy, error: Exception) -> Iterator[None]:
    """Raise an error that names the part of the policy that can't be pickled."""
    try:
        yield
    except Exception as second:
        raise CannotCopyPolicy(
            f"The policy, a {type(policy).__name__}, can't be copied for the workers. {_culprit(policy)} can't be pickled "
            f"({type(error).__name__}: {error}), and the policy can't be built anew from its _get_constructor_parameters() "
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

"""
Which optimizer steps the shared vector: a flat one if the policy's optimizer computes each element on its own, which is
tried, and its step has no hooks; and otherwise the policy's optimizer with one tensor per parameter.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.parameters.flat_optimizer import FlatOptimizer, Run, State, bare_step, stand_in
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.policies.hooks import step_hooks
from sb3_a3c.system.memory import Memory, as_tensor


class WholeOptimizer:
    """
    An optimizer that is stepped with one tensor per parameter. It keeps its statistics itself and steps one vector in place.
    Two workers must not step it at the same time. See :class:`FlatOptimizer` for methods with the same name.

    :param policy: The policy whose optimizer it is
    :param layout: The positions of parameters in the vector
    :param vector: The vector that it steps
    """

    compiled = False
    makes_numbers = True

    def __init__(self, policy: ActorCriticPolicy, layout: Layout, vector: th.Tensor) -> None:
        self.torch_class = type(policy.optimizer)
        self.layout = layout
        self._views = layout.views(vector)
        self._optimizer = stand_in(policy.optimizer, [])
        self._step = self._optimizer.step if step_hooks(self._optimizer) else partial(bare_step, self._optimizer)
        self.use(policy)

    def use(self, policy: ActorCriticPolicy) -> None:
        """
        Continue with the options of a policy's optimizer.

        :param policy: The policy that was laid out
        """
        view_of = dict(zip(self.layout.parameters(policy), self._views, strict=True))
        self._optimizer.param_groups = [
            {**group, "params": [view_of.get(param, param.detach()) for param in group["params"]]}
            for group in policy.optimizer.param_groups
        ]

    @property
    def options(self) -> list[dict[str, Any]]:
        """Its ``param_groups``."""
        return self._optimizer.param_groups

    def new_state(self, vector: th.Tensor) -> State:
        """The parameters alone."""
        return State([Memory(vector)], Memory(th.zeros(0, device="cpu")), Memory(th.zeros(1, device="cpu")))

    def plan(self, old: State, new: State, without_gradient: Sequence[int] = ()) -> list[Run]:
        """One run per parameter. The optimizer counts its steps itself."""
        places = enumerate(zip(self.layout.slices, self.layout.rates, strict=True))
        return [
            Run(slice(index, index + 1), where, rate, None if index in without_gradient else 0, ())
            for index, (where, rate) in places
        ]

    def step(self, runs: Sequence[Run], old: State, new: State, gradient: Vector, learning_rates: Sequence[float]) -> None:
        """Step once per learning rate. Parameters with the other one have no gradient meanwhile."""
        gradients = self.layout.views(as_tensor(gradient))
        for rate in sorted(set(self.layout.rates)):
            for run, param, grad in zip(runs, self._views, gradients, strict=True):
                param.grad = grad if run.group is not None and run.rate == rate else None
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rates[rate]
            self._step()

    def load(self, policy: ActorCriticPolicy, state: State) -> None:
        """Read the statistics of a policy's optimizer."""
        self._optimizer.load_state_dict(deepcopy(policy.optimizer.state_dict()))  # it would keep the policy's tensors

    def save(self, policy: ActorCriticPolicy) -> None:
        """
        Write the statistics into a policy's optimizer.

        :param policy: The policy that was laid out
        """
        policy.optimizer.load_state_dict(deepcopy(self._optimizer.state_dict()))


def make_optimizer(
    policy: ActorCriticPolicy, vector: th.Tensor, layout: Layout, compiled: bool = False
) -> FlatOptimizer | WholeOptimizer:
    """
    :param policy: The policy whose optimizer is to step the vector
    :param vector: That vector, of shape ``(size,)``
    :param layout: The positions of parameters in the vector
    :param compiled: Whether to use a compiled step, if there is one
    :return: An optimizer that does what the policy's own does
    """
    states = policy.optimizer.state
    entries = [states[param] for param in layout.parameters(policy) if param in states]
    if not step_hooks(policy.optimizer):  # they are called with one tensor per parameter
        kept = kept_of_vectors(policy.optimizer, vector)
        if kept is not None and all(set(entry) == set(kept) for entry in entries if entry):
            return FlatOptimizer(policy, layout, kept, compiled)
    return WholeOptimizer(policy, layout, vector)


def kept_of_vectors(optimizer: th.optim.Optimizer, like: th.Tensor) -> dict[str, Any] | None:
    """
    :param optimizer: An optimizer. It is left as it is
    :param like: A tensor of the type of its parameters
    :return: An example of what it keeps of a vector. None if it does not step a vector exactly as the vector's pieces
    """
    # Numbers are tried on this device too, even if torch's default device is another one.
    with th.random.fork_rng([like.device] if like.device.type == "cuda" else []), like.device:
        try:
            first, *others = [_try(optimizer, group, like) for group in optimizer.param_groups]
        except Exception:  # whatever an optimizer raises that needs more than gradients
            return None
    return first if all(first is not None and other is not None and [*first] == [*other] for other in others) else None


def _try(optimizer: th.optim.Optimizer, group: Mapping[str, Any], like: th.Tensor) -> dict[str, Any] | None:
    whole, *gradients = (like.new_empty(22).normal_(std=std) for std in (1.0, 1.0, 100.0, 0.01))
    pieces = [whole[:15].reshape(3, 5).clone(), whole[15:].clone()]
    groups = [{**group, "params": params, "lr": 1e-3} for params in ([whole], pieces)]
    stand_ins = [stand_in(optimizer, [dict(each)]) for each in groups]
    for gradient in gradients:
        for each in stand_ins:
            params = each.param_groups[0]["params"]
            for param, grad in zip(params, gradient.split([param.numel() for param in params]), strict=True):
                param.grad = grad.reshape(param.shape)
            bare_step(each)
    kept, of_pieces = stand_ins[0].state[whole], [stand_ins[1].state[piece] for piece in pieces]
    values = [(whole, pieces), *((kept[name], [each[name] for each in of_pieces]) for name in kept)]
    is_alike = all(_consists_of(value, parts) for value, parts in values)
    own = {name: value for name, value in vars(optimizer).items() if name not in ("state", "step", "param_groups")}
    is_stateless = all(
        vars(each) == {**own, "param_groups": [one], "state": each.state} for each, one in zip(stand_ins, groups, strict=True)
    )
    return dict(kept) if is_alike and is_stateless else None


def _consists_of(value: Any, parts: Sequence[Any]) -> bool:
    """Whether a vector consists of these parts, or a number equals each of these numbers."""
    joined = th.cat([th.as_tensor(part).reshape(-1) for part in parts])
    return th.equal(th.as_tensor(value).expand_as(joined), joined)

"""Synchronization of the policy that callbacks see with the shared parameters, in both directions."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import update_learning_rate

from sb3_a3c.parameters.layout import Vector
from sb3_a3c.parameters.optimizers import FlatOptimizer, without_views
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.worker.errors import NonFiniteError


class PolicySync:
    """
    While it is open, the policy's parameters and its optimizer's statistics are views of vectors, so that one copy brings all
    of them up to date. It must be closed in the end: then they become tensors of their own again.

    :param policy: The policy that was laid out
    :param parameters: The shared parameters
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: SharedParameters) -> None:
        self._policy = policy
        self._parameters = parameters
        self._params = parameters.layout.parameters(policy)
        self._vector = parameters.layout.gather(policy)
        self._seen = self._vector.clone()
        self._statistics = [th.empty_like(self._vector) for _ in getattr(parameters.optimizer, "initial", ())]
        self._seen_statistics = [statistic.clone() for statistic in self._statistics]
        self._read_states()
        self._options = _options_of(policy.optimizer)
        #: Where the modules have their buffers: listing them takes far longer than reading them.
        homes = [(module._buffers, name) for module in policy.modules() for name in module._buffers]
        self._homes = list({id(home[name]): (home, name) for home, name in homes if home[name] is not None}.values())
        self._buffers = self._read_buffers()
        self._seen_buffers = [buffer.clone() for buffer in self._buffers]
        self._gradient: Vector | None = None
        self._gradient_views: list[th.Tensor] = []
        #: False while values are copied. If that is interrupted, what differs is no change of a callback's.
        self._in_sync = True

    def open(self) -> None:
        """Make the policy's parameters views. If that is interrupted, :meth:`close` undoes what was done."""
        self._bind()

    def absorb(self) -> None:
        """
        Add what a callback has changed in the policy, its buffers or its optimizer to the shared parameters.

        :raises NonFiniteError: if a callback has set a parameter to NaN or infinity
        """
        if not self._in_sync:
            return
        self._check_options()
        bound = [param.data_ptr() for param in self._params] == self._pointers
        vector = self._vector if bound else self._parameters.layout.gather(self._policy)
        buffers = self._read_buffers()
        with_statistics = self._has_other_statistics()
        if with_statistics or not th.equal(vector, self._seen) or not all(map(th.equal, buffers, self._seen_buffers)):
            self._check_finite(vector)
            self._in_sync = False
            self._parameters.write(self._policy, self._seen, self._seen_buffers, with_statistics)
            self._seen.copy_(vector)
            for seen, buffer in zip(self._seen_buffers, buffers, strict=True):
                seen.copy_(buffer)
            if with_statistics:
                self._read_states()
            self._in_sync = True
        if not bound:
            self._vector.copy_(vector)
        if not bound or any(map(_is_not, buffers, self._buffers)):
            self._bind()

    def refresh(self, learning_rate: float | None) -> None:
        """
        Bring the policy and its optimizer up to date. What a callback has changed in them must have been absorbed.

        :param learning_rate: The learning rate that the optimizer is to show, None: the one that it shows now
        """
        self._in_sync = False
        optimizer = self._parameters.optimizer
        if isinstance(optimizer, FlatOptimizer):
            n_steps = self._parameters.read(self._vector, self._buffers, self._statistics)
            self._show_statistics(optimizer, n_steps)
        else:
            self._parameters.save(self._policy)
            self._seen_state = _copy_of(self._policy.optimizer.state)
        self._seen.copy_(self._vector)
        for copies, originals in ((self._seen_statistics, self._statistics), (self._seen_buffers, self._buffers)):
            for copy, original in zip(copies, originals, strict=True):
                copy.copy_(original)
        self._in_sync = True
        if learning_rate is not None:
            update_learning_rate(self._policy.optimizer, learning_rate)

    def show_gradient(self, gradient: Vector, without_gradient: Collection[int]) -> None:
        """
        Let the policy's parameters have a gradient, as A2C's have that of the last update.

        :param gradient: The gradient, of shape ``(size,)``
        :param without_gradient: Indices of the parameters that have none
        """
        if gradient is not self._gradient:
            self._gradient, self._gradient_views = gradient, self._parameters.layout.views(th.as_tensor(gradient))
        for index, (param, view) in enumerate(zip(self._params, self._gradient_views, strict=True)):
            param.grad = None if index in without_gradient else view

    def close(self) -> None:
        """Let go of the policy."""
        for param in self._params:
            param.data = param.data.clone()
        for state in self._states:
            if state is not None:
                state.update(without_views(state))

    def _bind(self) -> None:
        self._parameters.layout.bind(self._policy, self._vector)
        self._pointers = [param.data_ptr() for param in self._params]
        self._buffers = self._read_buffers()

    def _read_buffers(self) -> list[th.Tensor]:
        return [home[name] for home, name in self._homes]  # type: ignore[misc]

    def _read_states(self) -> None:
        """Remember what the policy's optimizer has of each parameter, which is no view of our statistics."""
        state = self._policy.optimizer.state
        self._states: list[dict[str, Any] | None] = [state.get(param) for param in self._params]
        self._identities = list(map(id, state.values()))
        self._shown = False
        self._seen_state = _copy_of(state)

    def _has_other_statistics(self) -> bool:
        """Whether somebody else has written to the optimizer's state, or has put another in its place."""
        state = self._policy.optimizer.state
        if not isinstance(self._parameters.optimizer, FlatOptimizer):
            return not _is_equal(state, self._seen_state)
        if list(map(id, state.values())) != self._identities:  # looking parameters up would take ten times as long
            return True
        return self._shown and not all(map(th.equal, self._statistics, self._seen_statistics))

    def _show_statistics(self, optimizer: FlatOptimizer, n_steps: list[int]) -> None:
        if not self._shown or [state is not None for state in self._states] != [n > 0 for n in n_steps]:
            self._states = optimizer.states(self._statistics, n_steps)
            optimizer.show(self._policy, self._states)
            self._identities = list(map(id, self._policy.optimizer.state.values()))
            self._shown = True
        for state, n in zip(self._states, n_steps, strict=True):
            if state is not None and isinstance(state["step"], th.Tensor):
                state["step"].fill_(n)
            elif state is not None:
                state["step"] = n

    def _check_finite(self, vector: th.Tensor) -> None:
        layout = self._parameters.layout
        for name, view in zip(layout.names, layout.views(vector), strict=True):
            if not view.isfinite().all():
                value = view[~view.isfinite()][0].item()
                raise NonFiniteError(f"parameter {name} must be finite, but a callback has set it to {value}")

    def _check_options(self) -> None:
        options = _options_of(self._policy.optimizer)
        if options != self._options:
            self._options = options
            if self._parameters.set_options(self._policy.optimizer):
                return
            name, groups = options
            warnings.warn(
                f"a callback has changed the policy's optimizer to {name} with the options {groups}. The workers go on with "
                "the one that learn() began with. The next learn() begins with this one",
                stacklevel=2,
            )


def _options_of(optimizer: th.optim.Optimizer) -> tuple[str, list[dict[str, Any]]]:
    groups = optimizer.param_groups
    options = [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in groups]
    return type(optimizer).__name__, options


def _is_not(one: Any, other: Any) -> bool:
    return one is not other


def _copy_of(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy_of(entry) for key, entry in value.items()}
    return value.clone() if isinstance(value, th.Tensor) else value


def _is_equal(value: Any, copy: Any) -> bool:
    if isinstance(value, Mapping):
        return value.keys() == copy.keys() and all(_is_equal(entry, copy[key]) for key, entry in value.items())
    if isinstance(value, th.Tensor):
        return isinstance(copy, th.Tensor) and value.shape == copy.shape and th.equal(value, copy)
    return value is copy or value == copy

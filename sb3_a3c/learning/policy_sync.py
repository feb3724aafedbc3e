"""Synchronization of the policy that callbacks see with the shared parameters, in both directions."""

import warnings
from collections.abc import Collection, Mapping
from operator import is_not
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import update_learning_rate

from sb3_a3c.parameters.flat_optimizer import FlatOptimizer
from sb3_a3c.parameters.layout import Vector
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.policies.hooks import step_hooks
from sb3_a3c.system.memory import as_tensor
from sb3_a3c.worker.errors import NonFiniteError


class PolicySync:
    """
    While it is open, the policy's parameters and its optimizer's statistics are views of vectors, so that one copy brings all
    of them up to date. :meth:`close` makes them separate tensors again.

    :param policy: The policy that was laid out
    :param parameters: The shared parameters
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: SharedParameters) -> None:
        self._policy = policy
        self._parameters = parameters
        self._params = parameters.layout.parameters(policy)
        self._originals = [param.data for param in self._params]
        self._state, self._seen = (parameters.optimizer.new_state(parameters.layout.gather(policy)) for _ in range(2))
        self._vector = self._state.vectors[0].tensor
        self._read_entries()
        self._options = _options_of(policy.optimizer)
        #: Where modules keep their buffers, because listing them takes far longer than reading them.
        homes = [(module._buffers, name) for module in policy.modules() for name in module._buffers]
        self._homes = list({id(home[name]): (home, name) for home, name in homes if home[name] is not None}.values())
        self._buffers = self._read_buffers()
        self._seen_buffers = [buffer.clone() for buffer in self._buffers]
        self._gradient: Vector | None = None
        self._gradient_views: list[th.Tensor] = []
        #: False while values are copied. If that is interrupted, a difference is not a callback's change.
        self._in_sync = True

    def open(self) -> None:
        """Make the policy's parameters views. May be called again. If it is interrupted, :meth:`close` undoes it."""
        self._parameters.layout.bind(self._policy, self._vector)
        self._pointers = [param.data_ptr() for param in self._params]
        self._buffers = self._read_buffers()

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
        seen = self._seen.vectors[0].tensor
        same = self._state.vectors[0].equals(self._seen.vectors[0]) if bound else th.equal(vector, seen)
        buffers = self._read_buffers()
        with_statistics = self._has_other_statistics()
        if with_statistics or not same or not all(map(th.equal, buffers, self._seen_buffers)):
            self._check_finite(vector)
            self._in_sync = False
            self._parameters.write(self._policy, seen, self._seen_buffers, with_statistics)
            seen.copy_(vector)
            for seen_buffer, buffer in zip(self._seen_buffers, buffers, strict=True):
                seen_buffer.copy_(buffer)
            if with_statistics:
                self._read_entries()
            self._in_sync = True
        if not bound:
            self._vector.copy_(vector)
        if not bound or any(map(is_not, buffers, self._buffers)):
            self.open()

    def refresh(self, learning_rate: float | None) -> None:
        """
        Bring the policy and its optimizer up to date. Changes of callbacks must have been absorbed.

        :param learning_rate: The learning rate that the optimizer is to show, None: the one that it shows now
        """
        self._in_sync = False
        self._parameters.read(self._state, self._buffers, self._policy)
        self._seen.copy_from(self._state)
        for seen, buffer in zip(self._seen_buffers, self._buffers, strict=True):
            seen.copy_(buffer)
        if isinstance(self._parameters.optimizer, FlatOptimizer):
            self._show_statistics(self._parameters.optimizer)
        else:
            self._seen_entries = _copy_of(self._policy.optimizer.state)
        self._in_sync = True
        if learning_rate is not None:
            update_learning_rate(self._policy.optimizer, learning_rate)

    def show_gradient(self, gradient: Vector, without_gradient: Collection[int]) -> None:
        """
        Give the policy's parameters the gradient of the last update, as A2C's have it.

        :param gradient: The gradient, of shape ``(size,)``
        :param without_gradient: Indices of the parameters that have none
        """
        if gradient is not self._gradient:
            self._gradient, self._gradient_views = gradient, self._parameters.layout.views(as_tensor(gradient))
        for index, (param, view) in enumerate(zip(self._params, self._gradient_views, strict=True)):
            param.grad = None if index in without_gradient else view

    def close(self) -> None:
        """Make the policy's parameters and its optimizer's statistics separate tensors."""
        for param, original in zip(self._params, self._originals, strict=True):
            # The tensors from before the run, which may be in shared memory or part of another one.
            param.data = original.copy_(param.data) if original.shape == param.shape else param.data.clone()
        for entry in self._entries:
            if entry is not None:
                entry.update(_copy_of(entry))

    def _read_buffers(self) -> list[th.Tensor]:
        return [home[name] for home, name in self._homes]  # type: ignore[misc]

    def _read_entries(self) -> None:
        """Remember what the policy's optimizer keeps of each parameter, which is no view of our vectors."""
        state = self._policy.optimizer.state
        self._entries: list[dict[str, Any] | None] = [state.get(param) for param in self._params]
        self._identities = list(map(id, state.values()))
        self._shown = False
        self._seen_entries = _copy_of(state)

    def _has_other_statistics(self) -> bool:
        """Whether a callback has written to the optimizer's state or replaced it."""
        state = self._policy.optimizer.state
        if not isinstance(self._parameters.optimizer, FlatOptimizer):
            return not _is_equal(state, self._seen_entries)
        if list(map(id, state.values())) != self._identities:  # looking parameters up would take ten times as long
            return True
        pairs = zip(self._state.vectors[1:], self._seen.vectors[1:], strict=True)
        return self._shown and not all(memory.equals(seen) for memory, seen in pairs)

    def _show_statistics(self, optimizer: FlatOptimizer) -> None:
        counts = self._state.numbers.array[0].tolist()
        if self._shown and [entry is not None for entry in self._entries] == [bool(optimizer.kept and n) for n in counts]:
            optimizer.update_numbers(self._entries, self._state)
            return
        self._entries, state = optimizer.entries(self._state), self._policy.optimizer.state
        for param, entry in zip(self._params, self._entries, strict=True):
            if entry is not None:
                state[param] = entry
            else:
                state.pop(param, None)
        self._identities = list(map(id, state.values()))
        self._shown = True

    def _check_finite(self, vector: th.Tensor) -> None:
        layout = self._parameters.layout
        for name, view in zip(layout.names, layout.views(vector), strict=True):
            if not view.isfinite().all():
                value = view[~view.isfinite()][0].item()
                self.open()  # the next refresh replaces what the callback has set
                raise NonFiniteError(f"parameter {name} must be finite, but a callback has set it to {value}")

    def _check_options(self) -> None:
        options = _options_of(self._policy.optimizer)
        if options != self._options:
            self._options = options
            if self._parameters.set_options(self._policy):
                return
            name, groups = options
            warnings.warn(
                f"a callback has changed the policy's optimizer to {name} with the options {groups}. The workers continue "
                "with the one that learn() started with. The next learn() starts with this one",
                stacklevel=2,
            )


def _options_of(optimizer: th.optim.Optimizer) -> tuple[str, list[Any]]:
    groups = optimizer.param_groups
    options = [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in groups]
    return type(optimizer).__name__, [*options, *step_hooks(optimizer)]


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

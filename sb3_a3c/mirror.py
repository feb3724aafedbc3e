"""The policy that callbacks see, kept equal to the shared parameters."""

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import update_learning_rate

from sb3_a3c.optimizers import FlatOptimizer, without_views
from sb3_a3c.parameters import SharedParameters


class Mirror:
    """
    While it lasts, the policy's parameters and its optimizer's statistics are views of vectors, so that one copy brings
    all of them up to date. To be closed in the end, when they become tensors of their own again.

    :param policy: The policy that was laid out
    :param parameters: The shared parameters
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: SharedParameters) -> None:
        self._policy = policy
        self._parameters = parameters
        self._params = parameters.layout.parameters(policy)
        self._states: list[dict[str, Any]] = []

    def open(self) -> None:
        """Make the policy's parameters views. If that is interrupted, :meth:`close` undoes what was done."""
        self._bind()

    def refresh(self, learning_rate: float | None) -> None:
        """
        Bring the policy up to date; or, where a callback has changed it meanwhile (``set_parameters``, say), the shared
        parameters.

        :param learning_rate: What the optimizer shows, None: what it did
        """
        if not (self._is_bound() and th.equal(self._vector, self._seen)):
            self._parameters.load(self._policy)
            self._bind()
        if isinstance(self._parameters.optimizer, FlatOptimizer):
            n_steps = self._parameters.read(self._vector, self._buffers, self._statistics)
            if n_steps > 0:
                self._show_statistics(self._parameters.optimizer, n_steps)
        else:
            self._parameters.save(self._policy)
        self._seen.copy_(self._vector)
        if learning_rate is not None:
            update_learning_rate(self._policy.optimizer, learning_rate)

    def close(self) -> None:
        """Let go of the policy."""
        for param in self._params:
            param.data = param.data.clone()
        for state in self._states:
            state.update(without_views(state))

    def _bind(self) -> None:
        layout = self._parameters.layout
        self._vector = layout.gather(self._policy)
        self._seen = self._vector.clone()
        layout.bind(self._policy, self._vector)
        self._buffers = list(self._policy.buffers())
        self._pointers = [param.data_ptr() for param in self._params]
        self._statistics = [th.empty_like(self._vector) for _ in getattr(self._parameters.optimizer, "initial", ())]
        self._states = []

    def _is_bound(self) -> bool:
        return [param.data_ptr() for param in self._params] == self._pointers

    def _show_statistics(self, optimizer: FlatOptimizer, n_steps: int) -> None:
        optimizer_state = self._policy.optimizer.state
        if not self._states or any(
            optimizer_state.get(param) is not state for param, state in zip(self._params, self._states, strict=True)
        ):
            self._states = optimizer.states(self._statistics, n_steps)
            optimizer_state.update(zip(self._params, self._states, strict=True))
        for state in self._states:
            if isinstance(state["step"], th.Tensor):
                state["step"].fill_(n_steps)
            else:
                state["step"] = n_steps

"""The recurrent part of a policy in the fused engine: the hidden states of one worker, and what LSTMs compute in a rollout."""

from collections.abc import Sequence

import numpy as np

from sb3_a3c.engines.encoders import Encoders
from sb3_a3c.kernels.recurrent import encode, encoders_gradient


class Recurrence:
    """
    Turns observations into the inputs of actor and critic, which are of shape ``(n_rows, n_encoders * n_hidden)`` for the
    kernels: the actor's inputs of all rows come first, then the critic's.

    :param encoders: What to compute
    :param params: The parameters, ``(size,)``
    """

    def __init__(self, encoders: Encoders, params: np.ndarray) -> None:
        self._encoders = encoders
        self._params = params
        self._workspace = np.zeros(0, dtype=np.float32)
        #: The present states, ``(n_lstms, n_layers, 2, n_envs, n_hidden)``. None: they begin anew.
        self._now: np.ndarray | None = None
        self._rollout = _Steps(encoders, 0, 0)
        self._observations: np.ndarray
        #: Number of steps of this rollout.
        self._n_steps = 0

    @property
    def state(self) -> np.ndarray | None:
        """
        The present states, see :mod:`~sb3_a3c.policies.recurrent_states`. None: they begin anew. They can be set before the
        first step of a rollout.
        """
        return None if self._now is None else _as_state(self._now)

    @state.setter
    def state(self, state: np.ndarray | None) -> None:
        self._now = None
        if state is not None:
            self._now = np.array(state.transpose(1, 3, 2, 0, 4)[: self._encoders.n_lstms], dtype=np.float32)

    def start_rollout(self, n_steps: int, n_envs: int) -> None:
        """
        Begin a rollout with the present states.

        :param n_steps: Its number of steps
        :param n_envs: Number of environments
        """
        if self._rollout.starts.shape != (n_steps, n_envs):
            self._rollout = _Steps(self._encoders, n_steps, n_envs)
            self._workspace = np.zeros(self._encoders.workspace_size(n_steps, n_envs), dtype=np.float32)
        self._n_steps = 0

    def step(self, observations: np.ndarray, episode_starts: np.ndarray) -> tuple[int, np.ndarray]:
        """
        Compute the next step of the rollout.

        :param observations: Those of the rollout up to this step, ``(n_steps, n_envs, n_obs)``
        :param episode_starts: Whether episodes start with the last of them, ``(n_envs,)``
        :return: The first environment whose observation is outside of its space, or -1; the inputs of all steps,
            ``(n_steps, n_envs, n_encoders * n_hidden)``
        """
        rollout, step = self._rollout, self._n_steps
        if step == 0:
            rollout.states[:, :, :, 0] = 0 if self._now is None else self._now
        self._observations, rollout.starts[step] = observations, episode_starts
        trouble = self._encode(rollout, observations, step, step + 1, 0, self._workspace)
        self._n_steps = step + 1
        self._now = rollout.states[:, :, :, step + 1]
        return trouble, rollout.inputs_of_envs

    def states(self) -> np.ndarray:
        """
        :return: The states after each step of this rollout, ``(n_steps, n_envs, ...)``
        """
        return np.stack([_as_state(self._rollout.states[:, :, :, step + 1]) for step in range(self._n_steps)])

    def critic_inputs(
        self, observations: np.ndarray, episode_starts: np.ndarray | None, env_indices: Sequence[int] | slice
    ) -> tuple[int, np.ndarray]:
        """
        Compute the critic's inputs, without any effect on the present states.

        :param observations: ``(n, n_obs)``
        :param episode_starts: Whether episodes start with them, ``(n,)``. None: none does
        :param env_indices: The environments that they are of
        :return: The first row whose observation is outside of its space, or -1; the inputs ``(n, n_encoders * n_hidden)``, of
            which only the critic's are valid
        """
        encoders, n = self._encoders, len(observations)
        steps = _Steps(encoders, 1, n)
        steps.states[:, :, :, 0] = 0 if self._now is None else self._now[:, :, :, env_indices]
        steps.starts[0] = 0 if episode_starts is None else episode_starts
        workspace = np.empty(encoders.workspace_size(1, n), dtype=np.float32)
        trouble = self._encode(steps, observations[None], 0, 1, encoders.n_encoders - 1, workspace)
        return trouble, steps.inputs_of_envs[0]

    def evaluate(self, observations: np.ndarray, episode_starts: np.ndarray) -> None:
        """
        Compute all steps of the rollout again, without any effect on the present states.

        :param observations: ``(n_steps, n_envs, n_obs)``
        :param episode_starts: Whether episodes start with a step, ``(n_steps, n_envs)``
        """
        rollout = self._rollout
        assert episode_starts.shape == rollout.starts.shape
        if self._n_steps == 0:
            rollout.states[:, :, :, 0] = 0 if self._now is None else self._now
        elif self._now is not None:
            self._now = self._now.copy()  # it is in the array that is written to
        self._observations, rollout.starts[:] = observations, episode_starts
        self._encode(rollout, observations, 0, len(episode_starts), 0, self._workspace)

    def inputs(self) -> np.ndarray:
        """
        :return: The inputs of the rollout, ``(n_encoders, n_steps, n_envs, n_hidden)``
        """
        return self._rollout.inputs.swapaxes(0, 1)

    def gradient(self, delta: np.ndarray, out: np.ndarray, max_grad_norm: float) -> bool:
        """
        Add the gradient of the encoders' parameters, and clip the whole gradient.

        :param delta: Overwritten: the gradient of what :meth:`inputs` has returned, flat
        :param out: Added to: the gradient, ``(size,)``
        :param max_grad_norm: The largest L2 norm
        :return: Whether the gradient is finite
        """
        table, rollout = self._encoders.table, self._rollout
        n_steps, n_encoders, n_envs, n_hidden = rollout.inputs.shape
        delta = delta.reshape(n_encoders, n_steps, n_envs, n_hidden)
        arrays = rollout.starts, rollout.states, rollout.gates
        return encoders_gradient(table, self._params, self._observations, *arrays, delta, self._workspace, out, max_grad_norm)

    def _encode(
        self, steps: "_Steps", observations: np.ndarray, first: int, end: int, first_encoder: int, workspace: np.ndarray
    ) -> int:
        arrays = steps.starts, steps.states, steps.gates, steps.inputs
        return encode(self._encoders.table, self._params, observations, *arrays, first, end, first_encoder, workspace)


class _Steps:
    """What the kernels compute of some steps, see :mod:`~sb3_a3c.kernels.recurrent`."""

    def __init__(self, encoders: Encoders, n_steps: int, n_envs: int) -> None:
        _, n_encoders, n_lstms, n_layers, n_hidden = encoders
        self.starts = np.zeros((n_steps, n_envs), dtype=np.float32)
        self.states = np.zeros((n_lstms, n_layers, 2, n_steps + 1, n_envs, n_hidden), dtype=np.float32)
        self.gates = np.zeros((n_lstms, n_layers, n_steps, n_envs, 4, n_hidden), dtype=np.float32)
        self.inputs = np.zeros((n_steps, n_encoders, n_envs, n_hidden), dtype=np.float32)
        self.inputs_of_envs = self.inputs.reshape(n_steps, n_envs, n_encoders * n_hidden)


def _as_state(states: np.ndarray) -> np.ndarray:
    """Convert states ``(n_lstms, n_layers, 2, n_envs, n_hidden)``. A critic without an LSTM has the actor's states."""
    both = states if len(states) == 2 else np.concatenate([states, states])
    return np.ascontiguousarray(both.transpose(3, 0, 2, 1, 4))

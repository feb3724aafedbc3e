"""The fused engine: the torch engine's arithmetic for standard MLP policies, a step or a gradient a call of a kernel."""

from contextlib import AbstractContextManager
from typing import NamedTuple, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

import sb3_a3c.engines.kernels as kernels
from sb3_a3c.engines.network import read_network
from sb3_a3c.engines.protocol import Action, Losses
from sb3_a3c.hyperparameters import Hyperparameters
from sb3_a3c.layout import Layout


class Segment(NamedTuple):
    """
    A rollout in arrays of float32, in which discrete actions and observations are numbers too. An observation is
    written to it before the action is asked for, and all rows up to the last, of what is observed at the end, before the
    gradient is.

    :param observations: Of shape ``(n_steps + 1, n_envs, n_obs)``
    :param actions: As sampled, of shape ``(n_steps, n_envs, n_actions)``
    :param clipped_actions: As the environments take them, of the same shape
    :param rewards: Of shape ``(n_steps, n_envs)``
    :param episode_starts: Of shape ``(n_steps + 1, n_envs)``
    :param values: Of shape ``(n_steps + 1, n_envs)``
    :param log_probs: Of shape ``(n_steps, n_envs)``
    :param advantages: Of shape ``(n_steps, n_envs)``
    :param returns: Of shape ``(n_steps, n_envs)``
    """

    observations: np.ndarray
    actions: np.ndarray
    clipped_actions: np.ndarray
    rewards: np.ndarray
    episode_starts: np.ndarray
    values: np.ndarray
    log_probs: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray

    @classmethod
    def new(cls, n_steps: int, n_envs: int, n_obs: int, n_actions: int) -> Self:
        """
        :param n_steps: Steps of the rollout
        :param n_envs: Environments whose steps it holds
        :param n_obs: Entries of an observation
        :param n_actions: Entries of an action
        :return: A segment of zeros
        """
        shape, longer = (n_steps, n_envs), (n_steps + 1, n_envs)
        shapes = [(*longer, n_obs), (*shape, n_actions), (*shape, n_actions), shape, longer, longer, shape, shape, shape]
        return cls(*(np.zeros(shape, dtype=np.float32) for shape in shapes))


_NONE = np.empty((0, 0), dtype=np.float32)


class FusedEngine:
    """
    Computes what :func:`~sb3_a3c.engines.network.why_not_fused` finds nothing against, see
    :class:`~sb3_a3c.engines.protocol.Engine`. Collectors that want no torch use :meth:`act_into` and
    :meth:`returns_and_gradient`, over a segment.

    :param policy: The policy to compute
    :param layout: Where each of its parameters lies in a vector
    :param action_space: The actions that the environments take
    :param turn: Not needed: the kernels keep the GIL, so that threads take turns anyway
    :param seed: Seed of the engine's own random generator; None: it is seeded by NumPy's
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        layout: Layout,
        action_space: spaces.Space,
        turn: AbstractContextManager,
        seed: np.random.SeedSequence | None,
    ) -> None:
        self.vector = layout.gather(policy)
        self.buffers: list[th.Tensor] = []
        self._observation_space = policy.observation_space
        self._action_space = action_space
        self._params = self.vector.numpy()
        self._network, self._limits = network = read_network(policy, layout)
        self._size_of_workspace = network.workspace_size
        self._workspace = np.zeros(0, dtype=np.float32)
        self._n_obs = int(self._network[kernels.N_OBS])
        self._n_actions = int(self._network[kernels.N_ACTIONS])
        if seed is None:
            seed = np.random.SeedSequence(np.random.randint(0, 2**32, size=4, dtype=np.uint32).tolist())
        #: The state of the random generator, of shape ``(4,)``; an engine that is given another's draws what that would.
        self.rng_state = seed.generate_state(4, np.uint64)
        self._hyperparameters: Hyperparameters

    def start_rollout(self, n_envs: int, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.start_rollout`."""
        self._hyperparameters = hyperparameters

    def act(self, obs: VecEnvObs, n_steps: int) -> Action:
        """See :meth:`Engine.act`."""
        assert isinstance(obs, np.ndarray)
        segment = self._one_step(obs)
        self.act_into(segment, 0)
        actions = clipped_actions = self.as_actions(segment.actions[0])
        if isinstance(self._action_space, spaces.Box):
            clipped_actions = self.as_actions(segment.clipped_actions[0])
        values, log_probs = th.from_numpy(segment.values[0, :, None]), th.from_numpy(segment.log_probs[0])
        obs_tensor = obs_as_tensor(obs, self.vector.device)  # type: ignore[arg-type]
        return Action(obs_tensor, actions, clipped_actions, values, log_probs)

    def predict_values(self, obs: VecEnvObs) -> th.Tensor:
        """See :meth:`Engine.predict_values`."""
        assert isinstance(obs, np.ndarray)
        observations = self._flat(obs)
        values = np.empty(len(observations), dtype=np.float32)
        stray = kernels.predict_values(
            self._network, self._limits, self._params, observations, values, self._room(len(observations))
        )
        self._check(stray, observations)
        return th.from_numpy(values[:, None])

    def predict_terminal_value(self, obs: VecEnvObs) -> th.Tensor:
        """See :meth:`Engine.predict_terminal_value`."""
        return self.predict_values(np.asarray(obs)[None])[0]

    def gradient(self, rollout_buffer: RolloutBuffer, out: th.Tensor) -> Losses:
        """See :meth:`Engine.gradient`."""
        n_steps, n_envs = rollout_buffer.rewards.shape
        hyperparameters = self._hyperparameters
        assert out.shape == self.vector.shape
        return Losses(
            *kernels.gradient(
                self._network,
                self._limits,
                self._params,
                _float32(rollout_buffer.observations, (n_steps, n_envs, self._n_obs)),
                _float32(rollout_buffer.actions, (n_steps, n_envs, self._n_actions)),
                _float32(rollout_buffer.advantages, (n_steps, n_envs)),
                _float32(rollout_buffer.returns, (n_steps, n_envs)),
                self._room(n_steps * n_envs),
                out.numpy(),
                float(hyperparameters.ent_coef),
                float(hyperparameters.vf_coef),
                float(hyperparameters.max_grad_norm),
                bool(hyperparameters.normalize_advantage),
            )
        )

    def new_segment(self, n_steps: int, n_envs: int) -> Segment:
        """
        :param n_steps: Steps of a rollout
        :param n_envs: Environments whose observations come together
        :return: A segment of zeros for it
        """
        self._room(n_steps * n_envs)
        return Segment.new(n_steps, n_envs, self._n_obs, self._n_actions)

    def act_into(self, segment: Segment, step: int) -> None:
        """
        Sample an action for each environment from ``segment.observations[step]``, and write it, as it is and clipped,
        with value and log probability, to the same row of the segment.

        :param segment: A segment of this engine
        :param step: Which of its steps
        :raises ValueError: if an observation is outside of its space, or what the policy says is not finite
        """
        trouble = kernels.act(
            self._network,
            self._limits,
            self._params,
            self.rng_state,
            segment.observations,
            segment.actions,
            segment.clipped_actions,
            segment.values,
            segment.log_probs,
            self._workspace,
            step,
        )
        if trouble >= 0:
            self._check(trouble, segment.observations[step])

    def returns_and_gradient(self, segment: Segment, gae_lambda: float, out: np.ndarray) -> Losses:
        """
        Values of the last observations, returns and advantages, and then as :meth:`gradient`.

        :param segment: A segment of this engine, full; values, advantages and returns are written
        :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
        :param out: Where the gradient is written, of shape ``(size,)``
        :return: The losses
        """
        hyperparameters = self._hyperparameters
        return Losses(
            *kernels.returns_and_gradient(
                self._network,
                self._limits,
                self._params,
                segment.observations,
                segment.actions,
                segment.rewards,
                segment.episode_starts,
                segment.values,
                segment.advantages,
                segment.returns,
                self._workspace,
                out,
                float(hyperparameters.gamma),
                float(gae_lambda),
                float(hyperparameters.ent_coef),
                float(hyperparameters.vf_coef),
                float(hyperparameters.max_grad_norm),
                bool(hyperparameters.normalize_advantage),
            )
        )

    def as_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: Actions in float32, of shape ``(n_envs, n_actions)``
        :return: The actions as the torch engine gives them, of shape ``(n_envs, *action_space.shape)``
        """
        if isinstance(self._action_space, spaces.Discrete | spaces.MultiDiscrete):
            actions = actions.astype(np.int64)
        return actions.reshape(len(actions), *self._action_space.shape)  # type: ignore[misc]

    def _one_step(self, obs: np.ndarray) -> Segment:
        """A segment of one step, of which there is only what :meth:`act_into` needs, with observations in it."""
        observations = self._flat(obs)[None]
        n_envs = observations.shape[1]
        self._room(n_envs)
        actions, clipped_actions = np.empty((2, 1, n_envs, self._n_actions), dtype=np.float32)
        values, log_probs = np.empty((2, 1, n_envs), dtype=np.float32)
        return Segment(observations, actions, clipped_actions, _NONE, _NONE, values, log_probs, _NONE, _NONE)

    def _check(self, trouble: int, observations: np.ndarray) -> None:
        if trouble < 0:
            return
        if trouble < len(observations):
            raise ValueError(f"the observation {observations[trouble]} is not in the space {self._observation_space}")
        observation = observations[trouble - len(observations)]
        raise ValueError(f"what the policy makes of the observation {observation} has nan or inf in it")

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        """Observations as a VecEnv gives them, as the kernels read them: a copy, of shape ``(n_envs, n_obs)``."""
        flat = np.empty((len(obs), self._n_obs), dtype=np.float32)
        flat[:] = obs.reshape(flat.shape)
        return flat

    def _room(self, n_rows: int) -> np.ndarray:
        size = self._size_of_workspace(n_rows)
        if self._workspace.size < size:
            self._workspace = np.zeros(size, dtype=np.float32)
        return self._workspace


def _float32(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """For the kernels there is but one type of array: float32, contiguous and writable."""
    return np.require(array, dtype=np.float32, requirements=["C", "W", "A"]).reshape(shape)

"""The fused engine: the torch engine's arithmetic for standard MLP policies, a step or a gradient a call of a kernel."""

import math
from contextlib import AbstractContextManager
from typing import NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

import sb3_a3c.kernels.network_table as fields
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.network import read_network
from sb3_a3c.engines.protocol import Action, Losses, add_to_buffer, stack
from sb3_a3c.kernels.acting import act, predict_values
from sb3_a3c.kernels.gradient import gradient
from sb3_a3c.kernels.returns import returns
from sb3_a3c.kernels.state_dependent_noise import draw_noise
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.policies.hooks import GradientRules


class FusedEngine:
    """
    Computes what :func:`~sb3_a3c.engines.network.why_not_fused` finds nothing against, see
    :class:`~sb3_a3c.engines.protocol.Engine`.

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
        self._layout = layout
        self.buffers: list[th.Tensor] = []
        self._observation_space = policy.observation_space
        assert action_space.shape is not None
        self._action_shape = action_space.shape
        self._params = self.vector.numpy()
        self._network, self._limits = network = read_network(policy, layout)
        self._size_of_workspace = network.workspace_size
        self._workspace, self._n_rows = np.zeros(0, dtype=np.float32), 0
        self._n_obs = int(self._network[fields.N_OBS])
        self._n_actions = int(self._network[fields.N_ACTIONS])
        if seed is None:
            seed = np.random.SeedSequence(np.random.randint(0, 2**32, size=4, dtype=np.uint32).tolist())
        #: The state of the random generator, of shape ``(4,)``; an engine that is given another's draws what that would.
        self.rng_state = seed.generate_state(4, np.uint64)
        self._clips = isinstance(action_space, spaces.Box)
        self._use_sde, self._n_latent = policy.use_sde, network.n_latent
        self._noise = np.zeros(0, dtype=np.float32)
        self._flat_actions = self._action_shape == (self._n_actions,)
        self._whole_numbers = isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete)
        self._hyperparameters: Hyperparameters
        self._rollout_buffer: RolloutBuffer
        self._obs: list[np.ndarray]

    def follow(self, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.follow`."""
        self._hyperparameters = hyperparameters

    def start_rollout(self, rollout_buffer: RolloutBuffer, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.start_rollout`. What the kernels write are the buffer's own arrays, where they can be."""
        self._hyperparameters = hyperparameters
        self._rollout_buffer = rollout_buffer
        self._obs = []
        n_steps, n_envs = rollout_buffer.buffer_size, rollout_buffer.n_envs
        self._shape_of_obs = n_envs, self._n_obs
        self._room(n_envs)
        if self._use_sde:
            size = self._n_latent * self._n_actions
            if self._noise.size != (1 + n_envs) * size:
                self._noise = np.empty((1 + n_envs) * size, dtype=np.float32)
            draw_noise(self._network, self._params, self.rng_state, self._noise)
        self._clipped_actions = np.empty((n_steps, n_envs, self._n_actions), dtype=np.float32)
        self._plain = type(rollout_buffer) is RolloutBuffer
        self._obs_in_place = self._plain and rollout_buffer.observations.dtype == np.float32
        self._actions_in_place = self._plain and rollout_buffer.actions.dtype == np.float32
        shape = n_steps, n_envs, self._n_obs
        self._observations = (
            rollout_buffer.observations.reshape(shape) if self._obs_in_place else np.empty(shape, dtype=np.float32)
        )
        self._actions = rollout_buffer.actions if self._actions_in_place else np.empty_like(self._clipped_actions)
        self._values, self._log_probs = rollout_buffer.values, rollout_buffer.log_probs
        if not self._plain:
            self._values, self._log_probs = np.empty((2, n_steps, n_envs), dtype=np.float32)

    def act(self, obs: VecEnvObs, n_steps: int) -> np.ndarray:
        """See :meth:`Engine.act`."""
        assert isinstance(obs, np.ndarray)
        sde_sample_freq = self._hyperparameters.sde_sample_freq
        if self._use_sde and sde_sample_freq > 0 and n_steps % sde_sample_freq == 0:
            draw_noise(self._network, self._params, self.rng_state, self._noise)
        self._obs.append(obs)
        trouble = act(
            self._network,
            self._limits,
            self._params,
            self.rng_state,
            self._noise,
            _float32(obs, self._shape_of_obs),
            n_steps,
            self._observations,
            self._actions,
            self._clipped_actions,
            self._values,
            self._log_probs,
            self._workspace,
        )
        if trouble >= 0:
            self._explain(trouble, obs)
        return self._as_actions((self._clipped_actions if self._clips else self._actions)[n_steps])

    def actions(self) -> Action:
        """See :meth:`Engine.actions`."""
        n_steps = len(self._obs)
        columns = self._actions, self._clipped_actions, self._values, self._log_probs
        is_full = n_steps == len(self._values)
        if not is_full:  # the very arrays of a whole rollout are written but once into a message
            columns = tuple(column[:n_steps] for column in columns)  # type: ignore[assignment]
        actions, clipped_actions, values, log_probs = columns
        obs = self._rollout_buffer.observations if self._obs_in_place and is_full else stack(self._obs)
        actions = self._as_actions(actions)
        return Action(obs, actions, self._as_actions(clipped_actions) if self._clips else actions, values, log_probs)

    def add(self, rewards: np.ndarray, episode_starts: np.ndarray) -> None:
        """See :meth:`Engine.add`."""
        rollout_buffer, step = self._rollout_buffer, len(self._obs) - 1
        if not self._plain:
            action = Action(*(column[-1] for column in self.actions()))  # type: ignore[index, arg-type]
            add_to_buffer(rollout_buffer, self._obs[-1], action, rewards, episode_starts)
            return
        rollout_buffer.rewards[step] = rewards
        rollout_buffer.episode_starts[step] = episode_starts
        if not self._obs_in_place:
            rollout_buffer.observations[step] = self._obs[-1].reshape(rollout_buffer.observations.shape[1:])
        if not self._actions_in_place:
            rollout_buffer.actions[step] = self._actions[step]

    def compute_returns(self, last_obs: VecEnvObs, dones: np.ndarray) -> np.ndarray:
        """See :meth:`Engine.compute_returns`."""
        rollout_buffer, last_values = self._rollout_buffer, self.predict_values(last_obs)
        if not self._plain:
            rollout_buffer.compute_returns_and_advantage(th.as_tensor(last_values), dones)
            return last_values
        returns(
            rollout_buffer.rewards,
            rollout_buffer.episode_starts,
            rollout_buffer.values,
            last_values,
            dones.astype(np.float32),
            float(rollout_buffer.gamma),
            float(rollout_buffer.gae_lambda),
            rollout_buffer.advantages,
            rollout_buffer.returns,
        )
        rollout_buffer.pos, rollout_buffer.full = rollout_buffer.buffer_size, True
        return last_values

    def predict_values(self, obs: VecEnvObs) -> np.ndarray:
        """
        :param obs: Observations as a VecEnv gives them, each of shape ``(n_envs, ...)``
        :return: Their values, of shape ``(n_envs, 1)``
        """
        assert isinstance(obs, np.ndarray)
        observations = self._flat(obs)
        values = np.empty(len(observations), dtype=np.float32)
        stray = predict_values(self._network, self._limits, self._params, observations, values, self._room(len(observations)))
        if stray >= 0:
            self._explain(stray, obs)
        return values[:, None]

    def predict_terminal_value(self, obs: VecEnvObs) -> float:
        """See :meth:`Engine.predict_terminal_value`."""
        return self.predict_values(np.asarray(obs)[None])[0, 0]

    def gradient(self, rollout_buffer: RolloutBuffer, out: Vector) -> Losses:
        """See :meth:`Engine.gradient`."""
        n_steps, n_envs = rollout_buffer.rewards.shape
        hyperparameters = self._hyperparameters
        assert out.shape == self._params.shape
        rules = hyperparameters.rules
        losses = Losses(
            *gradient(
                self._network,
                self._limits,
                self._params,
                _float32(rollout_buffer.observations, (n_steps, n_envs, self._n_obs)),
                _float32(rollout_buffer.actions, (n_steps, n_envs, self._n_actions)),
                _float32(rollout_buffer.advantages, (n_steps, n_envs)),
                _float32(rollout_buffer.returns, (n_steps, n_envs)),
                self._room(n_steps * n_envs),
                np.asarray(out),
                float(hyperparameters.ent_coef),
                float(hyperparameters.vf_coef),
                math.inf if rules else float(hyperparameters.max_grad_norm),
                bool(hyperparameters.normalize_advantage),
            )
        )
        return self._apply(rules, th.as_tensor(out), losses) if rules else losses

    def _apply(self, rules: GradientRules, gradient: th.Tensor, losses: Losses) -> Losses:
        """Frozen parameters and hooks, and only then the clipping, as in ``A2C.train``."""
        layout = self._layout
        rules.apply(layout.names, layout.views(self.vector), layout.views(gradient))
        norm = gradient.norm()
        gradient *= min(1.0, self._hyperparameters.max_grad_norm / (float(norm) + 1e-6))
        without_gradient = tuple([index for index, name in enumerate(layout.names) if name in rules.frozen])
        return losses._replace(finite=bool(gradient.isfinite().all()), without_gradient=without_gradient)

    def _as_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions in float32, whose last axis is of ``n_actions``, as the torch engine gives them."""
        if self._whole_numbers:
            actions = actions.astype(np.int64)
        return actions if self._flat_actions else actions.reshape(*actions.shape[:-1], *self._action_shape)

    def _explain(self, trouble: int, obs: np.ndarray) -> NoReturn:
        observations = self._flat(obs)
        if trouble < len(observations):
            raise ValueError(f"the observation {observations[trouble]} is not in the space {self._observation_space}")
        observation = observations[trouble - len(observations)]
        raise ValueError(f"what the policy makes of the observation {observation} has nan or inf in it")

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        """Observations as a VecEnv gives them, as the kernels read them, of shape ``(n_envs, n_obs)``."""
        return _float32(obs, (len(obs), self._n_obs))

    def _room(self, n_rows: int) -> np.ndarray:
        """Workspace for so many observations."""
        if n_rows > self._n_rows:
            self._n_rows = n_rows
            self._workspace = np.zeros(self._size_of_workspace(n_rows), dtype=np.float32)
        return self._workspace


def _float32(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """For the kernels there is but one type of array: float32, contiguous and writable."""
    if array.dtype != np.float32 or not array.flags.carray:
        array = np.require(array, dtype=np.float32, requirements=["C", "W", "A"])
    return array if array.shape == shape else array.reshape(shape)

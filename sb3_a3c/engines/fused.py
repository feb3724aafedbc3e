"""The fused engine: the torch engine's arithmetic for standard MLP policies, with one kernel call per step and gradient."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

import sb3_a3c.kernels.network_table as fields
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.network import read_network, why_not_fused
from sb3_a3c.engines.protocol import Action, Losses, State, add_to_buffer, overrides_get, stack
from sb3_a3c.engines.turns import LARGE
from sb3_a3c.kernels.acting import act, predict_values
from sb3_a3c.kernels.cache import KERNELS
from sb3_a3c.kernels.gradient import gradient
from sb3_a3c.kernels.returns import returns
from sb3_a3c.kernels.state_dependent_noise import draw_noise
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.policies.hooks import GradientRules


class FusedEngine:
    """
    Computes policies to which :func:`~sb3_a3c.engines.network.why_not_fused` has no objection. See
    :class:`~sb3_a3c.engines.protocol.Engine` for the parameters.

    ``turn`` is not used: the kernels keep the GIL, so threads take turns anyway. Without a seed, its random generator is
    seeded from NumPy's.
    """

    compiled: ClassVar[bool] = True
    #: The policies that it computes have none.
    state: State | None = None

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
        #: The state of the random generator, ``(4,)``. An engine with a copy of it draws the same numbers.
        self.rng_state = seed.generate_state(4, np.uint64)
        self._clips = isinstance(action_space, spaces.Box)
        self._use_sde, self._n_latent = policy.use_sde, network.n_latent
        self._noise = np.zeros(0, dtype=np.float32)
        self._flat_actions = self._action_shape == (self._n_actions,)
        self._whole_numbers = isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete)
        self._hyperparameters: Hyperparameters
        self._rollout_buffer: RolloutBuffer
        self._obs: list[np.ndarray]
        self._episode_starts: np.ndarray

    @staticmethod
    def misfit(policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None = None) -> str | None:
        """See :meth:`Engine.misfit`."""
        misfit = why_not_fused(policy)
        if misfit is None and rollout_buffer_class is not None and overrides_get(rollout_buffer_class):
            return f"{rollout_buffer_class.__name__} has its own get()"
        return misfit

    @staticmethod
    def drawback(policy: ActorCriticPolicy) -> str | None:
        """See :meth:`Engine.drawback`."""
        if not KERNELS:
            return "NUMBA_DISABLE_JIT is set, and without compilation torch is faster"
        n_parameters = sum(param.numel() for param in policy.parameters())
        if n_parameters < LARGE:
            return None
        return f"with {n_parameters:,} parameters torch is as fast, and other workers can compute at the same time"

    def follow(self, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.follow`."""
        self._hyperparameters = hyperparameters

    def start_rollout(self, rollout_buffer: RolloutBuffer, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.start_rollout`. The kernels write to the buffer's own arrays where possible."""
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

    def act(self, obs: VecEnvObs, episode_starts: np.ndarray, n_steps: int) -> np.ndarray:
        """See :meth:`Engine.act`."""
        assert isinstance(obs, np.ndarray)
        sde_sample_freq = self._hyperparameters.sde_sample_freq
        if self._use_sde and sde_sample_freq > 0 and n_steps % sde_sample_freq == 0:
            draw_noise(self._network, self._params, self.rng_state, self._noise)
        self._obs.append(obs)
        self._episode_starts = episode_starts
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
        if not is_full:  # if full, these are the buffer's arrays themselves, which a message then holds only once
            columns = tuple(column[:n_steps] for column in columns)  # type: ignore[assignment]
        actions, clipped_actions, values, log_probs = columns
        obs = self._rollout_buffer.observations if self._obs_in_place and is_full else stack(self._obs)
        actions = self._as_actions(actions)
        return Action(obs, actions, self._as_actions(clipped_actions) if self._clips else actions, values, log_probs)

    def add(self, rewards: np.ndarray) -> None:
        """See :meth:`Engine.add`."""
        rollout_buffer, step = self._rollout_buffer, len(self._obs) - 1
        if not self._plain:
            action = Action(*(column[-1] for column in self.actions()))  # type: ignore[index, arg-type]
            add_to_buffer(rollout_buffer, self._obs[-1], action, rewards, self._episode_starts)
            return
        rollout_buffer.rewards[step] = rewards
        rollout_buffer.episode_starts[step] = self._episode_starts
        if not self._obs_in_place:
            rollout_buffer.observations[step] = self._obs[-1].reshape(rollout_buffer.observations.shape[1:])
        if not self._actions_in_place:
            rollout_buffer.actions[step] = self._actions[step]

    def predict_terminal_values(self, obs: Sequence[VecEnvObs], env_indices: Sequence[int]) -> list[float]:
        """See :meth:`Engine.predict_terminal_values`."""
        return [*self._values_of(np.stack(obs))]  # type: ignore[arg-type]

    def predict_values(self, obs: VecEnvObs, episode_starts: np.ndarray) -> np.ndarray:
        """See :meth:`Engine.predict_values`."""
        assert isinstance(obs, np.ndarray)
        return self._values_of(obs)[:, None]

    def _values_of(self, obs: np.ndarray) -> np.ndarray:
        observations = self._flat(obs)
        values = np.empty(len(observations), dtype=np.float32)
        room = self._room(len(observations))
        invalid_row = predict_values(self._network, self._limits, self._params, observations, values, room)
        if invalid_row >= 0:
            self._explain(invalid_row, obs)
        return values

    def compute_returns(self, rollout_buffer: RolloutBuffer, last_values: th.Tensor | np.ndarray, dones: np.ndarray) -> None:
        """See :meth:`Engine.compute_returns`."""
        if type(rollout_buffer) is not RolloutBuffer:
            rollout_buffer.compute_returns_and_advantage(th.as_tensor(last_values), dones)
            return
        returns(
            rollout_buffer.rewards,
            rollout_buffer.episode_starts,
            rollout_buffer.values,
            np.asarray(last_values),
            dones.astype(np.float32),
            float(rollout_buffer.gamma),
            float(rollout_buffer.gae_lambda),
            rollout_buffer.advantages,
            rollout_buffer.returns,
        )
        rollout_buffer.pos, rollout_buffer.full = rollout_buffer.buffer_size, True

    def gradient(self, rollout_buffer: RolloutBuffer, out: Vector, valid: np.ndarray | None = None) -> Losses:
        """See :meth:`Engine.gradient`."""
        n_steps, n_envs = rollout_buffer.rewards.shape
        arrays = [getattr(rollout_buffer, name) for name in ("observations", "actions", "advantages", "returns")]
        if valid is not None:
            n_steps, n_envs, arrays = int(valid.sum()), 1, [array[valid] for array in arrays]
        observations, actions, advantages, targets = arrays
        hyperparameters = self._hyperparameters
        assert out.shape == self._params.shape
        rules = hyperparameters.rules
        losses = Losses(
            *gradient(
                self._network,
                self._limits,
                self._params,
                _float32(observations, (n_steps, n_envs, self._n_obs)),
                _float32(actions, (n_steps, n_envs, self._n_actions)),
                _float32(advantages, (n_steps, n_envs)),
                _float32(targets, (n_steps, n_envs)),
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
        """Apply frozen parameters and hooks before the gradient is clipped, as in ``A2C.train``."""
        layout = self._layout
        rules.apply(layout.names, layout.views(self.vector), layout.views(gradient))
        norm = gradient.norm()
        gradient *= min(1.0, self._hyperparameters.max_grad_norm / (float(norm) + 1e-6))
        without_gradient = tuple([index for index, name in enumerate(layout.names) if name in rules.frozen])
        return losses._replace(finite=bool(gradient.isfinite().all()), without_gradient=without_gradient)

    def _as_actions(self, actions: np.ndarray) -> np.ndarray:
        """Convert actions ``(..., n_actions)`` in float32 to what the torch engine returns."""
        if self._whole_numbers:
            actions = actions.astype(np.int64)
        return actions if self._flat_actions else actions.reshape(*actions.shape[:-1], *self._action_shape)

    def _explain(self, trouble: int, obs: np.ndarray) -> NoReturn:
        observations = self._flat(obs)
        if trouble < len(observations):
            raise ValueError(f"the observation {observations[trouble]} is not in the space {self._observation_space}")
        observation = observations[trouble - len(observations)]
        raise ValueError(f"the policy's outputs for the observation {observation} contain nan or inf")

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        """Convert observations of a VecEnv to ``(n_envs, n_obs)`` in float32."""
        return _float32(obs, (len(obs), self._n_obs))

    def _room(self, n_rows: int) -> np.ndarray:
        """The workspace, large enough for so many observations."""
        if n_rows > self._n_rows:
            self._n_rows = n_rows
            self._workspace = np.zeros(self._size_of_workspace(n_rows), dtype=np.float32)
        return self._workspace


def _float32(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert an array to the kernels' only type: float32, contiguous and writable."""
    if array.dtype != np.float32 or not array.flags.carray:
        array = np.require(array, dtype=np.float32, requirements=["C", "W", "A"])
    return array if array.shape == shape else array.reshape(shape)

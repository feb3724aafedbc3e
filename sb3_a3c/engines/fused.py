"""The fused engine: the torch engine's arithmetic for standard MLP policies, with one kernel call per step and gradient."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

import sb3_a3c.kernels.network_table as fields
from sb3_a3c.engines.conversions import Conversions, float32
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.network import read_network, why_not_faster, why_not_fused
from sb3_a3c.engines.protocol import Action, Losses, State, add_to_buffer, overrides_get, stack
from sb3_a3c.engines.recurrence import Recurrence
from sb3_a3c.kernels.acting import act, predict_values
from sb3_a3c.kernels.gradient import gradient
from sb3_a3c.kernels.returns import returns
from sb3_a3c.kernels.state_dependent_noise import draw_noise
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.policies.hooks import GradientRules
from sb3_a3c.system.memory import as_tensor

_NOTHING = np.zeros(0, dtype=np.float32)
_ALL = np.zeros((0, 0), dtype=bool)


class FusedEngine:
    """
    Computes policies to which :func:`~sb3_a3c.engines.network.why_not_fused` has no objection. See
    :class:`~sb3_a3c.engines.protocol.Engine` for the parameters.

    ``turn`` is not used: the kernels keep the GIL, so threads take turns anyway. Without a seed, its random generator is
    seeded from NumPy's.
    """

    compiled: ClassVar[bool] = True

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
        self._conversions = Conversions(policy.observation_space, action_space)
        self._n_obs, self._n_actions = self._conversions.n_obs, self._conversions.n_actions
        self._params = self.vector.numpy()
        self._network, self._limits, _ = network = read_network(policy, layout)
        self._recurrence = None if network.encoders is None else Recurrence(network.encoders, self._params)
        self._n_inputs = int(self._network[fields.N_OBS])
        self._size_of_workspace = network.workspace_size
        self._n_units = int(self._network[fields.ACTOR_UNITS] + self._network[fields.CRITIC_UNITS])
        self._workspace, self._n_rows = np.zeros(0, dtype=np.float32), 0
        #: The outputs of all layers in this rollout.
        self._kept = np.zeros(0, dtype=np.float32)
        #: Whether there are several workers.
        self._several = seed is not None
        if seed is None:
            seed = np.random.SeedSequence(np.random.randint(0, 2**32, size=4, dtype=np.uint32).tolist())
        #: The state of the random generator, ``(4,)``. An engine with a copy of it draws the same numbers.
        self.rng_state = seed.generate_state(4, np.uint64)
        self._use_sde, self._n_latent = policy.use_sde, network.n_latent
        self._noise = np.zeros(0, dtype=np.float32)
        self._hyperparameters: Hyperparameters
        self._rollout_buffer: RolloutBuffer
        self._obs: list[np.ndarray]
        self._episode_starts: np.ndarray

    @property
    def state(self) -> State | None:
        """See :attr:`Engine.state`."""
        return None if self._recurrence is None else self._recurrence.state

    @state.setter
    def state(self, state: State | None) -> None:
        if self._recurrence is not None:
            self._recurrence.state = state

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
        return why_not_faster(policy)

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
        n_kept = n_steps * n_envs * self._n_units
        if self._kept.size != n_kept:
            self._kept = np.zeros(n_kept, dtype=np.float32)
        if self._recurrence is not None:
            self._recurrence.start_rollout(n_steps, n_envs)
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
        x, observations, invalid_row = float32(obs, self._shape_of_obs), self._observations, -1
        if self._recurrence is not None:
            observations[n_steps] = x
            invalid_row, observations = self._recurrence.step(observations, episode_starts)
            x = observations[n_steps]
        trouble = act(
            self._network,
            self._limits,
            self._params,
            self.rng_state,
            self._noise,
            x,
            n_steps,
            observations,
            self._actions,
            self._clipped_actions,
            self._values,
            self._log_probs,
            self._kept,
            self._workspace,
        )
        trouble = trouble if invalid_row < 0 else invalid_row
        if trouble >= 0:
            self._conversions.explain(trouble, obs)
        return self._conversions.actions((self._clipped_actions if self._conversions.clips else self._actions)[n_steps])

    def actions(self) -> Action:
        """See :meth:`Engine.actions`."""
        n_steps = len(self._obs)
        columns = self._actions, self._clipped_actions, self._values, self._log_probs
        is_full = n_steps == len(self._values)
        if not is_full:  # if full, these are the buffer's arrays themselves, which a message then holds only once
            columns = tuple(column[:n_steps] for column in columns)  # type: ignore[assignment]
        actions, clipped_actions, values, log_probs = columns
        obs = self._rollout_buffer.observations if self._obs_in_place and is_full else stack(self._obs)
        actions = self._conversions.actions(actions)
        clipped_actions = self._conversions.actions(clipped_actions) if self._conversions.clips else actions
        states = None if self._recurrence is None else self._recurrence.states()
        return Action(obs, actions, clipped_actions, values, log_probs, states)

    def add(self, rewards: np.ndarray) -> None:
        """See :meth:`Engine.add`."""
        rollout_buffer, step = self._rollout_buffer, len(self._obs) - 1
        if not self._plain:
            obs, actions = self._obs[-1], self._conversions.actions(self._actions[step])
            action = Action(obs, actions, actions, self._values[step], self._log_probs[step])
            add_to_buffer(rollout_buffer, obs, action, rewards, self._episode_starts)
            return
        rollout_buffer.rewards[step] = rewards
        rollout_buffer.episode_starts[step] = self._episode_starts
        if not self._obs_in_place:
            rollout_buffer.observations[step] = self._obs[-1].reshape(rollout_buffer.observations.shape[1:])
        if not self._actions_in_place:
            rollout_buffer.actions[step] = self._actions[step]

    def predict_terminal_values(self, obs: Sequence[VecEnvObs], env_indices: Sequence[int]) -> list[float]:
        """See :meth:`Engine.predict_terminal_values`."""
        return [*self._values_of(np.stack(obs), None, env_indices)]  # type: ignore[arg-type]

    def predict_values(self, obs: VecEnvObs, episode_starts: np.ndarray) -> np.ndarray:
        """See :meth:`Engine.predict_values`."""
        assert isinstance(obs, np.ndarray)
        return self._values_of(obs, episode_starts, slice(None))[:, None]

    def _values_of(self, obs: np.ndarray, episode_starts: np.ndarray | None, env_indices: Sequence[int] | slice) -> np.ndarray:
        x, invalid_row = self._conversions.flat(obs), -1
        if self._recurrence is not None:
            invalid_row, x = self._recurrence.critic_inputs(x, episode_starts, env_indices)
        values, room = np.empty(len(x), dtype=np.float32), self._room(len(x))
        invalid_row = max(invalid_row, predict_values(self._network, self._limits, self._params, x, values, room))
        if invalid_row >= 0:
            self._conversions.explain(invalid_row, obs)
        return values

    def compute_returns(self, rollout_buffer: RolloutBuffer, last_values: th.Tensor | np.ndarray, dones: np.ndarray) -> None:
        """See :meth:`Engine.compute_returns`."""
        if type(rollout_buffer) is not RolloutBuffer:
            rollout_buffer.compute_returns_and_advantage(as_tensor(last_values), dones)
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
        inputs, inputs_out = rollout_buffer.observations, _NOTHING
        # Of several workers, nobody writes to the parameters or the rollout before its gradient is computed.
        is_as_acted = self._several and rollout_buffer is self._rollout_buffer and len(self._obs) == n_steps
        kept = self._kept if is_as_acted and self._plain else _NOTHING
        if self._recurrence is not None:
            if not is_as_acted:
                observations = float32(inputs, (n_steps, n_envs, self._n_obs))
                self._recurrence.evaluate(observations, rollout_buffer.episode_starts)
            inputs = self._recurrence.inputs()
            inputs_out = np.empty(inputs.size, dtype=np.float32)
        hyperparameters = self._hyperparameters
        assert out.shape == self._params.shape
        rules, in_place = hyperparameters.rules, np.asarray(out)
        max_grad_norm = math.inf if rules else float(hyperparameters.max_grad_norm)
        losses = Losses(
            *gradient(
                self._network,
                self._limits,
                self._params,
                float32(inputs, (n_steps, n_envs, self._n_inputs)),
                float32(rollout_buffer.actions, (n_steps, n_envs, self._n_actions)),
                float32(rollout_buffer.advantages, (n_steps, n_envs)),
                float32(rollout_buffer.returns, (n_steps, n_envs)),
                _ALL if valid is None else valid,
                kept,
                self._room(n_steps * n_envs),
                in_place,
                inputs_out,
                float(hyperparameters.ent_coef),
                float(hyperparameters.vf_coef),
                max_grad_norm,
                bool(hyperparameters.normalize_advantage),
            )
        )
        if self._recurrence is not None:
            losses = losses._replace(finite=self._recurrence.gradient(inputs_out, in_place, max_grad_norm))
        return self._apply(rules, as_tensor(out), losses) if rules else losses

    def _apply(self, rules: GradientRules, gradient: th.Tensor, losses: Losses) -> Losses:
        """Apply frozen parameters and hooks before the gradient is clipped, as in ``A2C.train``."""
        layout = self._layout
        rules.apply(layout.names, layout.views(self.vector), layout.views(gradient))
        norm = gradient.norm()
        gradient *= min(1.0, self._hyperparameters.max_grad_norm / (float(norm) + 1e-6))
        without_gradient = tuple([index for index, name in enumerate(layout.names) if name in rules.frozen])
        return losses._replace(finite=bool(gradient.isfinite().all()), without_gradient=without_gradient)

    def _room(self, n_rows: int) -> np.ndarray:
        """The workspace, large enough for so many observations."""
        if n_rows > self._n_rows:
            self._n_rows = n_rows
            self._workspace = np.zeros(self._size_of_workspace(n_rows), dtype=np.float32)
        return self._workspace

"""The environments of one worker: steps them with the engine's actions, and records what callbacks need of the steps."""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_a3c.engines import Engine, stack
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.lean_vec_envs import read_infos_at_once, reports_only_ends
from sb3_a3c.envs.normalization import running_statistics, stack_moments
from sb3_a3c.envs.state import LayerState, changes_only_with_episodes, read_state, stack_states
from sb3_a3c.envs.vector_vec_env import VectorVecEnv
from sb3_a3c.worker.callback_needs import CallbackNeeds
from sb3_a3c.worker.errors import WorkerStopped, check_rewards, non_finite_observation
from sb3_a3c.worker.rollout import Ending, States, Steps
from sb3_a3c.worker.spec import WorkerSpec


class Records(NamedTuple):
    """
    What is known of a rollout beyond its buffer, see :class:`~sb3_a3c.worker.rollout.Rollout`.

    :param env_seconds: Seconds of processor time of the environments' steps, estimated from one step. 0: not measured
    :param valid: Whether steps are transitions, ``(n_steps, n_envs)``. In others, environments have only been reset. None: all
        are
    """

    states: States | None
    steps: Steps | None
    endings: list[Ending]
    env_seconds: float
    valid: np.ndarray | None


class Collector:
    """
    :param spec: The specification of the worker
    :param engine: Its engine
    """

    def __init__(self, spec: WorkerSpec, engine: Engine) -> None:
        self.env = env = spec.env
        #: Held during each step, so that callbacks can use the environments between two steps.
        self.env_lock = threading.RLock()
        self.last_obs = spec.last_obs
        self.last_episode_starts = spec.last_episode_starts
        #: Whether an episode has ended.
        self.has_reset = False
        self._env_indices = spec.env_indices
        self._engine = engine
        self._needs = spec.needs
        self._stopping = False
        self._step_seconds = 0.0
        self._first_obs: VecEnvObs | None = spec.last_obs
        self._batched = env.unwrapped if isinstance(env.unwrapped, VectorVecEnv) else None
        self._reports_only_ends = reports_only_ends(env)
        read_infos_at_once(env, spec.needs < CallbackNeeds.STEPS)

    def reset(self, seed: int | None) -> None:
        """
        Reset the environments.

        :param seed: Seed of the first environment, None: no seed
        """
        self.env.seed(seed)
        self.last_obs = self._first_obs = self.env.reset()
        self.last_episode_starts = np.ones(self.env.num_envs, dtype=bool)

    @property
    def has_stepped(self) -> bool:
        """Whether a step has been made."""
        return self.last_obs is not self._first_obs

    def stop(self) -> None:
        """End a rollout after the current step of the environments. May be called from any thread."""
        self._stopping = True

    def collect(self, rollout_buffer: RolloutBuffer, hyperparameters: Hyperparameters, timed: bool) -> Records:
        """
        Fill a rollout buffer, with the same steps in the same order as SB3's ``collect_rollouts``.

        :param rollout_buffer: The buffer
        :param hyperparameters: Hyperparameters of the rollout
        :param timed: Whether to measure a step of the environments
        :return: Records of the rollout
        :raises WorkerStopped: if :meth:`stop` has been called
        :raises NonFiniteError: if an observation or a reward is not finite
        """
        env, engine, env_lock = self.env, self._engine, self.env_lock
        states = _StateRecord(env) if self._needs >= CallbackNeeds.MODEL else None
        steps = _StepRecord() if self._needs >= CallbackNeeds.STEPS else None
        endings: list[Ending] = []
        valid = None if self._batched is None else np.ones((rollout_buffer.buffer_size, env.num_envs), dtype=bool)
        rollout_buffer.reset()  # makes new arrays, since callbacks keep those of the last rollout
        engine.start_rollout(rollout_buffer, hyperparameters)
        timed_step, self._step_seconds = rollout_buffer.buffer_size // 2 if timed else -1, 0.0
        for n_steps in range(rollout_buffer.buffer_size):
            if self._stopping:
                raise WorkerStopped
            try:
                clipped_actions = engine.act(self.last_obs, self.last_episode_starts, n_steps)
            except ValueError as error:
                self.check_observation(error)
                raise
            with env_lock:
                step = self._time if n_steps == timed_step else env.step
                new_obs, rewards, dones, infos = step(clipped_actions)
            check_rewards(rewards, env, self._env_indices)
            if self._batched is not None and valid is not None:
                valid[n_steps] = ~self._batched.only_reset
            if states is not None:
                states.add(new_obs, dones)
            if steps is not None:
                steps.add(rewards, infos)
            ended = True in dones.tolist()
            reports = not self._reports_only_ends and _has_episode(infos)
            if ended or reports:
                endings.append(Ending.of(n_steps, infos, dones, reports))
            if ended:
                self.has_reset = True
                bootstraps = self._bootstrap_truncated(rewards, dones, infos, hyperparameters.gamma)
                if steps is not None:
                    steps.bootstraps[n_steps] = bootstraps
            engine.add(rewards)
            self.last_obs = new_obs
            # After a step that only resets, an episode starts, too.
            self.last_episode_starts = dones if self._batched is None else dones | self._batched.only_reset
        return Records(
            None if states is None else states.stacked(),
            None if steps is None else steps.stacked(engine),
            endings,
            rollout_buffer.buffer_size * self._step_seconds,
            None if valid is None or valid.all() else valid,
        )

    def check_observation(self, error: Exception | None) -> None:
        """
        Raise an error if the last observation is not finite.

        :param error: An error that it may have caused
        :raises NonFiniteError: if the observation is not finite
        """
        cause = non_finite_observation(self.last_obs, self.env, self._env_indices)
        if cause is not None:
            raise cause from error

    def _time(self, clipped_actions: np.ndarray) -> VecEnvStepReturn:
        """Step the environments, and measure the processor time."""
        started = time.thread_time()
        result = self.env.step(clipped_actions)
        self._step_seconds = time.thread_time() - started
        return result

    def _bootstrap_truncated(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict], gamma: float
    ) -> dict[int, th.Tensor | float]:
        """``r <- r + gamma V(s_T)`` for episodes that were truncated in state ``s_T`` and did not end."""
        truncated = [
            i
            for i in np.flatnonzero(dones).tolist()
            if infos[i].get("terminal_observation") is not None and infos[i].get("TimeLimit.truncated", False)
        ]
        if not truncated:
            return {}
        values = self._engine.predict_terminal_values([infos[i]["terminal_observation"] for i in truncated], truncated)
        bootstraps = {i: gamma * value for i, value in zip(truncated, values, strict=True)}
        for i, value in bootstraps.items():
            rewards[i] += value
        return bootstraps


class _StateRecord:
    """The states after each step."""

    def __init__(self, env: VecEnv) -> None:
        self._env = env
        self._statistics = running_statistics(env)
        self._changes_only_with_episodes = changes_only_with_episodes(env)
        self._new_obs: list[VecEnvObs] = []
        self._dones: list[np.ndarray] = []
        self._env_states: list[list[LayerState]] = []
        self._moments: list[list[tuple[np.ndarray, np.ndarray, float]]] = []

    def add(self, new_obs: VecEnvObs, dones: np.ndarray) -> None:
        self._new_obs.append(new_obs)
        self._dones.append(dones.copy())  # a VecEnv may use its array again
        unchanged = self._changes_only_with_episodes and self._env_states and True not in dones.tolist()
        self._env_states.append(self._env_states[-1] if unchanged else read_state(self._env))
        self._moments.append([(rms.mean, rms.var, rms.count) for rms in self._statistics])

    def stacked(self) -> States:
        moments = [stack_moments(of_one) for of_one in zip(*self._moments, strict=True)]
        return States(stack(self._new_obs), stack(self._dones), stack_states(self._env_states), moments)


class _StepRecord:
    """The steps themselves."""

    def __init__(self) -> None:
        self._rewards: list[np.ndarray] = []
        self._infos: list[list[dict]] = []
        self.bootstraps: dict[int, dict[int, th.Tensor | float]] = {}

    def add(self, rewards: np.ndarray, infos: list[dict]) -> None:
        self._rewards.append(rewards.copy())  # before any bootstrapping
        self._infos.append([dict(info) for info in infos])  # a VecEnv may use its dicts again

    def stacked(self, engine: Engine) -> Steps:
        return Steps(engine.actions(), stack(self._rewards), self.bootstraps, self._infos)


def _has_episode(infos: Sequence[dict]) -> bool:
    """Whether an environment reports an episode. It may do so at any step, and several times per episode."""
    for info in infos:  # a generator would take three times as long
        if "episode" in info:
            return True
    return False

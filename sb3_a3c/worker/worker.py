"""
One asynchronous worker: pull the shared parameters, collect n steps, push their gradient (Mnih et al. 2016, algorithm S3).

A worker belongs to whoever calls :meth:`Worker.step`, one caller at a time; it touches nothing that another worker
touches but the shared parameters, which lock themselves, and writes to the user's VecEnv only through its slice of it.
Its ``env_lock`` is held during each step of its environments, so that a callback can reach them between two steps.
"""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines import Engine, Losses, stack
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.normalization import JournaledMeanStd, set_moments, stack_moments
from sb3_a3c.envs.state import LayerState, changes_only_with_episodes, read_state, stack_states
from sb3_a3c.parameters.protocol import Access, Parameters
from sb3_a3c.worker.callback_needs import CallbackNeeds
from sb3_a3c.worker.errors import (
    NonFiniteError,
    WorkerStopped,
    blame,
    check_rewards,
    is_of_first_use,
    non_finite_observation,
    non_finite_parts,
)
from sb3_a3c.worker.recorder import Recorder
from sb3_a3c.worker.rollout import ARRAYS_IN_THE_END, ARRAYS_OF_STEPS, NOT_LEARNED, Ending, Rollout, States, Steps


class Worker:
    """
    :param index: Which worker this is, from 0
    :param env_indices: Which of the user's environments it steps
    :param env: Its slice of the user's VecEnv
    :param engine: Its local parameters, and their arithmetic
    :param parameters: The shared parameters
    :param rollout_buffer: An empty buffer of ``n_steps`` for its environments
    :param hyperparameters: What it learns with; may be exchanged between two steps
    :param total_timesteps: Environment steps at which the learning rate's schedule ends
    :param final_timesteps: Environment steps at which the run ends: with the rollouts that reach ``total_timesteps``
    :param last_obs: What its environments observe now, each of shape ``(n_envs, ...)``
    :param last_episode_starts: Whether an episode starts with that, of shape ``(n_envs,)``
    :param statistics: The normalization statistics of its slice
    :param needs: What callbacks will look at of its steps
    :param recorder: Where to note what it pulls and pushes, None: nowhere
    """

    def __init__(
        self,
        index: int,
        env_indices: np.ndarray,
        env: VecEnv,
        engine: Engine,
        parameters: Parameters,
        rollout_buffer: RolloutBuffer,
        hyperparameters: Hyperparameters,
        total_timesteps: int,
        final_timesteps: int,
        last_obs: VecEnvObs,
        last_episode_starts: np.ndarray,
        statistics: Sequence[JournaledMeanStd],
        needs: CallbackNeeds,
        recorder: Recorder | None,
    ) -> None:
        self.index = index
        self.env_indices = env_indices
        self.env = env
        self.env_lock = threading.RLock()
        self.hyperparameters = hyperparameters
        self.last_obs = last_obs
        self.last_episode_starts = last_episode_starts
        #: Whether a step has failed, so that nobody knows what state its environments are in.
        self.failed = False
        #: Its environments are the user's own, so none takes the place of another.
        self.replaced: list[gym.Env] = []
        #: A note to an error with which an environment ends the first step, or the first reset, that this worker makes.
        self.note_at_first_use = ""
        self._engine = engine
        self._parameters = parameters
        self._rollout_buffer = rollout_buffer
        self._total_timesteps = total_timesteps
        self._final_timesteps = final_timesteps
        self._needs = needs
        self._recorder = recorder
        self._statistics = statistics
        self._vector = parameters.native(engine.vector)
        self._log_std = parameters.layout.slice_of("log_std")
        self._gradient = parameters.native(th.zeros_like(engine.vector))
        self._stopping = False
        self._in_use = hyperparameters
        self._env_attributes = hyperparameters.env_attributes
        self._first_obs: VecEnvObs | None = last_obs
        self._has_reset = False
        self._collected: _Collected
        self._losses: Losses

    def step(self, idle_seconds: float = 0.0) -> Rollout:
        """
        Collect one rollout and apply its gradient.

        :param idle_seconds: How long the worker has waited for this
        :return: The rollout
        :raises WorkerStopped: if :meth:`stop` has been called
        :raises NonFiniteError: if an observation or a reward is not finite, or the gradient, which is then not applied
        """
        self.collect(idle_seconds)
        self.compute_gradient()
        return self.push()

    def collect(self, idle_seconds: float = 0.0) -> None:
        """The first part of :meth:`step`: pull and collect a rollout."""
        started = time.monotonic()
        try:
            hyperparameters = self._in_use = self.hyperparameters
            if hyperparameters.env_attributes != self._env_attributes:
                self._env_attributes = hyperparameters.env_attributes
                self._env_attributes.set_in(self.env)
            if hyperparameters.returns is not None:
                self._rollout_buffer.gamma, self._rollout_buffer.gae_lambda = hyperparameters.returns
            pulled = self._sync(hyperparameters)
            if self._recorder is not None:
                self._recorder.pulled(self.index, pulled.n_updates)
            ran = self._run_envs(hyperparameters)
        except WorkerStopped:
            raise
        except BaseException as error:
            self._fail(error)
            raise
        self._collected = _Collected(started, idle_seconds, pulled, ran)

    def compute_gradient(self) -> None:
        """The second part of :meth:`step`: the gradient of the rollout, at the local parameters."""
        try:
            losses = self._engine.gradient(self._rollout_buffer, self._gradient)
            if not losses.finite:
                self._check_observation(None)
                raise NonFiniteError(non_finite_parts(self._rollout_buffer, self.env_indices, losses))
        except BaseException as error:
            self._fail(error)
            raise
        self._losses = losses

    def push(self) -> Rollout:
        """The last part of :meth:`step`: apply the gradient."""
        collected, losses = self._collected, self._losses
        try:
            learning_rates = self._learning_rates(collected.pulled)
            pushed = self._parameters.push(
                self._gradient,
                learning_rates,
                self._n_timesteps(),
                self._engine.buffers,
                [rms.take_journal() for rms in self._statistics],
                losses.without_gradient,
            )
        except BaseException as error:
            self._fail(error)
            raise
        if self._recorder is not None:
            self._recorder.pushed(self.index, pushed.n_updates)
        return self._rollout(
            losses, learning_rates, pushed.n_updates - collected.pulled.n_updates - 1, collected.pulled.waited + pushed.waited
        )

    def collected(self) -> Rollout:
        """
        :return: The rollout that :meth:`collect` has made, of which nothing has been learned yet
        """
        return self._rollout(NOT_LEARNED, (math.nan, math.nan), 0, self._collected.pulled.waited)

    def learn(self, written: RolloutBuffer | None) -> Rollout:
        """
        The rest of :meth:`step` for a worker that has waited for callbacks. The gradient is computed from the parameters, the
        rollout and the hyperparameters as callbacks have left them.

        :param written: A buffer with what callbacks were shown of the rollout and may have written to. None: they were not
        :return: The rollout
        :raises NonFiniteError: if the gradient is not finite, which is then not applied
        """
        hyperparameters = self._in_use = self.hyperparameters
        if written is not None:
            for name in (*ARRAYS_OF_STEPS, *ARRAYS_IN_THE_END):
                setattr(self._rollout_buffer, name, getattr(written, name))
        self._engine.follow(hyperparameters)
        # The statistics stay: what the environments have counted meanwhile is pushed with the gradient.
        self._parameters.pull(self._vector, self._engine.buffers)
        self._scale_std(hyperparameters)
        self.compute_gradient()
        return replace(self.push(), gradient=self._gradient)

    def begin_anew(self, seed: int | None) -> None:
        """
        Reset its environments: they are others than those of which it was told the last observations.

        :param seed: Seed of the first of them, None: none
        """
        self._sync(self.hyperparameters)  # observations are normalized with the statistics of now
        try:
            self.env.seed(seed)
            self.last_obs = self._first_obs = self.env.reset()
        except Exception as error:
            self._fail(error)
            raise
        self.last_episode_starts = np.ones(self.env.num_envs, dtype=bool)

    @property
    def has_stepped(self) -> bool:
        """Whether it has made a step."""
        return self.last_obs is not self._first_obs

    def stop(self) -> None:
        """Let a rollout under way end after the environments' present step. May be called from any thread."""
        self._stopping = True

    def _fail(self, error: BaseException) -> None:
        self.failed = True
        if self.note_at_first_use and is_of_first_use(error, self.env, self.has_stepped, self._has_reset):
            error.add_note(self.note_at_first_use)
        blame(error, self.index, self.env_indices, self.env, self.last_obs)

    def _sync(self, hyperparameters: Hyperparameters) -> Access:
        """theta' <- theta."""
        pulled = self._parameters.pull(self._vector, self._engine.buffers)
        for rms, moments in zip(self._statistics, pulled.moments, strict=True):
            set_moments(rms, moments)
        self._scale_std(hyperparameters)
        return pulled

    def _scale_std(self, hyperparameters: Hyperparameters) -> None:
        """Its own policy: it acts and learns with that. A constant summand leaves the gradient what it is."""
        if self._log_std is not None and hyperparameters.log_std_offset:
            log_std = self._vector[self._log_std]  # a view
            log_std += hyperparameters.log_std_offset

    def _run_envs(self, hyperparameters: Hyperparameters) -> "_Ran":
        """Fill the rollout buffer; the same steps in the same order as SB3's ``collect_rollouts``."""
        env, engine, env_lock = self.env, self._engine, self.env_lock
        states = _States(env, self._statistics) if self._needs >= CallbackNeeds.MODEL else None
        steps = _Steps() if self._needs >= CallbackNeeds.STEPS else None
        endings: list[Ending] = []
        self._rollout_buffer.reset()  # makes new arrays, so those of the last rollout are the callbacks'
        engine.start_rollout(self._rollout_buffer, hyperparameters)
        for n_steps in range(self._rollout_buffer.buffer_size):
            if self._stopping:
                raise WorkerStopped
            try:
                clipped_actions = engine.act(self.last_obs, n_steps)
            except ValueError as error:
                self._check_observation(error)
                raise
            with env_lock:
                new_obs, rewards, dones, infos = env.step(clipped_actions)
            check_rewards(rewards, env, self.env_indices)
            if states is not None:
                states.add(new_obs, dones)
            if steps is not None:
                steps.add(rewards, infos)
            ended = True in dones.tolist()
            if ended or _has_statistics(infos):
                endings.append(Ending(n_steps, infos, dones))
            if ended:
                self._has_reset = True
                bootstraps = self._bootstrap_truncated(rewards, dones, infos, hyperparameters.gamma)
                if steps is not None:
                    steps.bootstraps[n_steps] = bootstraps
            engine.add(rewards, self.last_episode_starts)
            self.last_obs = new_obs
            self.last_episode_starts = dones
        last_values = engine.compute_returns(self.last_obs, self.last_episode_starts)
        return _Ran(
            None if states is None else states.joined(),
            None if steps is None else steps.joined(engine),
            endings,
            last_values,
        )

    def _bootstrap_truncated(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict], gamma: float
    ) -> dict[int, th.Tensor | float]:
        """An episode that was cut off did not end: its last reward gets the value of what would have come."""
        bootstraps = {}
        for i, done in enumerate(dones):
            if done and infos[i].get("terminal_observation") is not None and infos[i].get("TimeLimit.truncated", False):
                terminal_value = self._engine.predict_terminal_value(infos[i]["terminal_observation"])
                bootstraps[i] = gamma * terminal_value
                rewards[i] += bootstraps[i]
        return bootstraps

    def _check_observation(self, error: Exception | None) -> None:
        """If the last observation is not finite, that is the cause of an error, or of a gradient that isn't."""
        cause = non_finite_observation(self.last_obs, self.env, self.env_indices)
        if cause is not None:
            raise cause from error

    def _learning_rates(self, pulled: Access) -> tuple[float, float]:
        """Those of the global step count T at which the rollout ends."""
        # Those that a worker's death has taken along were counted there, and are made again.
        num_timesteps = min(pulled.num_timesteps + self._n_timesteps(), self._final_timesteps)
        return self._in_use.learning_rates(1.0 - float(num_timesteps) / float(self._total_timesteps))

    def _rollout(self, losses: Losses, learning_rates: tuple[float, float], staleness: int, lock_seconds: float) -> Rollout:
        collected = self._collected
        return Rollout(
            worker=self.index,
            env_indices=self.env_indices,
            rollout_buffer=_as_it_is(self._rollout_buffer),
            states=collected.ran.states,
            steps=collected.ran.steps,
            endings=collected.ran.endings,
            last_values=collected.ran.last_values,
            losses=losses,
            learning_rates=learning_rates,
            staleness=staleness,
            seconds=time.monotonic() - collected.started,
            lock_seconds=lock_seconds,
            idle_seconds=collected.idle_seconds,
        )

    def _n_timesteps(self) -> int:
        return self._rollout_buffer.buffer_size * self.env.num_envs


class _Ran(NamedTuple):
    """What there is of a rollout beside its buffer, see :class:`Rollout`."""

    states: States | None
    steps: Steps | None
    endings: list[Ending]
    last_values: th.Tensor | np.ndarray


class _Collected(NamedTuple):
    """A rollout before its gradient is pushed."""

    started: float
    idle_seconds: float
    pulled: Access
    ran: _Ran


class _States:
    """What there is after each step, gathered."""

    def __init__(self, env: VecEnv, statistics: Sequence[JournaledMeanStd]) -> None:
        self._env = env
        self._statistics = statistics
        self._is_still = changes_only_with_episodes(env)
        self._new_obs: list[VecEnvObs] = []
        self._dones: list[np.ndarray] = []
        self._env_states: list[list[LayerState]] = []
        self._moments: list[list[tuple[np.ndarray, np.ndarray, float]]] = []

    def add(self, new_obs: VecEnvObs, dones: np.ndarray) -> None:
        self._new_obs.append(new_obs)
        self._dones.append(dones)
        changed = not (self._is_still and self._env_states) or True in dones.tolist()
        self._env_states.append(read_state(self._env) if changed else self._env_states[-1])
        self._moments.append([(rms.mean, rms.var, rms.count) for rms in self._statistics])

    def joined(self) -> States:
        moments = [stack_moments(of_one) for of_one in zip(*self._moments, strict=True)]
        return States(stack(self._new_obs), stack(self._dones), stack_states(self._env_states), moments)


class _Steps:
    """What happened at each step, gathered."""

    def __init__(self) -> None:
        self._rewards: list[np.ndarray] = []
        self._infos: list[list[dict]] = []
        self.bootstraps: dict[int, dict[int, th.Tensor | float]] = {}

    def add(self, rewards: np.ndarray, infos: list[dict]) -> None:
        self._rewards.append(rewards.copy())  # before any bootstrapping
        self._infos.append(infos)

    def joined(self, engine: Engine) -> Steps:
        return Steps(engine.actions(), stack(self._rewards), self.bootstraps, self._infos)


def _has_statistics(infos: Sequence[dict]) -> bool:
    """Whether an environment tells of an episode. It may do so at any step, and at several of one episode."""
    for info in infos:  # a generator would take three times as long
        if "episode" in info:
            return True
    return False


def _as_it_is(rollout_buffer: RolloutBuffer) -> RolloutBuffer:
    """A buffer that keeps the arrays which this one has now. (``copy.copy`` takes ten times as long.)"""
    kept = object.__new__(type(rollout_buffer))
    vars(kept).update(vars(rollout_buffer))
    return kept

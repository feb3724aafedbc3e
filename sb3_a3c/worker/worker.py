"""
One asynchronous worker: pull the shared parameters, collect n steps, push their gradient (Mnih et al. 2016, algorithm S3).

A worker belongs to the caller of :meth:`Worker.step`, one caller at a time. Of what it uses, other workers use only the shared
parameters, which have a lock of their own. It writes to the user's VecEnv only through its slice. Its ``env_lock`` is held
during each step of its environments, so that callbacks can use them between two steps.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines import Losses, State, make_turn
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.batches import Batch
from sb3_a3c.envs.normalization import set_moments
from sb3_a3c.kernels.cache import use_cache
from sb3_a3c.parameters.protocol import Access, Parameters, Push
from sb3_a3c.system.notes import add_note
from sb3_a3c.worker.collector import Collector, Records
from sb3_a3c.worker.errors import Explaining, NonFiniteError, blame, is_of_first_use, non_finite_parts
from sb3_a3c.worker.rollout import ARRAYS_IN_THE_END, ARRAYS_OF_STEPS, NOT_LEARNED, Rollout
from sb3_a3c.worker.spec import WorkerSpec

#: Processor time is measured in one of this many rollouts, because it takes system calls. Chosen arbitrarily.
_TIME_EVERY = 8


class Worker:
    """
    :param spec: Everything needed to build it
    :param parameters: The shared parameters
    :param turn: A context manager that the engines in this process hold while they compute
    """

    def __init__(self, spec: WorkerSpec, parameters: Parameters, turn: AbstractContextManager) -> None:
        use_cache()
        engine = spec.engine(spec.policy, parameters.layout, spec.policy.action_space, turn, spec.seed)
        engine.state = spec.state
        self.index = spec.index
        self.env_indices = spec.env_indices
        self.env = spec.env
        self.hyperparameters = spec.hyperparameters
        #: Whether a step has failed, so that the state of its environments is unknown.
        self.failed = False
        #: Its environments are the user's own, so they replace no others.
        self.replaced: list[gym.Env | Batch] = []
        #: Added to errors that an environment raises in the first step or the first reset of this worker.
        self.note_at_first_use = ""
        self._seed = spec.seed
        self._engine = engine
        self._parameters = parameters
        self._rollout_buffer = spec.rollout_buffer
        self._total_timesteps = spec.total_timesteps
        self._final_timesteps = spec.final_timesteps
        self._recorder = spec.recorder
        self._statistics = spec.statistics
        self._collector = Collector(spec, engine)
        self.env_lock = self._collector.env_lock
        self._explaining_errors = Explaining(self._explain)
        self._vector = engine.vector.numpy() if engine.compiled else engine.vector
        self._log_std = dict(zip(parameters.layout.names, parameters.layout.slices, strict=True)).get("log_std")
        gradient = th.zeros_like(engine.vector)
        self._gradient = gradient.numpy() if engine.compiled else gradient
        self._in_use = spec.hyperparameters
        self._env_attributes = spec.hyperparameters.env_attributes
        self._n_collected = 0
        self._collected: _Collected
        self._last_values: th.Tensor | np.ndarray
        self._pulled_buffers: list[th.Tensor] = []
        self._losses: Losses

    def step(self, idle_seconds: float = 0.0) -> Rollout:
        """
        Collect one rollout and apply its gradient.

        :param idle_seconds: Seconds that the worker has waited before this call
        :return: The rollout
        :raises WorkerStopped: if :meth:`stop` has been called
        :raises NonFiniteError: if an observation, a reward or the gradient is not finite. The gradient is not applied
        """
        self.collect(idle_seconds)
        self.compute_gradient()
        return self.push()

    def collect(self, idle_seconds: float = 0.0) -> None:
        """The first part of :meth:`step`: pull, and collect a rollout."""
        self._n_collected += 1
        timed = self._n_collected % _TIME_EVERY == 0
        started, cpu_started = time.monotonic(), time.thread_time() if timed else None
        with self._explaining_errors:
            hyperparameters = self._in_use = self.hyperparameters
            if hyperparameters.env_attributes != self._env_attributes:
                self._env_attributes = hyperparameters.env_attributes
                self._env_attributes.set_in(self.env)
            if hyperparameters.returns is not None:
                self._rollout_buffer.gamma, self._rollout_buffer.gae_lambda = hyperparameters.returns
            pulled = self._pull(hyperparameters)
            if self._recorder is not None:
                self._recorder.pulled(self.index, pulled.n_updates)
            records = self._collector.collect(self._rollout_buffer, hyperparameters, timed)
        self._collected = _Collected(started, cpu_started, idle_seconds, pulled, records)

    def compute_gradient(self) -> None:
        """The second part of :meth:`step`: compute returns, advantages and the gradient with the local parameters."""
        self._compute_returns()
        self._compute_gradient()

    def push(self) -> Rollout:
        """The last part of :meth:`step`: apply the gradient."""
        pulled, losses = self._collected.pulled, self._losses
        with self._explaining_errors:
            learning_rates = self._learning_rates(pulled)
            journals = [rms.take_journal() for rms in self._statistics]
            push = Push(learning_rates, self._n_timesteps(), self._engine.buffers, journals, losses.without_gradient)
            pushed = self._parameters.push(self._gradient, push)
        if self._recorder is not None:
            self._recorder.pushed(self.index, pushed.n_updates)
        staleness = pushed.n_updates - pulled.n_updates - 1
        return self._rollout(losses, learning_rates, staleness, pulled.waited + pushed.waited)

    def collected(self) -> Rollout:
        """
        Show a rollout to callbacks before its gradient is computed.

        :return: The rollout that :meth:`collect` has made, with returns and advantages
        """
        self._compute_returns()
        return self._rollout(NOT_LEARNED, (math.nan, math.nan), 0, self._collected.pulled.waited)

    def learn(self, written: RolloutBuffer | None) -> Rollout:
        """
        The rest of :meth:`step` after :meth:`collected`. The gradient is computed from the parameters, the rollout and the
        hyperparameters as callbacks have left them.

        :param written: The rollout buffer that callbacks have seen and may have written to. None: they have not seen one
        :return: The rollout
        :raises NonFiniteError: if the gradient is not finite. It is not applied
        """
        hyperparameters = self._in_use = self.hyperparameters
        if written is not None:
            for name in (*ARRAYS_OF_STEPS, *ARRAYS_IN_THE_END, "generator_ready"):
                setattr(self._rollout_buffer, name, getattr(written, name))
        self._engine.follow(hyperparameters)
        # Statistics are not pulled: what the environments have counted since the last pull is pushed with the gradient.
        acted = [buffer.clone() for buffer in self._engine.buffers]
        self._parameters.pull(self._vector, self._engine.buffers)
        for buffer, pulled, last in zip(self._engine.buffers, self._pulled_buffers, acted, strict=True):
            if th.equal(buffer, pulled):  # no callback has written to it
                buffer.copy_(last)
        self._scale_std(hyperparameters)
        self._compute_gradient()
        return self.push()._replace(gradient=self._gradient)

    def reset_envs(self) -> None:
        """Reset the environments, which are new or are not in the state that the last observations are of."""
        self._pull(self.hyperparameters)  # observations are normalized with the current statistics
        with self._explaining_errors:
            self._collector.reset(None if self._seed is None else int(self._seed.generate_state(2)[1]))

    def go_on_from(self, obs: VecEnvObs, episode_starts: np.ndarray) -> None:
        """Begin the next rollout with other values of :attr:`last_obs` and :attr:`last_episode_starts`."""
        self._collector.last_obs, self._collector.last_episode_starts = obs, episode_starts

    def set_statistics(self, moments: Sequence[np.ndarray]) -> None:
        """
        Go on with other normalization statistics. What the environments have counted since the last push is not pushed.

        :param moments: The statistics, see :func:`~sb3_a3c.envs.normalization.moments_of`
        """
        for rms, of_one in zip(self._statistics, moments, strict=True):
            rms.take_journal()
            set_moments(rms, of_one)

    def stop(self) -> None:
        """End a rollout after the current step of the environments. May be called from any thread."""
        self._collector.stop()

    @property
    def last_obs(self) -> VecEnvObs:
        """Current observations of its environments, each ``(n_envs, ...)``."""
        return self._collector.last_obs

    @property
    def last_episode_starts(self) -> np.ndarray:
        """Whether episodes start with these observations, ``(n_envs,)``."""
        return self._collector.last_episode_starts

    @property
    def state(self) -> State | None:
        """The hidden state of a recurrent policy, of each environment. None: there is none."""
        return self._engine.state

    def _explain(self, error: BaseException) -> None:
        """Note in an error which worker and environment it is of."""
        self.failed = True
        collector = self._collector
        if self.note_at_first_use and is_of_first_use(error, self.env, collector.has_stepped, collector.has_reset):
            add_note(error, self.note_at_first_use)
        blame(error, self.index, self.env_indices, self.env, collector.last_obs)

    def _pull(self, hyperparameters: Hyperparameters) -> Access:
        """theta' <- theta."""
        pulled = self._parameters.pull(self._vector, self._engine.buffers)
        self._pulled_buffers = [buffer.clone() for buffer in self._engine.buffers]
        for rms, moments in zip(self._statistics, pulled.moments, strict=True):
            set_moments(rms, moments)
        self._scale_std(hyperparameters)
        return pulled

    def _scale_std(self, hyperparameters: Hyperparameters) -> None:
        """Scale the local policy's standard deviation. The gradient with respect to ``log_std`` stays the same."""
        if self._log_std is not None and hyperparameters.log_std_offset:
            log_std = self._vector[self._log_std]  # a view
            log_std += hyperparameters.log_std_offset

    def _compute_returns(self) -> None:
        with self._explaining_errors:
            dones = self.last_episode_starts
            self._last_values = self._engine.predict_values(self.last_obs, dones)
            self._engine.compute_returns(self._rollout_buffer, self._last_values, dones)

    def _compute_gradient(self) -> None:
        with self._explaining_errors:
            losses = self._engine.gradient(self._rollout_buffer, self._gradient, self._collected.records.valid)
            if not losses.finite:
                self._collector.check_observation(None)
                raise NonFiniteError(non_finite_parts(self._rollout_buffer, self.env_indices, losses))
        self._losses = losses

    def _learning_rates(self, pulled: Access) -> tuple[float, float]:
        """The learning rates at the global step count T at which the rollout ends."""
        # Rollouts that were lost with a worker's process are counted and made again, so the count may exceed the end.
        num_timesteps = min(pulled.num_timesteps + self._n_timesteps(), self._final_timesteps)
        return self._in_use.learning_rates(1.0 - float(num_timesteps) / float(self._total_timesteps))

    def _rollout(self, losses: Losses, learning_rates: tuple[float, float], staleness: int, lock_seconds: float) -> Rollout:
        started, cpu_started, idle_seconds, _, records = self._collected
        return Rollout(
            worker=self.index,
            env_indices=self.env_indices,
            rollout_buffer=_copy(self._rollout_buffer),
            states=records.states,
            steps=records.steps,
            endings=records.endings,
            last_values=self._last_values,
            losses=losses,
            learning_rates=learning_rates,
            staleness=staleness,
            seconds=time.monotonic() - started,
            lock_seconds=lock_seconds,
            idle_seconds=idle_seconds,
            cpu_seconds=0.0 if cpu_started is None else time.thread_time() - cpu_started,
            env_seconds=records.env_seconds,
        )

    def _n_timesteps(self) -> int:
        return self._rollout_buffer.buffer_size * self.env.num_envs


def make_workers(specs: Sequence[WorkerSpec], parameters: Parameters) -> list[Worker]:
    """
    :param specs: The specifications of the workers
    :param parameters: The shared parameters
    :return: The workers, which take turns to compute
    """
    turn = make_turn(parameters.layout.size)
    return [Worker(spec, parameters, turn) for spec in specs]


class _Collected(NamedTuple):
    """A rollout before its gradient is pushed."""

    started: float
    cpu_started: float | None
    idle_seconds: float
    pulled: Access
    records: Records


def _copy(rollout_buffer: RolloutBuffer) -> RolloutBuffer:
    """A buffer with the same arrays. (``copy.copy`` takes ten times as long.)"""
    copied = object.__new__(type(rollout_buffer))
    vars(copied).update(vars(rollout_buffer))
    return copied

"""Everything needed to build a worker, here or in another process."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines import Engine, State, make_turn
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.normalization import JournaledMeanStd, journal_statistics
from sb3_a3c.kernels.cache import use_cache
from sb3_a3c.parameters.protocol import Parameters
from sb3_a3c.worker.callback_needs import CallbackNeeds
from sb3_a3c.worker.recorder import Recorder
from sb3_a3c.worker.worker import Worker


@dataclass(frozen=True)
class WorkerSpec:
    """
    See :class:`~sb3_a3c.worker.worker.Worker` for parameters that are not described here.

    :param env: The worker's environments; or a factory that makes them where the worker is built, so that they need not be
        sliced or pickled. The worker resets environments from a factory, and whoever built the worker closes them
    :param engine: The class of the engine
    :param policy: The policy that the engine computes
    :param seed: Seed of the engine's random generators and of a factory's environments. None: the engine draws from torch's
        and NumPy's, and the environments are not seeded
    :param state: The hidden state of a recurrent policy, of each environment
    """

    index: int
    env_indices: np.ndarray
    env: VecEnv | Callable[[], VecEnv]
    engine: type[Engine]
    policy: ActorCriticPolicy
    seed: np.random.SeedSequence | None
    rollout_buffer: RolloutBuffer
    hyperparameters: Hyperparameters
    total_timesteps: int
    final_timesteps: int
    last_obs: VecEnvObs
    last_episode_starts: np.ndarray
    statistics: Sequence[JournaledMeanStd]
    needs: CallbackNeeds
    recorder: Recorder | None
    state: State | None = None

    @property
    def has_factory(self) -> bool:
        """Whether the worker's environments are made by a factory."""
        return not isinstance(self.env, VecEnv)

    def make(self, parameters: Parameters, turn: AbstractContextManager) -> Worker:
        """
        :param parameters: The shared parameters
        :param turn: A context manager that the engines in this process hold while they compute
        :return: The worker
        """
        use_cache()
        env, statistics = self.env, self.statistics
        if not isinstance(env, VecEnv):
            env = env()
            statistics = journal_statistics(env)
        engine = self.engine(self.policy, parameters.layout, self.policy.action_space, turn, self.seed)
        engine.state = self.state
        worker = Worker(
            index=self.index,
            env_indices=self.env_indices,
            env=env,
            engine=engine,
            parameters=parameters,
            rollout_buffer=self.rollout_buffer,
            hyperparameters=self.hyperparameters,
            total_timesteps=self.total_timesteps,
            final_timesteps=self.final_timesteps,
            last_obs=self.last_obs,
            last_episode_starts=self.last_episode_starts,
            statistics=statistics,
            needs=self.needs,
            recorder=self.recorder,
        )
        if self.has_factory:
            worker.reset_envs(env_seed(self.seed))
        return worker


def make_workers(specs: Sequence[WorkerSpec], parameters: Parameters) -> list[Worker]:
    """
    :param specs: The specifications of the workers
    :param parameters: The shared parameters
    :return: The workers, which take turns to compute
    """
    turn = make_turn(parameters.layout.size)
    return [spec.make(parameters, turn) for spec in specs]


def env_seed(seed: np.random.SeedSequence | None) -> int | None:
    """
    :param seed: A worker's seed
    :return: The seed of its environments, if it has to reset them
    """
    return None if seed is None else int(seed.generate_state(2)[1])


def seed_of_process(seed: np.random.SeedSequence | None, number: int) -> np.random.SeedSequence | None:
    """
    :param seed: A worker's seed
    :param number: Which of its processes this is, from 0
    :return: A different seed for each process of a worker, so that none repeats the noise of the one before
    """
    if seed is None or number == 0:
        return seed
    assert isinstance(seed.entropy, int)
    return np.random.SeedSequence([seed.entropy, number], spawn_key=seed.spawn_key)

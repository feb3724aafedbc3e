"""All that a worker is made of, before there is one: it can be made here, or in another process."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines import make_engine, make_turn
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.normalization import JournaledMeanStd
from sb3_a3c.kernels.cache import use_cache
from sb3_a3c.parameters.protocol import Parameters
from sb3_a3c.worker.callback_needs import CallbackNeeds
from sb3_a3c.worker.recorder import Recorder
from sb3_a3c.worker.worker import Worker


@dataclass(frozen=True)
class WorkerSpec:
    """
    See :class:`~sb3_a3c.worker.worker.Worker` for what has the same name there.

    :param engine: Name of the engine
    :param policy: The policy that the engine computes with a clone of
    :param seed: Seed of the engine's own random generators, None: it draws from torch's and NumPy's
    """

    index: int
    env_indices: np.ndarray
    env: VecEnv
    engine: str
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

    def make(self, parameters: Parameters, turn: AbstractContextManager) -> Worker:
        """
        :param parameters: The shared parameters
        :param turn: What the engines in this process hold while they compute
        :return: The worker
        """
        use_cache()
        return Worker(
            index=self.index,
            env_indices=self.env_indices,
            env=self.env,
            engine=make_engine(self.engine, self.policy, parameters.layout, self.policy.action_space, turn, self.seed),
            parameters=parameters,
            rollout_buffer=self.rollout_buffer,
            hyperparameters=self.hyperparameters,
            total_timesteps=self.total_timesteps,
            final_timesteps=self.final_timesteps,
            last_obs=self.last_obs,
            last_episode_starts=self.last_episode_starts,
            statistics=self.statistics,
            needs=self.needs,
            recorder=self.recorder,
        )


def make_workers(specs: Sequence[WorkerSpec], parameters: Parameters) -> list[Worker]:
    """
    :param specs: What the workers are made of
    :param parameters: The shared parameters
    :return: The workers, which compute in turn
    """
    turn = make_turn(parameters.layout.size)
    return [spec.make(parameters, turn) for spec in specs]


def env_seed(seed: np.random.SeedSequence | None) -> int | None:
    """
    :param seed: A worker's
    :return: What its environments are seeded with, where they begin anew
    """
    return None if seed is None else int(seed.generate_state(2)[1])

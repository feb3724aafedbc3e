"""Everything needed to build a worker, here or in another process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines import Engine, State
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.normalization import JournaledMeanStd
from sb3_a3c.worker.callback_needs import CallbackNeeds
from sb3_a3c.worker.recorder import Recorder


@dataclass(frozen=True)
class WorkerSpec:
    """
    :param index: Index of the worker, from 0
    :param env_indices: Indices of its environments in the user's VecEnv
    :param env: Its environments
    :param engine: The class of its engine
    :param policy: The policy that the engine computes
    :param seed: Seed of the engine's random generators. None: it draws from torch's and NumPy's
    :param rollout_buffer: An empty buffer of ``n_steps`` for its environments
    :param hyperparameters: Its hyperparameters, which may be replaced between two steps
    :param total_timesteps: Environment steps at which the learning rate's schedule ends
    :param final_timesteps: Environment steps at which the run ends, with the rollouts that reach ``total_timesteps``
    :param last_obs: Current observations of its environments, each ``(n_envs, ...)``
    :param last_episode_starts: Whether episodes start with these observations, ``(n_envs,)``
    :param statistics: The normalization statistics of its environments
    :param needs: What callbacks read of its steps
    :param recorder: Records what it pulls and pushes, None: nothing does
    :param state: The hidden state of a recurrent policy, of each environment
    """

    index: int
    env_indices: np.ndarray
    env: VecEnv
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

"""Environments for an id, made in the way in which SB3 makes one."""

from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv


def make_envs(env_id: str, n_envs: int, verbose: int) -> DummyVecEnv:
    """
    :param env_id: The id of a registered environment
    :param n_envs: How many environments to make
    :param verbose: Verbosity level, as in A3C
    :return: The environments, each in a Monitor
    """
    return DummyVecEnv([lambda: Monitor(maybe_make_env(env_id, verbose)) for _ in range(n_envs)])  # type: ignore[arg-type]

"""The VecEnv of an argument ``env`` that is not one: the id of an environment, batched environments, or their constructor."""

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_a3c.envs.vector_vec_env import VectorVecEnv


def is_constructor(env: Any) -> bool:
    """
    :param env: The argument ``env``
    :return: Whether environments are to be made of it: the id of an environment, or a function that makes a batch
    """
    return isinstance(env, str) or (callable(env) and not isinstance(env, VecEnv | gym.Env | VectorEnv))


def check_env(env: Any) -> None:
    """
    :param env: The argument ``env``. An environment of the old Gym is recognized by its methods, and SB3 wraps it
    :raises ValueError: if it is not an environment
    """
    if isinstance(env, VecEnv | gym.Env | VectorEnv) or (hasattr(env, "step") and hasattr(env, "reset")):
        return
    how = "Make an environment first, for example with make_vec_env of Stable-Baselines3"
    if isinstance(env, list | tuple):
        how = "Put environments together in a VecEnv, for example DummyVecEnv([make_env, make_env])"
    raise ValueError(f"env must be a gymnasium.Env, a VecEnv or a gymnasium.vector.VectorEnv, but it is {env!r}. {how}")


def make_envs(env: Any, n: int, verbose: int) -> VecEnv:
    """
    :param env: The id of an environment, or a function that makes a batch of them
    :param n: How many to make
    :param verbose: The model's verbosity
    :return: A VecEnv of ``n`` environments, in the way in which SB3 makes one, or of ``n`` batches
    """
    if isinstance(env, str):
        return DummyVecEnv([lambda: Monitor(maybe_make_env(env, verbose)) for _ in range(n)])  # type: ignore[arg-type]
    return VectorVecEnv([env] * n)


def wrap_batched(env: Any) -> Any:
    """
    :param env: An environment of any kind
    :return: A VecEnv over it if it is batched, else the same
    :raises ValueError: if it is not an environment
    """
    check_env(env)
    return VectorVecEnv([env]) if isinstance(env, VectorEnv) else env

"""Closing environments whose copies have replaced them."""

import gymnasium as gym
from stable_baselines3.common.monitor import ResultsWriter

from sb3_a3c.envs.batches import Batch
from sb3_a3c.envs.declarations import gym_layers_of


def close_environments(envs: list[gym.Env | Batch]) -> list[str]:
    """
    Close environments that were replaced by copies. The copies go on writing the files of Monitor, so these stay open.

    :param envs: The environments. Each is removed from the list before it is closed, so that none is closed twice
    :return: A message for each failure
    """
    failures = []
    while envs:
        env = envs.pop(0)
        try:
            for layer in gym_layers_of(env):
                for name in [name for name, value in vars(layer).items() if isinstance(value, ResultsWriter)]:
                    setattr(layer, name, None)
            env.close()
        except Exception as error:
            failures.append(
                f"{type(getattr(env, 'unwrapped', env)).__name__}.close() failed ({type(error).__name__}: {error})"
            )
    return failures

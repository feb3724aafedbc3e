"""Environments that nobody steps any more are closed, and nothing that others still use."""

from collections.abc import Iterator

import gymnasium as gym
from stable_baselines3.common.monitor import ResultsWriter


def close_environments(envs: list[gym.Env]) -> list[str]:
    """
    Close environments that others have taken the place of. The files that Monitor writes are theirs now, and stay open.

    :param envs: The environments; each is taken out of the list first, so that none is closed twice
    :return: What went wrong, for the user
    """
    failures = []
    while envs:
        env = envs.pop(0)
        try:
            for layer in _layers(env):
                for name in [name for name, value in vars(layer).items() if isinstance(value, ResultsWriter)]:
                    setattr(layer, name, None)
            env.close()
        except Exception as error:
            failures.append(f"{type(env.unwrapped).__name__}.close() failed ({type(error).__name__}: {error})")
    return failures


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env

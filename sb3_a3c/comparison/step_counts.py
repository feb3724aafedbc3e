"""
How many steps environments have made, in whatever thread or process they are.

Counts are in memory that processes share by way of a file, an entry an environment, so reading them waits for nobody. Each
entry is written by one environment at a time, and in one piece.
"""

import tempfile
from typing import Any, Self

import gymnasium as gym
import numpy as np


class StepCounts:
    """
    The counts, as long as this context lasts.

    :param n_envs: How many environments there are
    """

    def __init__(self, n_envs: int) -> None:
        self._n_envs = n_envs
        self._n_wrapped = 0
        self._file = tempfile.NamedTemporaryFile(prefix="sb3_a3c_steps_")
        self._file.write(np.zeros(n_envs, np.int64).tobytes())
        self._file.flush()
        self._counts = np.memmap(self._file.name, np.int64, "r+")

    def __enter__(self) -> Self:
        return self

    def wrap(self, env: gym.Env) -> gym.Env:
        """
        :param env: An environment
        :return: The same, counted
        """
        assert self._n_wrapped < self._n_envs
        self._n_wrapped += 1
        return StepCounter(env, self._file.name, self._n_wrapped - 1)

    def total(self) -> int:
        """
        :return: The steps that all have made
        """
        return int(self._counts.sum())

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()  # and with it is gone


class StepCounter(gym.Wrapper):
    """
    Counts the steps of an environment.

    :param env: The environment
    :param path: The file of all counts
    :param index: Which of them is this one's
    """

    def __init__(self, env: gym.Env, path: str, index: int) -> None:
        super().__init__(env)
        self._path, self._index = path, index
        self._counts = _mapped(path)

    def step(self, action: Any) -> Any:
        """As the environment's."""
        self._counts[self._index] += 1
        return self.env.step(action)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_counts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._counts = _mapped(self._path)


def _mapped(path: str) -> memoryview:
    """In which to count takes a fraction of the time that it takes in an array."""
    return memoryview(np.memmap(path, np.int64, "r+"))  # type: ignore[arg-type]

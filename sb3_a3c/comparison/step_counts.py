"""
Counts of the steps that environments make, in any thread or process.

The counts are in a file that processes map into memory, with one entry per environment, so that reading them blocks nobody.
Each entry has only one writer, and is written in one piece.
"""

import tempfile
from itertools import count
from typing import Any, Self

import gymnasium as gym
import numpy as np


class StepCounts:
    """The counts of ``n_envs`` environments. They exist while this context is open."""

    def __init__(self, n_envs: int) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="sb3_a3c_steps_")
        self._file.truncate(n_envs * np.dtype(np.int64).itemsize)
        self._counts = np.memmap(self._file.name, np.int64, "r+")
        self._indices = count()

    def __enter__(self) -> Self:
        return self

    def wrap(self, env: gym.Env) -> gym.Env:
        """Return the environment, with its steps counted."""
        return StepCounter(env, self._file.name, next(self._indices))

    def total(self) -> int:
        """Return the steps of all environments."""
        return int(self._counts.sum())

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()  # which deletes the file


class StepCounter(gym.Wrapper):
    """Counts the steps of one environment in an entry of the file."""

    def __init__(self, env: gym.Env, path: str, index: int) -> None:
        super().__init__(env)
        self._path, self._index = path, index
        self._counts = _mapped(path)

    def step(self, action: Any) -> Any:
        self._counts[self._index] += 1
        return self.env.step(action)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_counts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._counts = _mapped(self._path)


def _mapped(path: str) -> memoryview:
    """Map the counts into memory. A memoryview counts several times faster than an array."""
    return memoryview(np.memmap(path, np.int64, "r+"))  # type: ignore[arg-type]

"""
VecNormalize's running statistics, shared by the workers.

Each worker normalizes with statistics of its own, so that no step waits for a lock, and notes every batch that it counts.
The batches are applied to the shared statistics together with the gradient of the rollout that they belong to, by SB3's
own arithmetic, so every observation is counted exactly once, and one worker's statistics are A2C's to the last bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch as th
from numpy.typing import DTypeLike
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_a3c.kernels.normalization import MANY, batch_moments, count_journal, count_moments
from sb3_a3c.system.memory import Memory

_FLOATS = (np.float32, np.float64)


class JournaledMeanStd(RunningMeanStd):
    """
    A worker's running mean and variance, with a journal of the batches that it has counted.

    :param shared: The statistics to start from
    """

    def __init__(self, shared: RunningMeanStd) -> None:
        set_moments(self, moments_of(shared))
        self.journal: list[tuple[np.ndarray, np.ndarray, float]] = []

    def update(self, arr: np.ndarray) -> None:
        """As ``RunningMeanStd.update``, and note the batch. Most batches are counted by compiled code."""
        if not self.compiles(arr):
            super().update(arr)
            return
        batch_mean, batch_var = batch_moments(contiguous(arr, arr.dtype).reshape(len(arr), -1))
        self._count(batch_mean, batch_var, len(arr))

    def update_from_moments(self, batch_mean: np.ndarray, batch_var: np.ndarray, batch_count: float) -> None:
        """Count a batch, and note it."""
        self._count(_as_vector(batch_mean), _as_vector(batch_var), batch_count)

    @staticmethod
    def compiles(arr: np.ndarray) -> bool:
        """
        :param arr: A batch of shape ``(n_envs, ...)``
        :return: Whether compiled code counts it as NumPy does
        """
        return len(arr) < MANY and arr.dtype in _FLOATS

    def note(self, batch_moments: np.ndarray, batch_count: int, moments: np.ndarray) -> None:
        """
        Note a batch that has been counted.

        :param batch_moments: The batch's mean and variance, of shape ``(2, size)``
        :param batch_count: How many it has
        :param moments: The mean and the variance that this makes, of shape ``(2, size)``
        """
        self.mean, self.var = moments.reshape(2, *self.mean.shape)
        self.count += batch_count
        self.journal.append((*batch_moments, batch_count))

    def apply_to(self, old: RunningMeanStd, new: RunningMeanStd) -> None:
        """
        Count in the shared statistics what has been counted here since the last time.

        :param old: The shared statistics before that; the caller holds their lock
        :param new: What they become, to be written
        """
        moments = moments_of(old)
        if not self.journal:
            set_moments(new, moments)
            return
        means, variances, counts = zip(*self.journal, strict=True)
        self.journal.clear()
        if len({array.dtype for array in variances}) == 1:
            rows = len(counts), -1
            mean, var, n_samples = count_journal(
                np.concatenate(means).reshape(rows),
                np.concatenate(variances).reshape(rows),
                np.array(counts, dtype=np.float64),
                moments.mean.reshape(-1),
                moments.var.reshape(-1),
                float(moments.n_samples),
            )
            shape = moments.mean.shape
            moments = Moments(mean.reshape(shape), var.reshape(shape), n_samples)
        else:
            for batch in zip(means, variances, counts, strict=True):
                moments = _counted(moments, *batch)
        set_moments(new, moments)

    def _count(self, batch_mean: np.ndarray, batch_var: np.ndarray, batch_count: float) -> None:
        set_moments(self, _counted(moments_of(self), batch_mean, batch_var, batch_count))
        self.journal.append((batch_mean, batch_var, batch_count))


class SharedMeanStd(RunningMeanStd):
    """
    The shared running mean and variance, in one vector, which can be moved to memory that other processes see too.

    :param start: The statistics to start from
    """

    def __init__(self, start: RunningMeanStd) -> None:
        self._shape = np.shape(start.mean)
        self.memory = Memory(th.empty(2 * int(np.prod(self._shape)) + 1, dtype=th.float64))
        set_moments(self, moments_of(start))

    @property
    def mean(self) -> np.ndarray:  # type: ignore[override]
        """A copy of the mean."""
        return self._mean().copy()

    @mean.setter
    def mean(self, value: np.ndarray) -> None:
        self._mean()[...] = value

    @property
    def var(self) -> np.ndarray:  # type: ignore[override]
        """A copy of the variance."""
        return self._var().copy()

    @var.setter
    def var(self, value: np.ndarray) -> None:
        self._var()[...] = value

    @property
    def count(self) -> float:  # type: ignore[override]
        """How many were counted."""
        return float(self.memory.array[-1])

    @count.setter
    def count(self, value: float) -> None:
        self.memory.array[-1] = value

    def _mean(self) -> np.ndarray:
        return self.memory.array[: len(self.memory.array) // 2].reshape(self._shape)

    def _var(self) -> np.ndarray:
        return self.memory.array[len(self.memory.array) // 2 : -1].reshape(self._shape)


class Moments(NamedTuple):
    """
    What running statistics are at one moment. ``RunningMeanStd`` replaces its arrays and never writes them, so there is
    nothing to copy.

    :param mean: Of the shape of what is counted
    :param var: Of the same shape
    :param n_samples: How many were counted
    """

    mean: np.ndarray
    var: np.ndarray
    n_samples: float


class Course(NamedTuple):
    """
    What running statistics are at some moments, one after another.

    :param means: Of shape ``(n_moments, ...)``
    :param vars: Of the same shape
    :param n_samples: How many were counted at each
    """

    means: np.ndarray
    vars: np.ndarray
    n_samples: list[float]

    @classmethod
    def of(cls, moments: Sequence[Moments]) -> Self:
        """
        :param moments: The moments
        :return: All in one, which is sent in less time
        """
        means, variances, n_samples = zip(*moments, strict=True)
        return cls(np.array(means), np.array(variances), list(n_samples))  # faster than np.stack

    def at(self, index: int) -> Moments:
        """
        :param index: Which moment
        :return: What they are then
        """
        return Moments(self.means[index], self.vars[index], self.n_samples[index])


def moments_of(rms: RunningMeanStd) -> Moments:
    """
    :param rms: Running statistics
    :return: What they are now
    """
    return Moments(rms.mean, rms.var, rms.count)


def set_moments(rms: RunningMeanStd, moments: Moments) -> None:
    """
    :param rms: Running statistics to set
    :param moments: What they become
    """
    rms.mean, rms.var, rms.count = moments


def _counted(moments: Moments, batch_mean: np.ndarray, batch_var: np.ndarray, batch_count: float) -> Moments:
    """What ``RunningMeanStd.update_from_moments`` makes of moments, compiled."""
    mean, var, n_samples = moments
    shape = mean.shape
    mean, var = count_moments(batch_mean, batch_var, float(batch_count), mean.reshape(-1), var.reshape(-1), float(n_samples))
    return Moments(mean.reshape(shape), var.reshape(shape), n_samples + batch_count)


def contiguous(array: np.ndarray, dtype: DTypeLike = np.float64) -> np.ndarray:
    """
    :param array: An array
    :param dtype: The type that it becomes. Kernels are compiled for few types, so that none is compiled while a worker runs
    :return: The same numbers, contiguous and writable
    """
    return array if array.dtype == dtype and array.flags.carray else np.require(array, dtype, ["C", "A", "W"])


def _as_vector(moments: np.ndarray) -> np.ndarray:
    vector = np.reshape(moments, -1)
    return contiguous(vector, vector.dtype if vector.dtype in _FLOATS else np.float64)


def running_statistics(venv: VecEnv) -> list[RunningMeanStd]:
    """
    :param venv: An environment, with or without VecNormalize among its wrappers
    :return: All its running statistics, the outermost wrapper's first
    """
    found: list[RunningMeanStd] = []
    for normalize in _normalizers(venv):
        obs_rms = vars(normalize).get("obs_rms", {})  # there is none without norm_obs, and one a key for Dict
        found += obs_rms.values() if isinstance(obs_rms, dict) else [obs_rms]
        found.append(normalize.ret_rms)
    return found


def journal_statistics(venv: VecEnv) -> list[JournaledMeanStd]:
    """
    Give a worker's environment running statistics of its own, which keep a journal.

    :param venv: The worker's slice of the environment
    :return: Its new statistics, in the order of :func:`running_statistics`
    """
    for normalize in _normalizers(venv):
        obs_rms: Any = vars(normalize).get("obs_rms")
        if isinstance(obs_rms, dict):
            normalize.obs_rms = {key: JournaledMeanStd(rms) for key, rms in obs_rms.items()}
        elif obs_rms is not None:
            vars(normalize)["obs_rms"] = JournaledMeanStd(obs_rms)
        normalize.ret_rms = JournaledMeanStd(normalize.ret_rms)
    return cast("list[JournaledMeanStd]", running_statistics(venv))


def _normalizers(venv: VecEnv) -> Iterator[VecNormalize]:
    while isinstance(venv, VecEnvWrapper):
        if isinstance(venv, VecNormalize):
            yield venv
        venv = venv.venv

"""
VecNormalize's running statistics, shared by the workers.

Each worker normalizes with its own statistics, so that no step waits for a lock, and keeps a journal of the batches that it
counts. The journal is counted in the shared statistics together with the gradient of the rollout, by SB3's own arithmetic.
So every observation is counted exactly once, and one worker's statistics are A2C's to the last bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_a3c.envs.declarations import layers_of
from sb3_a3c.kernels.normalization import MANY, count_journal, step_obs

_FLOATS = (np.float32, np.float64)


class Journal(NamedTuple):
    """
    Batches in the order in which they were counted.

    :param moments: The mean and the variance of each batch, of shape ``(n_batches, 2, size)``
    :param counts: The size of each batch, of shape ``(n_batches,)``
    """

    moments: np.ndarray
    counts: np.ndarray

    def count_in(self, moments: np.ndarray, out: np.ndarray) -> None:
        """
        Count the batches in running statistics.

        :param moments: The statistics, see :func:`moments_of`
        :param out: The new statistics, of the same shape, to be written
        """
        if self.moments.dtype in _FLOATS:
            count_journal(self.moments, self.counts, moments, out)
            return
        rms = RunningMeanStd(shape=(moments.size // 2,))  # of float16, which there is no compiled code for
        set_moments(rms, moments.copy())
        for (mean, var), count in zip(self.moments, self.counts.tolist(), strict=True):
            rms.update_from_moments(mean, var, count)
        out[:] = moments_of(rms)


class JournaledMeanStd(RunningMeanStd):
    """
    A worker's running mean and variance, with a journal of the batches that it has counted.

    :param start: The statistics to start from
    """

    def __init__(self, start: RunningMeanStd) -> None:
        self.mean, self.var, self.count = start.mean, start.var, start.count
        #: The mean and the variance of each batch, ``(2, size)``, and the batch's size.
        self._batches: list[tuple[np.ndarray, float]] = []

    def update(self, arr: np.ndarray) -> None:
        """See ``RunningMeanStd.update``. Compiled code counts most batches."""
        if self.compiles(arr):
            self.update_and_normalize(arr, 1.0, 1.0)
        else:
            super().update(arr)

    def update_from_moments(self, batch_mean: np.ndarray, batch_var: np.ndarray, batch_count: float) -> None:
        """See ``RunningMeanStd.update_from_moments``."""
        super().update_from_moments(batch_mean, batch_var, batch_count)
        self._batches.append((np.stack([np.ravel(batch_mean), np.ravel(batch_var)]), batch_count))

    @staticmethod
    def compiles(arr: np.ndarray) -> bool:
        """
        :param arr: A batch of shape ``(n_envs, ...)``
        :return: Whether compiled code counts it as NumPy does
        """
        return len(arr) < MANY and arr.dtype in _FLOATS

    def update_and_normalize(self, arr: np.ndarray, epsilon: float, clip: float) -> np.ndarray:
        """
        Count a batch with compiled code, and normalize it with the new statistics.

        :param arr: The batch, of shape ``(n_envs, ...)``, see :meth:`compiles`
        :param epsilon: Keeps the denominator from 0
        :param clip: The largest size of a result
        :return: The normalized batch in float32, of the same shape
        """
        normalized: np.ndarray = np.empty(arr.shape, np.float32)
        rows, batch, mean, var = normalized, contiguous(arr, arr.dtype), self.mean, self.var
        if arr.ndim != 2:
            rows = normalized.reshape(len(arr), -1)
            batch, mean, var = batch.reshape(rows.shape), np.reshape(mean, -1), np.reshape(var, -1)
        batch_moments, moments = np.empty((2, len(mean)), arr.dtype), np.empty((2, len(mean)))
        step_obs(batch, mean, var, float(self.count), epsilon, clip, rows, batch_moments, moments)
        self.note(batch_moments, len(arr), moments)
        return normalized

    def note(self, batch_moments: np.ndarray, batch_count: int, moments: np.ndarray) -> None:
        """
        Add a batch that has been counted.

        :param batch_moments: The batch's mean and variance, of shape ``(2, size)``
        :param batch_count: The size of the batch
        :param moments: The new running mean and variance, of shape ``(2, size)``
        """
        self.mean, self.var = moments.reshape(2, *np.shape(self.mean))
        self.count += batch_count
        self._batches.append((batch_moments, batch_count))

    def take_journal(self) -> Journal | None:
        """
        Begin a new journal.

        :return: The batches that have been counted since the last one began, None if there are none
        """
        if not self._batches:
            return None
        moments, counts = zip(*self._batches, strict=True)
        self._batches = []
        return Journal(np.array(moments), np.array(counts, float))


def moments_of(rms: RunningMeanStd) -> np.ndarray:
    """
    :param rms: Running statistics
    :return: The mean, the variance and the count, of shape ``(2 * size + 1,)``
    """
    return stack_moments([(rms.mean, rms.var, rms.count)])[0]


def stack_moments(moments: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """
    :param moments: The mean, the variance and the count of running statistics, at several times
    :return: One row per time, see :func:`moments_of`
    """
    return np.concatenate([np.array(each).reshape(len(moments), -1) for each in zip(*moments, strict=True)], axis=1)


def set_moments(rms: RunningMeanStd, moments: np.ndarray) -> None:
    """
    :param rms: Running statistics to set
    :param moments: The mean, the variance and the count, see :func:`moments_of`. They must not be written any more
    """
    rms.mean, rms.var = moments[:-1].reshape(2, *np.shape(rms.mean))
    rms.count = float(moments[-1])


def contiguous(array: np.ndarray, dtype: DTypeLike = np.float64) -> np.ndarray:
    """
    :param array: An array
    :param dtype: The type of the result. Kernels are compiled for few types, so that none is compiled while a worker runs
    :return: The same numbers, contiguous and writable
    """
    return array if array.dtype == dtype and array.flags.carray else np.array(array, dtype, order="C")


def running_statistics(venv: VecEnv) -> list[RunningMeanStd]:
    """
    :param venv: An environment, with or without VecNormalize among its wrappers
    :return: All its running statistics, the outermost wrapper's first
    """
    found: list[RunningMeanStd] = []
    for normalize in _normalizers(venv):
        obs_rms = vars(normalize).get("obs_rms", {})  # there is none without norm_obs, and one per key for Dict
        found += obs_rms.values() if isinstance(obs_rms, dict) else [obs_rms]
        found.append(normalize.ret_rms)
    return found


def journal_statistics(venv: VecEnv) -> list[JournaledMeanStd]:
    """
    Give a worker's environment its own running statistics, which keep a journal.

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


def _normalizers(venv: VecEnv) -> list[VecNormalize]:
    return [layer for layer in layers_of(venv) if isinstance(layer, VecNormalize)]

"""
The arithmetic of VecNormalize for few environments, compiled.

Every operation is SB3's, in the same order and precision, so the results are its to the last bit: batches are averaged in
the precision of the observations, all else is float64. That holds for fewer than ``FEW`` environments, for NumPy adds up
longer batches in another order. Arrays are made anew and never written again, as SB3's are.
"""

from typing import Any

import numpy as np
from numba import njit

#: From this many numbers on NumPy's sums are unrolled, and come out otherwise than one after another.
FEW = 8

_kernel: Any = njit(cache=True, nogil=False, error_model="numpy", fastmath=False)


@_kernel
def batch_moments(batch):
    """
    :param batch: Of shape ``(n_envs, size)``, with less than ``FEW`` rows
    :return: Mean and variance of the batch, each of shape ``(size,)``
    """
    n_envs, size = batch.shape
    mean, var = np.zeros(size, batch.dtype), np.zeros(size, batch.dtype)
    n = mean.dtype.type(n_envs)
    for j in range(size):
        for env in range(n_envs):
            mean[j] += batch[env, j]
        mean[j] /= n
        for env in range(n_envs):
            deviation = batch[env, j] - mean[j]
            var[j] += deviation * deviation
        var[j] /= n
    return mean, var


@_kernel
def count_moments(batch_mean, batch_var, batch_count, mean, var, count):
    """
    Update running moments with those of a batch, see ``RunningMeanStd.update_from_moments``.

    :param batch_mean: The mean of the batch, of shape ``(size,)``
    :param batch_var: The variance of the batch, of shape ``(size,)``
    :param batch_count: How many the batch has
    :param mean: The running mean, of shape ``(size,)``
    :param var: The running variance, of shape ``(size,)``
    :param count: How many were counted
    :return: The new running mean and the new running variance, each of shape ``(size,)``
    """
    new_mean, new_var = np.empty(mean.size), np.empty(mean.size)
    total_count = count + batch_count
    n = batch_var.dtype.type(batch_count)
    for j in range(mean.size):
        delta = batch_mean[j] - mean[j]
        new_mean[j] = mean[j] + delta * batch_count / total_count
        squares = var[j] * count + batch_var[j] * n
        new_var[j] = (squares + delta * delta * count * batch_count / total_count) / total_count
    return new_mean, new_var


@_kernel
def normalize(batch, mean, var, epsilon, clip):
    """
    :param batch: Of shape ``(n_envs, size)``
    :param mean: The running mean, of shape ``(size,)``
    :param var: The running variance, of shape ``(size,)``
    :param epsilon: Keeps the denominator from 0
    :param clip: The largest size of a result
    :return: The normalized batch in float32, of the same shape
    """
    n_envs, size = batch.shape
    normalized = np.empty((n_envs, size), np.float32)
    for j in range(size):
        scale = np.sqrt(var[j] + epsilon)
        for env in range(n_envs):
            number = (batch[env, j] - mean[j]) / scale
            number = -clip if number < -clip else number
            normalized[env, j] = np.float32(clip if number > clip else number)
    return normalized

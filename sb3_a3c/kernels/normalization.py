"""
The arithmetic of VecNormalize, compiled.

Every operation is SB3's, in the same order and precision, so the results are its to the last bit: batches are averaged in
the precision of the observations, all else is float64. Arrays are made anew and never written again, as SB3's are.
"""

from typing import Any

import numpy as np
from numba import njit

#: As many environments' numbers, or more, NumPy adds up in blocks.
MANY = 128

_OPTIONS: dict[str, Any] = dict(nogil=False, error_model="numpy", fastmath=False, no_cfunc_wrapper=True)
_INNER: dict[str, Any] = dict(no_cpython_wrapper=True, **_OPTIONS)
_kernel: Any = njit(**_OPTIONS)
_inner: Any = njit(**_INNER)


@_kernel
def step_obs(batch, mean, var, count, epsilon, clip, normalized, batch_moments, moments):
    """
    Count the observations of a step, and normalize them with what that makes.

    :param batch: Of shape ``(n_envs, size)``, with less than ``MANY`` rows
    :param mean: The running mean, of shape ``(size,)``
    :param var: The running variance, of shape ``(size,)``
    :param count: How many were counted
    :param epsilon: Keeps the denominator from 0
    :param clip: The largest size of a result
    :param normalized: The normalized batch, in float32 and of the same shape, written
    :param batch_moments: The batch's mean and variance, of shape ``(2, size)``, written
    :param moments: The new running mean and variance, of shape ``(2, size)``, written
    """
    _moments(batch, batch_moments[0], batch_moments[1])
    _count(batch_moments[0], batch_moments[1], float(batch.shape[0]), mean, var, count, moments[0], moments[1])
    _normalize(batch, moments[0], moments[1], epsilon, clip, normalized)


@_kernel
def step_rewards(
    rewards, dones, returns, gamma, mean, var, count, epsilon, clip, new_returns, normalized, batch_moments, moments
):
    """
    Count the returns of a step, and normalize its rewards by their deviation.

    :param rewards: Of shape ``(n_envs,)``, less than ``MANY``
    :param dones: Whether episodes ended, of shape ``(n_envs,)``
    :param returns: The discounted returns before the step, of shape ``(n_envs,)``
    :param gamma: Discount factor
    :param mean: The running mean of the returns, of shape ``(1,)``
    :param var: Their running variance, of shape ``(1,)``
    :param count: How many were counted
    :param epsilon: Keeps the denominator from 0
    :param clip: The largest size of a result
    :param new_returns: The returns, 0 where an episode ended, of shape ``(n_envs,)``, written
    :param normalized: The normalized rewards, in float32 and of shape ``(n_envs,)``, written
    :param batch_moments: The returns' mean and variance, of shape ``(2, 1)``, written
    :param moments: The new running mean and variance, of shape ``(2, 1)``, written
    """
    for env in range(returns.size):
        new_returns[env] = returns[env] * gamma + rewards[env]
    _moments(new_returns.reshape(-1, 1), batch_moments[0], batch_moments[1])
    _count(batch_moments[0], batch_moments[1], float(returns.size), mean, var, count, moments[0], moments[1])
    _normalize(rewards.reshape(-1, 1), np.zeros(1), moments[1], epsilon, clip, normalized.reshape(-1, 1))
    for env in range(returns.size):
        if dones[env]:
            new_returns[env] = 0.0


@_kernel
def batch_moments(batch):
    """
    :param batch: Of shape ``(n_envs, size)``, with less than ``MANY`` rows
    :return: Mean and variance of the batch, each of shape ``(size,)``
    """
    size = batch.shape[1]
    mean, var = np.empty(size, batch.dtype), np.empty(size, batch.dtype)
    _moments(batch, mean, var)
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
    _count(batch_mean, batch_var, batch_count, mean, var, count, new_mean, new_var)
    return new_mean, new_var


@_kernel
def count_journal(batch_means, batch_vars, batch_counts, mean, var, count):
    """
    As :func:`count_moments`, of one batch after another.

    :param batch_means: Of shape ``(n_batches, size)``
    :param batch_vars: Of shape ``(n_batches, size)``
    :param batch_counts: Of shape ``(n_batches,)``
    :param mean: The running mean, of shape ``(size,)``
    :param var: The running variance, of shape ``(size,)``
    :param count: How many were counted
    :return: The new running mean, the new running variance, and how many have been counted
    """
    mean, var = mean.copy(), var.copy()
    for batch in range(len(batch_counts)):
        _count(batch_means[batch], batch_vars[batch], batch_counts[batch], mean, var, count, mean, var)
        count += batch_counts[batch]
    return mean, var, count


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
    normalized = np.empty(batch.shape, np.float32)
    _normalize(batch, mean, var, epsilon, clip, normalized)
    return normalized


@_inner
def _moments(batch, mean, var):
    n_envs, size = batch.shape
    n = mean.dtype.type(n_envs)
    for j in range(size):
        for of_squares in (False, True):  # numba would compile the sum anew for each constant that it is called with
            average = _sum(batch, j, mean[j], of_squares) / n
            if of_squares:
                var[j] = average
            else:
                mean[j] = average


@_inner
def _sum(batch, j, mean, of_squares):
    """Add up a column, or the squares of its deviations from the mean, as NumPy does: one number after another; an only
    column in eight sums, whose sum is taken pairwise."""
    n_envs, size = batch.shape
    start, total = 0, batch.dtype.type(0)
    if size == 1 and n_envs >= 8:
        s0, s1 = _term(batch[0, j], mean, of_squares), _term(batch[1, j], mean, of_squares)
        s2, s3 = _term(batch[2, j], mean, of_squares), _term(batch[3, j], mean, of_squares)
        s4, s5 = _term(batch[4, j], mean, of_squares), _term(batch[5, j], mean, of_squares)
        s6, s7 = _term(batch[6, j], mean, of_squares), _term(batch[7, j], mean, of_squares)
        start = 8
        while start + 8 <= n_envs:
            s0 += _term(batch[start, j], mean, of_squares)
            s1 += _term(batch[start + 1, j], mean, of_squares)
            s2 += _term(batch[start + 2, j], mean, of_squares)
            s3 += _term(batch[start + 3, j], mean, of_squares)
            s4 += _term(batch[start + 4, j], mean, of_squares)
            s5 += _term(batch[start + 5, j], mean, of_squares)
            s6 += _term(batch[start + 6, j], mean, of_squares)
            s7 += _term(batch[start + 7, j], mean, of_squares)
            start += 8
        total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for env in range(start, n_envs):
        total += _term(batch[env, j], mean, of_squares)
    return total


@_inner
def _term(number, mean, square):
    deviation = number - mean
    return deviation * deviation if square else number


@_inner
def _count(batch_mean, batch_var, batch_count, mean, var, count, new_mean, new_var):
    total_count = count + batch_count
    n = batch_var.dtype.type(batch_count)
    for j in range(mean.size):
        delta = batch_mean[j] - mean[j]
        squares = var[j] * count + batch_var[j] * n
        new_mean[j] = mean[j] + delta * batch_count / total_count
        new_var[j] = (squares + delta * delta * count * batch_count / total_count) / total_count


@_inner
def _normalize(batch, mean, var, epsilon, clip, normalized):
    n_envs, size = batch.shape
    for j in range(size):
        scale = np.sqrt(var[j] + epsilon)
        for env in range(n_envs):
            number = (batch[env, j] - mean[j]) / scale
            number = -clip if number < -clip else number
            normalized[env, j] = np.float32(clip if number > clip else number)

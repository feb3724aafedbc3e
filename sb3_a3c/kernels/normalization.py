"""
The arithmetic of VecNormalize.

Every operation is SB3's, in the same order and precision, so the results are equal to the last bit: batches are averaged in
the precision of the observations, everything else is float64. As in SB3, every update allocates new arrays. Old ones are never
overwritten.

Running moments are updated by the batch's, as in Chan et al. 1979 (Updating formulae and a pairwise algorithm for computing
sample variances). With ``delta = batch_mean - mean`` and ``total = count + batch_count``::

    mean <- mean + delta batch_count / total
    var <- (var count + batch_var batch_count + delta^2 count batch_count / total) / total
"""

import numpy as np

from sb3_a3c.kernels.jit import exact, exact_kernel

#: With at least this many environments, NumPy sums in blocks.
MANY = 128


@exact_kernel
def step_obs(batch, mean, var, count, epsilon, clip, normalized, batch_moments, moments):
    """
    Update the running moments with the observations of a step, and normalize the observations with the new moments.

    :param batch: ``(n_envs, size)``, with less than ``MANY`` rows
    :param mean: The running mean, ``(size,)``
    :param var: The running variance, ``(size,)``
    :param count: The number of observations in the running moments
    :param epsilon: Keeps the denominator above 0
    :param clip: The largest absolute value of a result
    :param normalized: Written: the normalized batch, float32, of the same shape
    :param batch_moments: Written: mean and variance of the batch, ``(2, size)``
    :param moments: Written: the new running mean and variance, ``(2, size)``
    """
    _moments(batch, batch_moments[0], batch_moments[1])
    _count(batch_moments[0], batch_moments[1], float(batch.shape[0]), mean, var, count, moments[0], moments[1])
    _normalize(batch, moments[0], moments[1], epsilon, clip, normalized)


@exact_kernel
def step_rewards(
    rewards, dones, returns, gamma, mean, var, count, epsilon, clip, new_returns, normalized, batch_moments, moments
):
    """
    Update the running moments with the discounted returns of a step, and divide its rewards by the standard deviation.

    :param rewards: ``(n_envs,)``, less than ``MANY``
    :param dones: Whether episodes ended, ``(n_envs,)``
    :param returns: The discounted returns before the step, ``(n_envs,)``
    :param gamma: Discount factor
    :param mean: The running mean of the returns
    :param var: Their running variance
    :param count: The number of returns in the running moments
    :param epsilon: Keeps the denominator above 0
    :param clip: The largest absolute value of a result
    :param new_returns: Written: the returns, 0 where an episode ended, ``(n_envs,)``
    :param normalized: Written: the normalized rewards, float32, ``(n_envs,)``
    :param batch_moments: Written: mean and variance of the returns, ``(2, 1)``
    :param moments: Written: the new running mean and variance, ``(2, 1)``
    """
    for env in range(returns.size):
        new_returns[env] = returns[env] * gamma + rewards[env]
    _moments(new_returns.reshape(-1, 1), batch_moments[0], batch_moments[1])
    new_mean, new_var = moments
    new_mean[0], new_var[0] = mean, var
    _count(batch_moments[0], batch_moments[1], float(returns.size), new_mean, new_var, count, new_mean, new_var)
    _normalize(rewards.reshape(-1, 1), np.zeros(1), new_var, epsilon, clip, normalized.reshape(-1, 1))
    for env in range(returns.size):
        if dones[env]:
            new_returns[env] = 0.0


@exact_kernel
def count_journal(batch_moments, batch_counts, moments, out):
    """
    Update running moments with those of several batches, one after another. See ``RunningMeanStd.update_from_moments``.

    :param batch_moments: Means and variances, ``(n_batches, 2, size)``
    :param batch_counts: ``(n_batches,)``
    :param moments: The running mean, the running variance and the number of samples, ``(2 * size + 1,)``
    :param out: Written: the new ones, of the same shape
    """
    size = moments.size // 2
    for i in range(moments.size):
        out[i] = moments[i]
    mean, var = out[:size], out[size : 2 * size]
    for batch in range(len(batch_counts)):
        _count(batch_moments[batch, 0], batch_moments[batch, 1], batch_counts[batch], mean, var, out[2 * size], mean, var)
        out[2 * size] += batch_counts[batch]


@exact_kernel
def normalize(batch, mean, var, epsilon, clip):
    """
    ``min(max((x - mean) / sqrt(var + epsilon), -clip), clip)``.

    :param batch: ``(n_envs, size)``
    :param mean: The running mean, ``(size,)``
    :param var: The running variance, ``(size,)``
    :param epsilon: Keeps the denominator above 0
    :param clip: The largest absolute value of a result
    :return: The normalized batch in float32, of the same shape
    """
    normalized = np.empty(batch.shape, np.float32)
    _normalize(batch, mean, var, epsilon, clip, normalized)
    return normalized


@exact
def _moments(batch, mean, var):
    n_envs, size = batch.shape
    n = mean.dtype.type(n_envs)
    for j in range(size):
        for of_squares in (False, True):  # numba would compile the sum again for each constant argument
            average = _sum(batch, j, mean[j], of_squares) / n
            if of_squares:
                var[j] = average
            else:
                mean[j] = average


@exact
def _sum(batch, j, mean, of_squares):
    """
    Sum a column, or the squares of its deviations from the mean, in NumPy's order: one number after another, but a single
    column in eight partial sums, which are added in pairs.
    """
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


@exact
def _term(number, mean, square):
    deviation = number - mean
    return deviation * deviation if square else number


@exact
def _count(batch_mean, batch_var, batch_count, mean, var, count, new_mean, new_var):
    total_count = count + batch_count
    n = batch_var.dtype.type(batch_count)
    for j in range(mean.size):
        delta = batch_mean[j] - mean[j]
        squares = var[j] * count + batch_var[j] * n
        new_mean[j] = mean[j] + delta * batch_count / total_count
        new_var[j] = (squares + delta * delta * count * batch_count / total_count) / total_count


@exact
def _normalize(batch, mean, var, epsilon, clip, normalized):
    n_envs, size = batch.shape
    for j in range(size):
        scale = np.sqrt(var[j] + epsilon)
        for env in range(n_envs):
            number = (batch[env, j] - mean[j]) / scale
            number = -clip if number < -clip else number
            normalized[env, j] = np.float32(clip if number > clip else number)

"""Returns and advantages of a rollout."""

import numpy as np

from sb3_a3c.kernels.float32 import ONE, ZERO
from sb3_a3c.kernels.jit import exact_kernel


@exact_kernel
def returns(rewards, episode_starts, values, last_values, dones, gamma, gae_lambda, advantages, out):
    """
    Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16)::

        delta_t = r_t + gamma V(s_t+1) - V(s_t)
        A_t = delta_t + gamma lambda A_t+1
        R_t = A_t + V(s_t)

    With ``lambda = 1``, ``R`` is the n-step return of A3C (Mnih et al. 2016, algorithm S3). The results are those of SB3's
    ``RolloutBuffer.compute_returns_and_advantage``, to the last bit.

    :param rewards: ``(n_steps, n_envs)``
    :param episode_starts: ``(n_steps, n_envs)``
    :param values: ``(n_steps, n_envs)``
    :param last_values: Values after the last step, ``(n_envs, 1)``
    :param dones: Whether episodes ended with the last step, ``(n_envs,)``
    :param gamma: Discount factor
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param advantages: Written, ``(n_steps, n_envs)``
    :param out: Written: the returns, ``(n_steps, n_envs)``
    """
    n_steps, n_envs = rewards.shape
    decay, trace = np.float32(gamma), np.float32(gamma * gae_lambda)
    for env in range(n_envs):
        last = ZERO
        next_value, goes_on = last_values[env, 0], ONE - dones[env]
        for step in range(n_steps - 1, -1, -1):
            error = rewards[step, env] + decay * next_value * goes_on - values[step, env]
            last = error + trace * goes_on * last
            advantages[step, env] = last
            out[step, env] = last + values[step, env]
            next_value, goes_on = values[step, env], ONE - episode_starts[step, env]

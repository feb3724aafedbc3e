"""
Generalized state-dependent exploration, gSDE (Raffin et al. 2021, arXiv 2005.05719, section 3).

An action is ``a = mean(s) + E z(s)``, where ``z`` are the inputs of the actor's last layer (the latent), and the noise
matrix ``E`` of each environment is drawn once for several steps, with ``E_kj ~ N(0, sigma_kj^2)``. So
``a_j ~ N(mean_j, sum_k z_k^2 sigma_kj^2 + 1e-6)``.
"""

import math

import numpy as np

from sb3_a3c.kernels.float32 import HALF, HALF_LOG_TWO_PI, ONE, TWO, ZERO
from sb3_a3c.kernels.jit import exact, inner, kernel
from sb3_a3c.kernels.network_table import LOG_STD, N_ACTIONS, STD_COLUMNS
from sb3_a3c.kernels.networks import size_of_latent
from sb3_a3c.kernels.random_numbers import normal

#: Added to a variance, as in SB3.
EPSILON = 1e-6
_EPSILON = np.float32(EPSILON)


@kernel
def draw_noise(network, vector, rng, noise):
    """
    Draw one noise matrix per environment.

    :param network: The table of the network
    :param vector: The parameters, ``(size,)``
    :param rng: Read and written: the random generator's state
    :param noise: Written: the variances of a matrix's elements, then one matrix after another, each of shape
        ``(n_latent, n_actions)`` and flat
    """
    n_actions, n_latent = network[N_ACTIONS], size_of_latent(network)
    size = n_latent * n_actions
    noise_variances(network, vector, noise[:size])
    for start in range(size, noise.size, size):
        for i in range(size):
            noise[start + i] = math.sqrt(noise[i]) * np.float32(normal(rng))


@inner
def noise_variances(network, vector, variances):
    """
    :param network: The table of the network
    :param vector: The parameters, ``(size,)``
    :param variances: Written: ``sigma_kj^2``, of shape ``(n_latent, n_actions)`` and flat. A single column of standard
        deviations is used for all actions
    """
    n_actions, columns = network[N_ACTIONS], network[STD_COLUMNS]
    for i in range(variances.size):
        row, column = i // n_actions, i % n_actions
        variances[i] = math.exp(TWO * vector[network[LOG_STD] + row * columns + min(column, columns - 1)])


@exact
def sample_state_dependent(variances, matrix, latent, head, action):
    """
    Compute one action from a noise matrix.

    :param variances: See :func:`noise_variances`
    :param matrix: The noise matrix, of shape ``(n_latent, n_actions)`` and flat
    :param latent: ``z``, ``(n_latent,)``
    :param head: The actor's outputs, ``(n_actions,)``
    :param action: Written, ``(n_actions,)``
    :return: The log probability density of the action
    """
    n_actions, log_prob = action.size, ZERO
    for j in range(n_actions):
        noise, variance = ZERO, ZERO
        for k in range(latent.size):
            noise += latent[k] * matrix[k * n_actions + j]
            variance += latent[k] * latent[k] * variances[k * n_actions + j]
        action[j] = head[j] + noise
        std = math.sqrt(variance + _EPSILON)
        z = (action[j] - head[j]) / std
        log_prob -= HALF * z * z + math.log(std) + HALF_LOG_TWO_PI
    return log_prob


@inner
def state_dependent_gradient(network, variances, latent, head, action, policy_weight, entropy_weight, delta, out):
    """
    The gradient of ``policy_weight log pi(a|s) + entropy_weight H(pi(s))``. As in SB3, there is none of the latent through
    the noise.

    :param network: The table of the network
    :param variances: See :func:`noise_variances`
    :param latent: ``z``, ``(n_latent,)``
    :param head: The actor's outputs, ``(n_actions,)``
    :param action: ``(n_actions,)``
    :param policy_weight: Factor of the log probability
    :param entropy_weight: Factor of the entropy
    :param delta: Written: the gradient of the actor's outputs
    :param out: Added to: the gradient of the standard deviations' logarithms, among all parameters, ``(size,)``
    :return: The log probability density of the action, and the entropy
    """
    n_actions, columns, at = action.size, network[STD_COLUMNS], network[LOG_STD]
    log_prob, entropy = ZERO, ZERO
    for j in range(n_actions):
        variance = _EPSILON
        for k in range(latent.size):
            variance += latent[k] * latent[k] * variances[k * n_actions + j]
        std = math.sqrt(variance)
        z = (action[j] - head[j]) / std
        log_prob -= HALF * z * z + math.log(std) + HALF_LOG_TWO_PI
        entropy += HALF + HALF_LOG_TWO_PI + math.log(std)
        delta[j] = policy_weight * z / std
        weight = (policy_weight * (z * z - ONE) + entropy_weight) / variance
        for k in range(latent.size):
            out[at + k * columns + min(j, columns - 1)] += weight * latent[k] * latent[k] * variances[k * n_actions + j]
    return log_prob, entropy

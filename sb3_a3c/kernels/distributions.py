"""
Distributions of actions: draw an action, its log probability, and the gradients of log probability and entropy.

All kinds are branches of two functions, since every additional function takes time to compile. See
:mod:`~sb3_a3c.kernels.state_dependent_noise` for gSDE.

- Gaussian: ``a ~ N(mean, exp(log_std)^2)`` with the actor's outputs as ``mean`` and ``log_std`` a parameter.
- Bounded: a Gaussian with ``mean = center + half_width tanh(x)`` and ``std = log(1 + e^y) + 1e-4``, where ``x`` and ``y`` are
  the first and the second half of the actor's outputs.
- Categorical: ``p_j = exp(l_j) / sum_k exp(l_k)`` with the actor's outputs as logits ``l``, for one or several choices.
- Bernoulli: ``p_j = 1 / (1 + exp(-l_j))``.

``limits`` holds the activation's parameter, the lowest actions, and the highest actions.
"""

import math

import numpy as np

from sb3_a3c.kernels.activations import softplus, tanh
from sb3_a3c.kernels.float32 import HALF, HALF_LOG_TWO_PI, INFINITY, NAN, ONE, ZERO
from sb3_a3c.kernels.jit import exact, inner
from sb3_a3c.kernels.network_table import ACTION_KIND, ACTION_SIZES, BOUNDED, CATEGORICAL, CLIP_ACTIONS, GAUSSIAN, LOG_STD
from sb3_a3c.kernels.random_numbers import normal, uniform

#: The lowest standard deviation of a BoundedMlpPolicy.
_MIN_STD = np.float32(1e-4)


@exact
def sample(network, limits, vector, rng, head, action):
    """
    Draw one action.

    :param network: The table of the network
    :param limits: See above
    :param vector: The parameters, ``(size,)``
    :param rng: Read and written: the random generator's state
    :param head: The actor's outputs. Logits are overwritten
    :param action: Written, ``(n_actions,)``
    :return: The log probability (density) of the action
    """
    kind = network[ACTION_KIND]
    log_prob = ZERO
    if kind == GAUSSIAN:
        log_std = vector[network[LOG_STD] : network[LOG_STD] + head.size]
        for j in range(head.size):
            std = math.exp(log_std[j])
            action[j] = head[j] + std * np.float32(normal(rng))
            z = (action[j] - head[j]) / std
            log_prob -= HALF * z * z + log_std[j] + HALF_LOG_TWO_PI
    elif kind == CATEGORICAL:
        start = 0
        for j in range(action.size):
            size = network[network[ACTION_SIZES] + j]
            choice, log_p = _choose(rng, head[start : start + size])
            action[j] = choice
            log_prob += log_p
            start += size
    elif kind == BOUNDED:
        n_actions = action.size
        for j in range(n_actions):
            mean, std = _bounded_mean(limits, n_actions, j, tanh(head[j])), softplus(head[n_actions + j]) + _MIN_STD
            action[j] = mean + std * np.float32(normal(rng))
            if network[CLIP_ACTIONS]:
                action[j] = _clip_one(limits, n_actions, j, action[j])
            z = (action[j] - mean) / std
            log_prob -= HALF * z * z + math.log(std) + HALF_LOG_TWO_PI
    else:
        for j in range(head.size):
            taken = uniform(rng) * (1.0 + math.exp(-np.float64(head[j]))) < 1.0
            action[j] = ONE if taken else ZERO
            log_prob += (head[j] if taken else ZERO) - softplus(head[j])
    return log_prob


@exact
def _choose(rng, logits):
    """Draw from a categorical distribution with the inverse of its cumulative distribution. Overwrites the logits."""
    highest = logits[0]
    for j in range(logits.size):
        highest = logits[j] if logits[j] > highest else highest
    total = 0.0
    for j in range(logits.size):
        logits[j] = math.exp(logits[j] - highest)
        total += logits[j]
    # The sums below are the ones above, so the last of them is greater than any part of the total.
    target, choice = uniform(rng) * total, logits.size - 1
    cumulative = 0.0
    for j in range(logits.size):
        cumulative += logits[j]
        if cumulative > target:
            choice = j
            break
    return choice, np.float32(math.log(logits[choice] / total))


@inner
def clip(limits, actions, clipped_actions):
    """
    :param limits: See above
    :param actions: ``(n_envs, n_actions)``
    :param clipped_actions: Written: the actions within the limits, of the same shape
    """
    n_envs, n_actions = actions.shape
    for env in range(n_envs):
        for j in range(n_actions):
            clipped_actions[env, j] = _clip_one(limits, n_actions, j, actions[env, j])


@inner
def _clip_one(limits, n_actions, j, action):
    low, high = limits[1 + j], limits[1 + n_actions + j]
    action = low if action < low else action
    return high if action > high else action


@exact
def _half_width(limits, n_actions, j):
    return np.float32(0.5 * np.float64(limits[1 + n_actions + j]) - 0.5 * np.float64(limits[1 + j]))


@exact
def _bounded_mean(limits, n_actions, j, tanh):
    center = np.float32(0.5 * np.float64(limits[1 + j]) + 0.5 * np.float64(limits[1 + n_actions + j]))
    return center + _half_width(limits, n_actions, j) * tanh


@inner
def action_gradient(network, limits, vector, head, action, policy_weight, entropy_weight, delta, out):
    """
    The gradient of ``policy_weight log pi(a|s) + entropy_weight H(pi(s))``.

    :param network: The table of the network
    :param limits: See above
    :param vector: The parameters, ``(size,)``
    :param head: The actor's outputs
    :param action: ``(n_actions,)``
    :param policy_weight: Factor of the log probability
    :param entropy_weight: Factor of the entropy
    :param delta: Written: the gradient of the actor's outputs
    :param out: Added to: the gradient of the parameters that are standard deviations, ``(size,)``
    :return: The log probability (density) of the action, and the entropy
    """
    kind = network[ACTION_KIND]
    log_prob, entropy = ZERO, ZERO
    if kind == GAUSSIAN:
        at = network[LOG_STD]
        for j in range(head.size):
            log_std = vector[at + j]
            std = math.exp(log_std)
            z = (action[j] - head[j]) / std
            log_prob -= HALF * z * z + log_std + HALF_LOG_TWO_PI
            entropy += HALF + HALF_LOG_TWO_PI + log_std
            delta[j] = policy_weight * z / std
            # As in torch, there is no derivative where the standard deviation overflows or vanishes.
            known = ONE if std > ZERO and std < INFINITY else NAN
            out[at + j] += known * (policy_weight * (z * z - ONE) + entropy_weight)
    elif kind == CATEGORICAL:
        start = 0
        for j in range(action.size):
            size = network[network[ACTION_SIZES] + j]
            part = slice(start, start + size)
            log_p, h = _categorical_gradient(head[part], int(action[j]), policy_weight, entropy_weight, delta[part])
            log_prob += log_p
            entropy += h
            start += size
    elif kind == BOUNDED:
        n_actions = action.size
        for j in range(n_actions):
            tanh_x, y = tanh(head[j]), head[n_actions + j]
            std = softplus(y) + _MIN_STD
            z = (action[j] - _bounded_mean(limits, n_actions, j, tanh_x)) / std
            log_prob -= HALF * z * z + math.log(std) + HALF_LOG_TWO_PI
            entropy += HALF + HALF_LOG_TWO_PI + math.log(std)
            known = ONE if std < INFINITY else NAN  # as above
            delta[j] = known * policy_weight * z / std * _half_width(limits, n_actions, j) * (ONE - tanh_x * tanh_x)
            delta[n_actions + j] = known * (policy_weight * (z * z - ONE) + entropy_weight) / std / (ONE + math.exp(-y))
    else:
        for j in range(head.size):
            p, log_normalizer = ONE / (ONE + math.exp(-head[j])), softplus(head[j])
            log_prob += action[j] * head[j] - log_normalizer
            entropy += log_normalizer - head[j] * p
            delta[j] = policy_weight * (action[j] - p) - entropy_weight * head[j] * p * (ONE - p)
    return log_prob, entropy


@inner
def _categorical_gradient(logits, choice, policy_weight, entropy_weight, delta):
    """``d log p_c / d l_j = [j = c] - p_j``, ``d H / d l_j = -p_j (log p_j + H)``."""
    highest = logits[0]
    for j in range(logits.size):
        highest = logits[j] if logits[j] > highest else highest
    total = ZERO
    for j in range(logits.size):
        delta[j] = math.exp(logits[j] - highest)
        total += delta[j]
    log_total = highest + math.log(total)
    entropy = ZERO
    for j in range(logits.size):
        delta[j] /= total
        entropy -= delta[j] * (logits[j] - log_total)
    for j in range(logits.size):
        delta[j] = -delta[j] * (policy_weight + entropy_weight * (logits[j] - log_total + entropy))
    if choice < 0 or choice >= logits.size:
        return NAN, entropy
    delta[choice] += policy_weight
    return logits[choice] - log_total, entropy

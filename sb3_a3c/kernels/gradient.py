"""The gradient of A2C's loss over a rollout."""

import math

import numpy as np

from sb3_a3c.kernels.distributions import action_gradient
from sb3_a3c.kernels.float32 import ONE, TWO, ZERO
from sb3_a3c.kernels.jit import inner, kernel, merged
from sb3_a3c.kernels.network_table import ACTION_KIND, ACTOR, CRITIC, CRITIC_INPUTS, N_ACTIONS, STATE_DEPENDENT, WIDEST
from sb3_a3c.kernels.networks import (
    backward,
    features,
    forward,
    hidden_of,
    inputs_of,
    latent_of_actor,
    outputs_of,
    size_of_latent,
)
from sb3_a3c.kernels.state_dependent_noise import noise_variances, state_dependent_gradient


@kernel
def gradient(
    network,
    limits,
    vector,
    observations,
    actions,
    advantages,
    returns,
    valid,
    kept,
    workspace,
    out,
    inputs_out,
    ent_coef,
    vf_coef,
    max_grad_norm,
    normalize_advantage,
):
    """
    The gradient of ``mean(-A log pi(a|s)) - ent_coef mean(H(pi(s))) + vf_coef mean((R - V(s))^2)``, clipped
    (Mnih et al. 2016, section 4; with means over the rollout, as in SB3's A2C).

    :param network: The table of the network
    :param limits: The activation's parameter, the lowest actions, the highest actions
    :param vector: The parameters, ``(size,)``
    :param observations: ``(n_steps, n_envs, n_obs)``, or the networks' inputs (see :data:`CRITIC_INPUTS`)
    :param actions: ``(n_steps, n_envs, n_actions)``
    :param advantages: ``A``, ``(n_steps, n_envs)``
    :param returns: ``R``, ``(n_steps, n_envs)``
    :param valid: Which steps the loss is a mean over, ``(n_steps, n_envs)``. Empty: all
    :param kept: The outputs of all layers, as :func:`~sb3_a3c.kernels.acting.act` has computed them with the same parameters
        from the same observations. Empty: they are computed again
    :param workspace: Overwritten
    :param out: Written: the gradient, ``(size,)``, with zeros between parameters
    :param inputs_out: Written: the gradient of the networks' inputs, flat. Empty: there is none to compute. If it is computed,
        ``out`` is not yet the gradient of all parameters, and is not clipped
    :param ent_coef: Entropy coefficient
    :param vf_coef: Value function coefficient
    :param max_grad_norm: The largest L2 norm; a longer gradient is scaled down to it.
    :param normalize_advantage: Whether to normalize the advantages
    :return: Policy loss, value loss, entropy loss (NaN if no step is valid), whether the gradient is finite
    """
    n_rows = observations.shape[0] * observations.shape[1]
    widest = n_rows * network[WIDEST]
    delta, spare, hidden = workspace[:widest], workspace[widest : 2 * widest], workspace[2 * widest :]
    inputs, room, _ = features(network, observations.reshape(observations.size), n_rows, hidden)
    free = hidden[room:]
    advantage, target = advantages.reshape(n_rows), returns.reshape(n_rows)
    out[:] = ZERO
    is_valid = valid.reshape(valid.size)
    n_valid = n_rows
    for row in range(is_valid.size):
        n_valid -= not is_valid[row]
    share = np.float32(1.0 / n_valid)

    mean, scale = ZERO, ONE
    if normalize_advantage and n_valid > 1:
        mean, scale = _mean_and_scale(advantage, is_valid, n_valid)
    taken = actions.reshape(actions.size)
    n_actions, n_latent = network[N_ACTIONS], size_of_latent(network)
    entropy_weight = np.float32(-ent_coef) * share
    value_weight = np.float32(vf_coef) * TWO * share
    state_dependent = network[ACTION_KIND] == STATE_DEPENDENT
    variances = np.empty(n_latent * n_actions if state_dependent else 0, np.float32)
    if state_dependent:
        noise_variances(network, vector, variances)
    policy_loss, value_loss, entropy_loss = 0.0, 0.0, 0.0
    for is_actor in (True, False):
        net = network[ACTOR] if is_actor else network[CRITIC]
        x = inputs_of(network, net, inputs, n_rows)
        hidden = free if kept.size == 0 else hidden_of(network, net, kept, n_rows)
        if kept.size == 0:
            head = forward(network, net, vector, limits[0], x, hidden, 0, n_rows, n_rows)
        else:
            head = outputs_of(network, net, hidden, n_rows)
        n_outputs = head.size // n_rows
        latent = latent_of_actor(network, x, hidden, 0, n_rows, n_rows)
        for row in range(n_rows):
            error = delta[row * n_outputs : (row + 1) * n_outputs]
            if is_valid.size > 0 and not is_valid[row]:
                for k in range(n_outputs):
                    error[k] = ZERO
                continue
            if not is_actor:
                value_error = head[row] - target[row]
                value_loss += value_error * value_error
                delta[row] = value_weight * value_error
                continue
            weight = (advantage[row] - mean) / scale
            outputs, action = head[row * n_outputs : (row + 1) * n_outputs], taken[row * n_actions : (row + 1) * n_actions]
            if state_dependent:
                latent_row = latent[row * n_latent : (row + 1) * n_latent]
                log_prob, entropy = state_dependent_gradient(
                    network, variances, latent_row, outputs, action, -weight * share, entropy_weight, error, out
                )
            else:
                log_prob, entropy = action_gradient(
                    network, limits, vector, outputs, action, -weight * share, entropy_weight, error, out
                )
            policy_loss -= weight * log_prob
            entropy_loss -= entropy
        x_out = inputs_of(network, net, inputs_out, n_rows)
        if not is_actor and network[CRITIC_INPUTS] == 0:
            x_out = x_out[:0]  # the critic's gradient does not flow into inputs that it shares with the actor
        backward(network, net, vector, limits[0], x, hidden, delta, spare, out, x_out, n_rows)
    finite = True
    if inputs_out.size == 0:
        finite = clip_norm(out, max_grad_norm)
    return policy_loss / n_valid, value_loss / n_valid, entropy_loss / n_valid, finite


@inner
def _mean_and_scale(numbers, is_valid, n_valid):
    """What advantages are normalized with: the mean, and the unbiased standard deviation plus 1e-8."""
    total = 0.0
    for row in range(numbers.size):
        if is_valid.size == 0 or is_valid[row]:
            total += numbers[row]
    mean = total / n_valid
    squares = 0.0
    for row in range(numbers.size):
        if is_valid.size == 0 or is_valid[row]:
            deviation = numbers[row] - mean
            squares += deviation * deviation
    return np.float32(mean), np.float32(math.sqrt(squares / (n_valid - 1))) + np.float32(1e-8)


@merged
def clip_norm(out, max_grad_norm):
    """
    ``g <- g min(1, max_grad_norm / (|g| + 1e-6))``. As in torch, a norm that overflows makes a gradient of zeros.

    :param out: Read and written: ``g``
    :param max_grad_norm: The largest L2 norm
    :return: Whether ``g`` is finite
    """
    squares = ZERO
    for i in range(out.size):
        squares += out[i] * out[i]
    norm = math.sqrt(squares)
    scale = np.float32(max_grad_norm) / (norm + np.float32(1e-6))
    scale = ONE if scale > ONE else scale
    if scale != ONE:
        for i in range(out.size):
            out[i] *= scale
    if math.isfinite(norm):
        return True
    for i in range(out.size):
        if not math.isfinite(out[i]):
            return False
    return True

"""
The arithmetic of the fused engine: numba functions on arrays, which read what the network is from a table of integers.

Types do not depend on shapes, so each function is compiled once for all networks. All of them are in this one file, for
numba's cache would not notice that a function which another file calls has changed. They keep the GIL: a release takes
longer than most of them. Vectors that go in and out are float32 and C-contiguous; the engine sees to their shapes, for
nothing is checked here.

Nothing is compiled, and no cache is touched, when this file is imported (see :mod:`~sb3_a3c.kernels.cache`). A user
waits for the first compilation, so it is kept short. Each inner function is compiled to machine code by itself and once
more within each of its callers, so those with few callers are merged into them before that (``_merged``), and both
networks go through one call in a loop. An assignment of one array to another compiles error messages, which takes
seconds; loops do not.

The flags of ``_FAST`` let sums be reordered, so that they are vectorized. NaN and infinity stay what they are, since a
gradient that is not finite must be noticed.
"""

import math
from typing import Any

import numpy as np
from numba import njit

# All options are given each time: one that is not would be taken over from whichever function happens to call first.
_OPTIONS: dict[str, Any] = dict(nogil=False, error_model="numpy", no_cfunc_wrapper=True)
_INNER: dict[str, Any] = dict(no_cpython_wrapper=True, **_OPTIONS)
_FAST = {"reassoc", "contract", "arcp", "afn", "nsz"}
_kernel: Any = njit(fastmath=_FAST, **_OPTIONS)
_inner: Any = njit(fastmath=_FAST, **_INNER)
#: With few callers, whose flags it takes over.
_merged: Any = njit(fastmath=_FAST, inline="always", **_INNER)
#: Where the order of operations matters, but not whether a product is rounded before it is added.
_contracted: Any = njit(fastmath={"contract"}, **_INNER)
#: Where the last bit matters.
_exact: Any = njit(fastmath=False, **_INNER)
_exact_kernel: Any = njit(fastmath=False, **_OPTIONS)

# What stands where in the table that describes a network.
OBS_KIND, N_OBS, N_FEATURES, OBS_SIZES = 0, 1, 2, 3
ACTION_KIND, N_ACTIONS, ACTION_SIZES, LOG_STD = 4, 5, 6, 7
ACTIVATION, ACTOR, CRITIC, ACTOR_UNITS, CRITIC_UNITS, WIDEST = 8, 9, 10, 11, 12, 13
STD_COLUMNS, CLIP_ACTIONS = 14, 15
N_FIELDS = 16
#: A layer is (inputs, outputs, where its weight begins in the vector, where its bias begins).
LAYER_FIELDS = 4

FLAT, ONE_HOT = 0, 1
GAUSSIAN, CATEGORICAL, BERNOULLI, STATE_DEPENDENT, BOUNDED = 0, 1, 2, 3, 4
IDENTITY, TANH, RECTIFIER, ELU, RELU6, SIGMOID = 0, 1, 2, 3, 4, 5

_ZERO, _HALF, _ONE, _TWO, _SIX = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0, 6.0))
_HALF_LOG_TWO_PI = np.float32(0.5 * math.log(2.0 * math.pi))
#: What gSDE adds to a variance.
SDE_EPSILON = 1e-6
_SDE_EPSILON = np.float32(SDE_EPSILON)
#: Of BoundedMlpPolicy; a constant of its own, for numba's cache would not notice that another file's has changed.
_MIN_STD = np.float32(1e-4)

# exp(x) = 2^n e^r with n = x / ln 2 to the nearest whole number; tanh(x) = x + x^3 p(x^2) up to 0.625. The polynomials are
# those of the Cephes library.
_EXP_LOWEST, _TANH_SMALL = np.float32(-87.3), np.float32(0.625)
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504088896341), np.float32(0.693359375), np.float32(-2.12194440e-4)
_E0, _E1, _E2, _E3, _E4, _E5 = (
    np.float32(number)
    for number in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_T0, _T1, _T2, _T3, _T4 = (
    np.float32(number)
    for number in (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)

_U11, _U17, _U19, _U23, _U41, _U45 = (np.uint64(number) for number in (11, 17, 19, 23, 41, 45))
_TWO_TO_MINUS_53 = 2.0**-53


# One step


@_kernel
def act(network, limits, vector, rng, noise, obs, step, observations, actions, clipped_actions, values, log_probs, workspace):
    """
    Sample an action for each environment, and value what it observes: one row of a rollout.

    :param network: The table that describes the network
    :param limits: The activation's parameter, then the lowest and then the highest actions
    :param vector: The parameters, of shape ``(size,)``
    :param rng: The state of the random generator, four numbers
    :param noise: What :func:`draw_noise` has drawn, if actions are drawn by gSDE
    :param obs: Of shape ``(n_envs, n_obs)``
    :param step: Which row is written of all that follow
    :param observations: Of shape ``(n_steps, n_envs, n_obs)``
    :param actions: Of shape ``(n_steps, n_envs, n_actions)``
    :param clipped_actions: The actions within their limits, of the same shape
    :param values: Of shape ``(n_steps, n_envs)``
    :param log_probs: Of shape ``(n_steps, n_envs)``
    :param workspace: Room for what is computed
    :return: -1; or an environment whose observation is outside of its space; or, plus ``n_envs``, one for which the
        actor's outputs are not finite
    """
    n_envs = obs.shape[0]
    for env in range(n_envs):
        for i in range(obs.shape[1]):
            observations[step, env, i] = obs[env, i]
    x, room, trouble = _features(network, obs.reshape(obs.size), n_envs, workspace)
    head = workspace
    for is_actor in (False, True):
        net = network[ACTOR] if is_actor else network[CRITIC]
        head = _forward(network, net, vector, limits[0], x, workspace[room:], n_envs)
        if not is_actor:
            for env in range(n_envs):
                values[step, env] = head[env]
    n_outputs = head.size // n_envs
    latent = _latent(network, x, workspace[room:], n_envs)
    n_latent = latent.size // n_envs
    for env in range(n_envs):
        part = head[env * n_outputs : (env + 1) * n_outputs]
        if network[ACTION_KIND] == STATE_DEPENDENT:
            matrix = noise[(env + 1) * n_latent * n_outputs : (env + 2) * n_latent * n_outputs]
            below = latent[env * n_latent : (env + 1) * n_latent]
            log_probs[step, env] = _sample_state_dependent(noise, matrix, below, part, actions[step, env])
        else:
            log_probs[step, env] = _sample(network, limits, vector, rng, part, actions[step, env])
        if trouble < 0 and not math.isfinite(log_probs[step, env]):
            trouble = n_envs + env
    _clip(limits, actions[step], clipped_actions[step])
    return trouble


@_kernel
def draw_noise(network, vector, rng, noise):
    """
    Draw the matrices from which gSDE makes the noise of one environment each.

    :param network: The table that describes the network
    :param vector: The parameters, of shape ``(size,)``
    :param rng: The state of the random generator, four numbers
    :param noise: Written: the variances of a matrix's elements, and then one matrix after another, each of shape
        ``(n_latent, n_actions)`` and flat
    """
    n_actions, n_latent = network[N_ACTIONS], _n_latent(network)
    size = n_latent * n_actions
    _noise_variances(network, vector, noise[:size])
    for start in range(size, noise.size, size):
        for i in range(size):
            noise[start + i] = math.sqrt(noise[i]) * np.float32(_normal(rng))


@_kernel
def predict_values(network, limits, vector, observations, values, workspace):
    """
    :param network: The table that describes the network
    :param limits: The activation's parameter, and more
    :param vector: The parameters, of shape ``(size,)``
    :param observations: Of shape ``(n, n_obs)``
    :param values: Of shape ``(n,)``, written
    :param workspace: Room for what is computed
    :return: The first row whose observation is outside of its space, or -1
    """
    n_rows = observations.shape[0]
    x, room, stray = _features(network, observations.reshape(observations.size), n_rows, workspace)
    value = _forward(network, network[CRITIC], vector, limits[0], x, workspace[room:], n_rows)
    for row in range(n_rows):
        values[row] = value[row]
    return stray


# One rollout


@_exact_kernel
def returns(rewards, episode_starts, values, last_values, dones, gamma, gae_lambda, advantages, out):
    """
    As SB3's ``RolloutBuffer.compute_returns_and_advantage``, to the last bit.

    :param rewards: Of shape ``(n_steps, n_envs)``
    :param episode_starts: Of shape ``(n_steps, n_envs)``
    :param values: Of shape ``(n_steps, n_envs)``
    :param last_values: Values after the last step, of shape ``(n_envs, 1)``
    :param dones: Whether episodes ended with the last step, of shape ``(n_envs,)``
    :param gamma: Discount factor
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param advantages: Of shape ``(n_steps, n_envs)``, written
    :param out: The returns, of shape ``(n_steps, n_envs)``, written
    """
    n_steps, n_envs = rewards.shape
    decay, trace = np.float32(gamma), np.float32(gamma * gae_lambda)
    for env in range(n_envs):
        last = _ZERO
        next_value, goes_on = last_values[env, 0], _ONE - dones[env]
        for step in range(n_steps - 1, -1, -1):
            error = rewards[step, env] + decay * next_value * goes_on - values[step, env]
            last = error + trace * goes_on * last
            advantages[step, env] = last
            out[step, env] = last + values[step, env]
            next_value, goes_on = values[step, env], _ONE - episode_starts[step, env]


@_kernel
def gradient(
    network,
    limits,
    vector,
    observations,
    actions,
    advantages,
    returns,
    workspace,
    out,
    ent_coef,
    vf_coef,
    max_grad_norm,
    normalize_advantage,
):
    """
    The gradient of ``mean(-A log pi(a|s)) - ent_coef mean(H) + vf_coef mean((R - V(s))^2)``, clipped.

    :param network: The table that describes the network
    :param limits: The activation's parameter, and more
    :param vector: The parameters, of shape ``(size,)``
    :param observations: Of shape ``(n_steps, n_envs, n_obs)``
    :param actions: Of shape ``(n_steps, n_envs, n_actions)``
    :param advantages: Of shape ``(n_steps, n_envs)``
    :param returns: Of shape ``(n_steps, n_envs)``
    :param workspace: Room for what is computed
    :param out: The gradient, of shape ``(size,)``, written; zeros between parameters
    :param ent_coef: Entropy coefficient
    :param vf_coef: Value function coefficient
    :param max_grad_norm: The norm to which a longer gradient is scaled down
    :param normalize_advantage: Whether advantages are normalized
    :return: Policy loss, value loss, entropy loss, whether the gradient is finite
    """
    n_rows = observations.shape[0] * observations.shape[1]
    widest = n_rows * network[WIDEST]
    delta, spare, hidden = workspace[:widest], workspace[widest : 2 * widest], workspace[2 * widest :]
    x, room, _ = _features(network, observations.reshape(observations.size), n_rows, hidden)
    hidden = hidden[room:]
    advantage, target = advantages.reshape(n_rows), returns.reshape(n_rows)
    out[:] = _ZERO
    share = np.float32(1.0 / n_rows)

    mean, scale = _ZERO, _ONE
    if normalize_advantage:
        mean, scale = _moments(advantage)
    taken = actions.reshape(actions.size)
    n_actions, n_latent = network[N_ACTIONS], _n_latent(network)
    entropy_weight = np.float32(-ent_coef) * share
    value_weight = np.float32(vf_coef) * _TWO * share
    state_dependent = network[ACTION_KIND] == STATE_DEPENDENT
    variances = np.empty(n_latent * n_actions if state_dependent else 0, np.float32)
    if state_dependent:
        _noise_variances(network, vector, variances)
    policy_loss, value_loss, entropy_loss = 0.0, 0.0, 0.0
    for is_actor in (True, False):
        net = network[ACTOR] if is_actor else network[CRITIC]
        head = _forward(network, net, vector, limits[0], x, hidden, n_rows)
        n_outputs = head.size // n_rows
        latent = _latent(network, x, hidden, n_rows)
        for row in range(n_rows):
            if not is_actor:
                off = head[row] - target[row]
                value_loss += off * off
                delta[row] = value_weight * off
                continue
            weight = (advantage[row] - mean) / scale
            said, action = head[row * n_outputs : (row + 1) * n_outputs], taken[row * n_actions : (row + 1) * n_actions]
            error = delta[row * n_outputs : (row + 1) * n_outputs]
            if state_dependent:
                below = latent[row * n_latent : (row + 1) * n_latent]
                log_prob, entropy = _state_dependent_gradient(
                    network, variances, below, said, action, -weight * share, entropy_weight, error, out
                )
            else:
                log_prob, entropy = _head_gradient(
                    network, limits, vector, said, action, -weight * share, entropy_weight, error, out
                )
            policy_loss -= weight * log_prob
            entropy_loss -= entropy
        _backward(network, net, vector, limits[0], x, hidden, delta, spare, out, n_rows)
    finite = _clip_norm(out, max_grad_norm)
    return policy_loss / n_rows, value_loss / n_rows, entropy_loss / n_rows, finite


@_inner
def _moments(numbers):
    """The mean, and the unbiased standard deviation and a little: what advantages are normalized with."""
    total = 0.0
    for number in numbers:
        total += number
    mean = np.float32(total / numbers.size)
    squares = 0.0
    for number in numbers:
        deviation = number - total / numbers.size
        squares += deviation * deviation
    return mean, np.float32(math.sqrt(squares / (numbers.size - 1))) + np.float32(1e-8)


@_merged
def _clip_norm(out, max_grad_norm):
    """As torch's ``clip_grad_norm_``: a norm that overflows makes a gradient of zeros."""
    squares = _ZERO
    for i in range(out.size):
        squares += out[i] * out[i]
    norm = math.sqrt(squares)
    scale = np.float32(max_grad_norm) / (norm + np.float32(1e-6))
    scale = _ONE if scale > _ONE else scale
    for i in range(out.size):
        out[i] *= scale
    if math.isfinite(norm):
        return True
    for i in range(out.size):
        if not math.isfinite(out[i]):
            return False
    return True


# Layers


@_merged
def _features(network, observations, n_rows, workspace):
    """What the first layers read, where in the workspace the room after that begins, and a row outside of its space."""
    if network[OBS_KIND] == FLAT:
        return observations, 0, -1
    n_obs, n_features, sizes = network[N_OBS], network[N_FEATURES], network[OBS_SIZES]
    x = workspace[: n_rows * n_features]
    x[:] = _ZERO
    stray = -1
    for row in range(n_rows - 1, -1, -1):
        start = row * n_features
        for k in range(n_obs):
            size = network[sizes + k]
            observation = observations[row * n_obs + k]
            if observation >= 0 and observation < size:
                x[start + int(observation)] = _ONE
            else:
                stray = row
            start += size
    return x, n_rows * n_features, stray


@_merged
def _forward(network, net, vector, parameter, x, hidden, n_rows):
    """All layers of one net, whose outputs are put one after the other; the last layer's, without activation."""
    n_layers, end = network[net], 0
    y = x
    for layer in range(n_layers):
        at = net + 1 + LAYER_FIELDS * layer
        n_in, n_out, weight, bias = network[at], network[at + 1], network[at + 2], network[at + 3]
        y = hidden[end : end + n_rows * n_out]
        _dense(x, vector[weight : weight + n_in * n_out], vector[bias : bias + n_out], y, n_rows, n_in, n_out)
        if layer < n_layers - 1:
            _activate(network[ACTIVATION], parameter, y)
        x = y
        end += n_rows * n_out
    return y


@_merged
def _n_latent(network):
    """How many numbers the actor's last layer reads."""
    last = network[ACTOR] + 1 + LAYER_FIELDS * (network[network[ACTOR]] - 1)
    return network[last]


@_merged
def _latent(network, x, hidden, n_rows):
    """What the actor's last layer has read, when :func:`_forward` has computed it."""
    n_layers = network[network[ACTOR]]
    if n_layers == 1:
        return x
    start = 0
    for layer in range(n_layers - 2):
        start += n_rows * network[network[ACTOR] + 2 + LAYER_FIELDS * layer]
    return hidden[start : start + n_rows * _n_latent(network)]


@_merged
def _backward(network, net, vector, parameter, x, hidden, delta, spare, out, n_rows):
    """From the gradient of the last layer's outputs, in ``delta``, those of all parameters of a net; added to ``out``."""
    n_layers, start = network[net], 0
    for layer in range(n_layers - 1):
        start += n_rows * network[net + 2 + LAYER_FIELDS * layer]
    for layer in range(n_layers - 1, -1, -1):
        at = net + 1 + LAYER_FIELDS * layer
        n_in, n_out, weight, bias = network[at], network[at + 1], network[at + 2], network[at + 3]
        below = x
        if layer > 0:
            start -= n_rows * n_in
            below = hidden[start : start + n_rows * n_in]
        w_out, b_out = out[weight : weight + n_in * n_out], out[bias : bias + n_out]
        _weight_gradient(delta[: n_rows * n_out], below, w_out, b_out, n_rows, n_in, n_out)
        if layer > 0:
            upper = spare[: n_rows * n_in]
            _input_gradient(delta[: n_rows * n_out], vector[weight : weight + n_in * n_out], upper, n_rows, n_in, n_out)
            _deactivate(network[ACTIVATION], parameter, below, upper)
            delta, spare = spare, delta


@_inner
def _dense(x, w, b, y, n_rows, n_in, n_out):
    """``y = x w^T + b``; rows four at a time, and outputs of the rows that are left four at a time."""
    row = 0
    while row + 4 <= n_rows:
        x0, x1 = x[row * n_in : (row + 1) * n_in], x[(row + 1) * n_in : (row + 2) * n_in]
        x2, x3 = x[(row + 2) * n_in : (row + 3) * n_in], x[(row + 3) * n_in : (row + 4) * n_in]
        for o in range(n_out):
            s0, s1, s2, s3 = _four_dots(w[o * n_in : (o + 1) * n_in], x0, x1, x2, x3)
            y[row * n_out + o] = s0 + b[o]
            y[(row + 1) * n_out + o] = s1 + b[o]
            y[(row + 2) * n_out + o] = s2 + b[o]
            y[(row + 3) * n_out + o] = s3 + b[o]
        row += 4
    while row < n_rows:
        x0, y0 = x[row * n_in : (row + 1) * n_in], y[row * n_out : (row + 1) * n_out]
        o = 0
        while o + 4 <= n_out:
            w0, w1 = w[o * n_in : (o + 1) * n_in], w[(o + 1) * n_in : (o + 2) * n_in]
            w2, w3 = w[(o + 2) * n_in : (o + 3) * n_in], w[(o + 3) * n_in : (o + 4) * n_in]
            s0, s1, s2, s3 = _four_dots(x0, w0, w1, w2, w3)
            y0[o], y0[o + 1], y0[o + 2], y0[o + 3] = s0 + b[o], s1 + b[o + 1], s2 + b[o + 2], s3 + b[o + 3]
            o += 4
        while o < n_out:
            w0 = w[o * n_in : (o + 1) * n_in]
            total = b[o]
            for i in range(n_in):
                total += w0[i] * x0[i]
            y0[o] = total
            o += 1
        row += 1


@_inner
def _four_dots(a, b0, b1, b2, b3):
    s0, s1, s2, s3 = _ZERO, _ZERO, _ZERO, _ZERO
    for i in range(a.size):
        s0 += a[i] * b0[i]
        s1 += a[i] * b1[i]
        s2 += a[i] * b2[i]
        s3 += a[i] * b3[i]
    return s0, s1, s2, s3


# Below, arrays of two axes and sums of no more than eight rows: slices within the loops would count references, and with
# more rows the compiler gives up to check which of them overlap, and does not vectorize.


@_inner
def _weight_gradient(flat_delta, flat_x, flat_out, b_out, n_rows, n_in, n_out):
    """``w_out += delta^T x``, ``b_out += sum(delta)``; rows eight, then four at a time."""
    delta, x, w_out = flat_delta.reshape(n_rows, n_out), flat_x.reshape(n_rows, n_in), flat_out.reshape(n_out, n_in)
    row = 0
    while row + 8 <= n_rows:
        for o in range(n_out):
            d0, d1, d2, d3 = delta[row, o], delta[row + 1, o], delta[row + 2, o], delta[row + 3, o]
            d4, d5, d6, d7 = delta[row + 4, o], delta[row + 5, o], delta[row + 6, o], delta[row + 7, o]
            b_out[o] += d0 + d1 + d2 + d3 + d4 + d5 + d6 + d7
            for i in range(n_in):
                w_out[o, i] += (
                    d0 * x[row, i] + d1 * x[row + 1, i] + d2 * x[row + 2, i] + d3 * x[row + 3, i]
                    + d4 * x[row + 4, i] + d5 * x[row + 5, i] + d6 * x[row + 6, i] + d7 * x[row + 7, i]
                )  # fmt: skip
        row += 8
    while row + 4 <= n_rows:
        for o in range(n_out):
            d0, d1, d2, d3 = delta[row, o], delta[row + 1, o], delta[row + 2, o], delta[row + 3, o]
            b_out[o] += d0 + d1 + d2 + d3
            for i in range(n_in):
                w_out[o, i] += d0 * x[row, i] + d1 * x[row + 1, i] + d2 * x[row + 2, i] + d3 * x[row + 3, i]
        row += 4
    while row < n_rows:
        for o in range(n_out):
            d0 = delta[row, o]
            b_out[o] += d0
            for i in range(n_in):
                w_out[o, i] += d0 * x[row, i]
        row += 1


@_inner
def _input_gradient(flat_delta, flat_w, flat_out, n_rows, n_in, n_out):
    """``x_out = delta w``; outputs eight at a time."""
    delta, w, x_out = flat_delta.reshape(n_rows, n_out), flat_w.reshape(n_out, n_in), flat_out.reshape(n_rows, n_in)
    for row in range(n_rows):
        for i in range(n_in):
            x_out[row, i] = _ZERO
        o = 0
        while o + 8 <= n_out:
            d0, d1, d2, d3 = delta[row, o], delta[row, o + 1], delta[row, o + 2], delta[row, o + 3]
            d4, d5, d6, d7 = delta[row, o + 4], delta[row, o + 5], delta[row, o + 6], delta[row, o + 7]
            for i in range(n_in):
                x_out[row, i] += (
                    d0 * w[o, i] + d1 * w[o + 1, i] + d2 * w[o + 2, i] + d3 * w[o + 3, i]
                    + d4 * w[o + 4, i] + d5 * w[o + 5, i] + d6 * w[o + 6, i] + d7 * w[o + 7, i]
                )  # fmt: skip
            o += 8
        while o < n_out:
            d0 = delta[row, o]
            for i in range(n_in):
                x_out[row, i] += d0 * w[o, i]
            o += 1


# Activations: each one's derivative is computed from its output


@_inner
def _activate(kind, parameter, y):
    if kind == TANH:
        for i in range(y.size):
            y[i] = _tanh(y[i])
    elif kind == RECTIFIER:
        for i in range(y.size):
            y[i] = parameter * y[i] if y[i] <= _ZERO else y[i]
    elif kind == ELU:
        for i in range(y.size):
            y[i] = parameter * (_exp(y[i]) - _ONE) if y[i] <= _ZERO else y[i]
    elif kind == RELU6:
        for i in range(y.size):
            above = _ZERO if y[i] <= _ZERO else y[i]
            y[i] = _SIX if above >= _SIX else above
    elif kind == SIGMOID:
        for i in range(y.size):
            y[i] = _HALF + _HALF * _tanh(_HALF * y[i])


@_inner
def _deactivate(kind, parameter, y, delta):
    """Multiply the gradient of outputs ``y`` with the derivative there."""
    if kind == TANH:
        for i in range(y.size):
            delta[i] *= _ONE - y[i] * y[i]
    elif kind == RECTIFIER:
        for i in range(y.size):
            delta[i] *= parameter if y[i] <= _ZERO else _ONE
    elif kind == ELU:
        for i in range(y.size):
            delta[i] *= y[i] + parameter if y[i] <= _ZERO else _ONE
    elif kind == RELU6:
        for i in range(y.size):
            delta[i] = _ZERO if y[i] <= _ZERO or y[i] >= _SIX else delta[i]
    elif kind == SIGMOID:
        for i in range(y.size):
            delta[i] *= y[i] * (_ONE - y[i])


@_contracted
def _tanh(x):
    """To two units in the last place, and 1 where a float32 has nothing closer; a NaN is not above the limit, and passes."""
    size, z = abs(x), x * x
    p = _T0 * z + _T1
    p = p * z + _T2
    p = p * z + _T3
    p = p * z + _T4
    small = p * z * x + x
    t = _exp(-_TWO * size)
    large = (_ONE - t) / (_ONE + t)
    large = -large if x < _ZERO else large
    return large if size > _TANH_SMALL else small


@_contracted
def _exp(x):
    """For x up to 0; a NaN counts as the lowest number."""
    x = x if x > _EXP_LOWEST else _EXP_LOWEST
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = _E0 * r + _E1
    p = p * r + _E2
    p = p * r + _E3
    p = p * r + _E4
    p = p * r + _E5
    p = p * r * r + r + _ONE
    return p * np.int32((np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(np.float32)


# Distributions of actions


@_exact
def _sample(network, limits, vector, rng, head, action):
    """
    Draw one action, whose distribution is given by what the actor's last layer says.

    :return: The logarithm of its probability (density)
    """
    kind = network[ACTION_KIND]
    log_prob = _ZERO
    if kind == GAUSSIAN:
        log_std = vector[network[LOG_STD] : network[LOG_STD] + head.size]
        for j in range(head.size):
            std = math.exp(log_std[j])
            action[j] = head[j] + std * np.float32(_normal(rng))
            z = (action[j] - head[j]) / std
            log_prob -= _HALF * z * z + log_std[j] + _HALF_LOG_TWO_PI
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
            mean, std = _bounded_mean(limits, n_actions, j, _tanh(head[j])), _softplus(head[n_actions + j]) + _MIN_STD
            action[j] = mean + std * np.float32(_normal(rng))
            if network[CLIP_ACTIONS]:
                action[j] = _within(limits, n_actions, j, action[j])
            z = (action[j] - mean) / std
            log_prob -= _HALF * z * z + math.log(std) + _HALF_LOG_TWO_PI
    else:
        for j in range(head.size):
            taken = _uniform(rng) * (1.0 + math.exp(-np.float64(head[j]))) < 1.0
            action[j] = _ONE if taken else _ZERO
            log_prob += (head[j] if taken else _ZERO) - _softplus(head[j])
    return log_prob


@_inner
def _noise_variances(network, vector, variances):
    """Of the elements of gSDE's matrices; if there is but one column of standard deviations, it is all actions'."""
    n_actions, columns = network[N_ACTIONS], network[STD_COLUMNS]
    for i in range(variances.size):
        row, column = i // n_actions, i % n_actions
        variances[i] = math.exp(_TWO * vector[network[LOG_STD] + row * columns + min(column, columns - 1)])


@_exact
def _sample_state_dependent(variances, matrix, latent, head, action):
    """As :func:`_sample`, with noise that a matrix makes of what the actor's last layer has read (gSDE)."""
    n_actions, log_prob = action.size, _ZERO
    for j in range(n_actions):
        noise, variance = _ZERO, _ZERO
        for k in range(latent.size):
            noise += latent[k] * matrix[k * n_actions + j]
            variance += latent[k] * latent[k] * variances[k * n_actions + j]
        action[j] = head[j] + noise
        std = math.sqrt(variance + _SDE_EPSILON)
        z = (action[j] - head[j]) / std
        log_prob -= _HALF * z * z + math.log(std) + _HALF_LOG_TWO_PI
    return log_prob


@_exact
def _choose(rng, logits):
    """One of several, by the inverse of the cumulative distribution; the logits become what they are the logarithms of."""
    highest = logits[0]
    for j in range(logits.size):
        highest = logits[j] if logits[j] > highest else highest
    total = 0.0
    for j in range(logits.size):
        logits[j] = math.exp(logits[j] - highest)
        total += logits[j]
    # The sums below are those above, so that the last of them is more than any part of the total.
    target, choice = _uniform(rng) * total, logits.size - 1
    cumulative = 0.0
    for j in range(logits.size):
        cumulative += logits[j]
        if cumulative > target:
            choice = j
            break
    return choice, np.float32(math.log(logits[choice] / total))


@_inner
def _clip(limits, actions, clipped_actions):
    n_envs, n_actions = actions.shape
    for env in range(n_envs):
        for j in range(n_actions):
            clipped_actions[env, j] = _within(limits, n_actions, j, actions[env, j])


@_inner
def _within(limits, n_actions, j, action):
    low, high = limits[1 + j], limits[1 + n_actions + j]
    action = low if action < low else action
    return high if action > high else action


@_exact
def _half_width(limits, n_actions, j):
    return np.float32(0.5 * np.float64(limits[1 + n_actions + j]) - 0.5 * np.float64(limits[1 + j]))


@_exact
def _bounded_mean(limits, n_actions, j, tanh):
    center = np.float32(0.5 * np.float64(limits[1 + j]) + 0.5 * np.float64(limits[1 + n_actions + j]))
    return center + _half_width(limits, n_actions, j) * tanh


@_inner
def _head_gradient(network, limits, vector, head, action, policy_weight, entropy_weight, delta, out):
    """
    Write to ``delta`` the gradient of ``policy_weight log pi(a|s) + entropy_weight H`` for what the actor's last layer
    says, and add that for the standard deviations to ``out``.

    :return: The logarithm of the action's probability (density), and the entropy
    """
    kind = network[ACTION_KIND]
    log_prob, entropy = _ZERO, _ZERO
    if kind == GAUSSIAN:
        at = network[LOG_STD]
        for j in range(head.size):
            log_std = vector[at + j]
            std = math.exp(log_std)
            z = (action[j] - head[j]) / std
            log_prob -= _HALF * z * z + log_std + _HALF_LOG_TWO_PI
            entropy += _HALF + _HALF_LOG_TWO_PI + log_std
            delta[j] = policy_weight * z / std
            # Where the standard deviation overflows or vanishes there is no derivative, as in torch.
            known = _ONE if std > _ZERO and std < np.float32(np.inf) else np.float32(np.nan)
            out[at + j] += known * (policy_weight * (z * z - _ONE) + entropy_weight)
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
            tanh, s = _tanh(head[j]), head[n_actions + j]
            std = _softplus(s) + _MIN_STD
            z = (action[j] - _bounded_mean(limits, n_actions, j, tanh)) / std
            log_prob -= _HALF * z * z + math.log(std) + _HALF_LOG_TWO_PI
            entropy += _HALF + _HALF_LOG_TWO_PI + math.log(std)
            known = _ONE if std < np.float32(np.inf) else np.float32(np.nan)  # as above
            delta[j] = known * policy_weight * z / std * _half_width(limits, n_actions, j) * (_ONE - tanh * tanh)
            delta[n_actions + j] = known * (policy_weight * (z * z - _ONE) + entropy_weight) / std / (_ONE + math.exp(-s))
    else:
        for j in range(head.size):
            p, softplus = _ONE / (_ONE + math.exp(-head[j])), _softplus(head[j])
            log_prob += action[j] * head[j] - softplus
            entropy += softplus - head[j] * p
            delta[j] = policy_weight * (action[j] - p) - entropy_weight * head[j] * p * (_ONE - p)
    return log_prob, entropy


@_inner
def _state_dependent_gradient(network, variances, latent, head, action, policy_weight, entropy_weight, delta, out):
    """As :func:`_head_gradient`, of gSDE. The last layer's inputs are taken as given, as in SB3."""
    n_actions, columns, at = action.size, network[STD_COLUMNS], network[LOG_STD]
    log_prob, entropy = _ZERO, _ZERO
    for j in range(n_actions):
        variance = _SDE_EPSILON
        for k in range(latent.size):
            variance += latent[k] * latent[k] * variances[k * n_actions + j]
        std = math.sqrt(variance)
        z = (action[j] - head[j]) / std
        log_prob -= _HALF * z * z + math.log(std) + _HALF_LOG_TWO_PI
        entropy += _HALF + _HALF_LOG_TWO_PI + math.log(std)
        delta[j] = policy_weight * z / std
        weight = (policy_weight * (z * z - _ONE) + entropy_weight) / variance
        for k in range(latent.size):
            out[at + k * columns + min(j, columns - 1)] += weight * latent[k] * latent[k] * variances[k * n_actions + j]
    return log_prob, entropy


@_inner
def _categorical_gradient(logits, choice, policy_weight, entropy_weight, delta):
    highest = logits[0]
    for j in range(logits.size):
        highest = logits[j] if logits[j] > highest else highest
    total = _ZERO
    for j in range(logits.size):
        delta[j] = math.exp(logits[j] - highest)
        total += delta[j]
    log_total = highest + math.log(total)
    entropy = _ZERO
    for j in range(logits.size):
        delta[j] /= total
        entropy -= delta[j] * (logits[j] - log_total)
    for j in range(logits.size):
        delta[j] = -delta[j] * (policy_weight + entropy_weight * (logits[j] - log_total + entropy))
    if choice < 0 or choice >= logits.size:
        return np.float32(np.nan), entropy
    delta[choice] += policy_weight
    return logits[choice] - log_total, entropy


@_exact
def _softplus(x):
    """``log(1 + e^x)``."""
    return (_ZERO if x <= _ZERO else x) + math.log1p(math.exp(-abs(x)))


# Random numbers


@_exact
def _next(rng):
    """xoshiro256++ of Blackman and Vigna."""
    s0, s1, s2, s3 = rng[0], rng[1], rng[2], rng[3]
    mixed = s0 + s3
    result = ((mixed << _U23) | (mixed >> _U41)) + s0
    shifted = s1 << _U17
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    rng[0], rng[1], rng[2], rng[3] = s0, s1, s2, (s3 << _U45) | (s3 >> _U19)
    return result


@_exact
def _uniform(rng):
    """From 0 to 1, without 1."""
    return np.float64(_next(rng) >> _U11) * _TWO_TO_MINUS_53


@_exact
def _normal(rng):
    """Marsaglia's polar method."""
    while True:
        u, v = 2.0 * _uniform(rng) - 1.0, 2.0 * _uniform(rng) - 1.0
        s = u * u + v * v
        if s < 1.0 and s > 0.0:
            return u * math.sqrt(-2.0 * math.log(s) / s)


# Shared parameters


@_exact_kernel
def copy(source, target):
    """
    :param source: A vector
    :param target: Of the same shape, written
    """
    for i in range(source.size):
        target[i] = source[i]


@_exact_kernel
def rmsprop_step(vector, gradient, square_avg, learning_rate, alpha, eps, new_vector=None, new_square_avg=None):
    """
    ``v <- alpha v + (1 - alpha) g^2; x <- x - lr g / (sqrt(v) + eps)``.

    :param vector: The parameters, of shape ``(size,)``
    :param gradient: Of the same shape
    :param square_avg: The statistics, of the same shape
    :param learning_rate: The learning rate
    :param alpha: How much of the statistics stays
    :param eps: Keeps the denominator from 0
    :param new_vector: Where the stepped parameters are written to, of the same shape; None, as is ``new_square_avg`` then:
        in place. (Of arrays that may be one and the same, the loop would not be vectorized.)
    :param new_square_avg: Where the updated statistics are written to
    """
    x_out = vector if new_vector is None else new_vector
    v_out = square_avg if new_square_avg is None else new_square_avg
    keep, add, small, rate = np.float32(alpha), np.float32(1.0 - alpha), np.float32(eps), np.float32(learning_rate)
    for i in range(vector.size):
        g = gradient[i]
        v = keep * square_avg[i] + add * g * g
        v_out[i] = v
        x_out[i] = vector[i] - rate * g / (math.sqrt(v) + small)


@_exact_kernel
def rmsprop_tf_step(vector, gradient, square_avg, learning_rate, alpha, eps, new_vector=None, new_square_avg=None):
    """
    ``v <- alpha v + (1 - alpha) g^2; x <- x - lr g / sqrt(v + eps)``. Parameters as :func:`rmsprop_step`.
    """
    x_out = vector if new_vector is None else new_vector
    v_out = square_avg if new_square_avg is None else new_square_avg
    keep, add, small, rate = np.float32(alpha), np.float32(1.0 - alpha), np.float32(eps), np.float32(learning_rate)
    for i in range(vector.size):
        g = gradient[i]
        v = keep * square_avg[i] + add * g * g
        v_out[i] = v
        x_out[i] = vector[i] - rate * g / math.sqrt(v + small)


@_exact_kernel
def adam_step(
    vector,
    gradient,
    exp_avg,
    exp_avg_sq,
    learning_rate,
    beta1,
    beta2,
    eps,
    n_steps,
    new_vector=None,
    new_exp_avg=None,
    new_exp_avg_sq=None,
):
    """
    ``m, v``: bias-corrected averages of ``g, g^2``; ``x <- x - lr m / (sqrt(v) + eps)``.

    :param vector: The parameters, of shape ``(size,)``
    :param gradient: Of the same shape
    :param exp_avg: Statistics of the gradient, of the same shape
    :param exp_avg_sq: Statistics of its square, of the same shape
    :param learning_rate: The learning rate
    :param beta1: How much of the first statistics stays
    :param beta2: How much of the second statistics stays
    :param eps: Keeps the denominator from 0
    :param n_steps: How many gradients this makes, counted from 1
    :param new_vector: Where the stepped parameters are written to, of the same shape; None, as are the others then: in place
    :param new_exp_avg: Where the updated statistics of the gradient are written to
    :param new_exp_avg_sq: Where the updated statistics of its square are written to
    """
    x_out = vector if new_vector is None else new_vector
    m_out = exp_avg if new_exp_avg is None else new_exp_avg
    v_out = exp_avg_sq if new_exp_avg_sq is None else new_exp_avg_sq
    add1, keep2, add2 = np.float32(1.0 - beta1), np.float32(beta2), np.float32(1.0 - beta2)
    rate = np.float32(learning_rate / (1.0 - beta1**n_steps))
    scale, small = np.float32(math.sqrt(1.0 - beta2**n_steps)), np.float32(eps)
    for i in range(vector.size):
        g = gradient[i]
        m = exp_avg[i] + add1 * (g - exp_avg[i])
        v = keep2 * exp_avg_sq[i] + add2 * g * g
        m_out[i], v_out[i] = m, v
        x_out[i] = vector[i] - rate * m / (math.sqrt(v) / scale + small)


if not hasattr(act, "py_func"):  # with NUMBA_DISABLE_JIT they are Python functions, which warn where compiled ones do not
    act, draw_noise, predict_values, gradient = map(np.errstate(all="ignore"), (act, draw_noise, predict_values, gradient))

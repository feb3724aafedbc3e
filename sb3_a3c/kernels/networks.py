"""
Forward and backward passes of the actor and the critic, as the table of a network describes them.

All arrays are flat and float32. A workspace holds what is computed on the way: the one-hot features, if there are any, then
the outputs of one layer after another.
"""

from sb3_a3c.kernels.activations import activate, deactivate
from sb3_a3c.kernels.dense import dense, input_gradient, weight_gradient
from sb3_a3c.kernels.float32 import ONE, ZERO
from sb3_a3c.kernels.jit import merged
from sb3_a3c.kernels.network_table import (
    ACTIVATION,
    ACTOR,
    ACTOR_UNITS,
    CRITIC,
    CRITIC_INPUTS,
    CRITIC_UNITS,
    FLAT,
    LAYER_FIELDS,
    N_FEATURES,
    N_OBS,
    OBS_KIND,
    OBS_SIZES,
)


@merged
def features(network, observations, n_rows, workspace):
    """
    Encode discrete observations as one-hot vectors.

    :param network: The table of the network
    :param observations: ``(n_rows * n_obs,)``
    :param n_rows: Number of observations
    :param workspace: Written: the one-hot vectors
    :return: Inputs of both networks; where the free part of the workspace begins; the first row outside of the
        observation space, or -1
    """
    if network[OBS_KIND] == FLAT:
        return observations, 0, -1
    n_obs, n_features, sizes = network[N_OBS], network[N_FEATURES], network[OBS_SIZES]
    x = workspace[: n_rows * n_features]
    x[:] = ZERO
    invalid_row = -1
    for row in range(n_rows - 1, -1, -1):
        start = row * n_features
        for k in range(n_obs):
            size = network[sizes + k]
            observation = observations[row * n_obs + k]
            if observation >= 0 and observation < size:
                x[start + int(observation)] = ONE
            else:
                invalid_row = row
            start += size
    return x, n_rows * n_features, invalid_row


@merged
def inputs_of(network, net, inputs, n_rows):
    """
    :param network: The table of the network
    :param net: ``network[ACTOR]`` or ``network[CRITIC]``
    :param inputs: Inputs of both networks
    :param n_rows: Number of rows
    :return: Inputs of the first layer of the network
    """
    start = n_rows * network[CRITIC_INPUTS] if net == network[CRITIC] else 0
    return inputs[start : start + n_rows * network[net + 1]]


@merged
def forward(network, net, vector, parameter, x, hidden, first_row, n_rows, n_all):
    """
    ``y = W_n f(... f(W_1 x + b_1) ...) + b_n``.

    :param network: The table of the network
    :param net: ``network[ACTOR]`` or ``network[CRITIC]``
    :param vector: The parameters, ``(size,)``
    :param parameter: The activation's parameter
    :param x: Inputs of the first layer
    :param hidden: Written: the outputs of one layer after another, each of ``n_all`` rows
    :param first_row: The first row of ``hidden`` to compute
    :param n_rows: Number of rows to compute
    :param n_all: Number of rows that ``hidden`` has room for
    :return: The outputs of the last layer
    """
    n_layers, end = network[net], 0
    y = x
    for layer in range(n_layers):
        at = net + 1 + LAYER_FIELDS * layer
        n_in, n_out, weight, bias = network[at], network[at + 1], network[at + 2], network[at + 3]
        y = hidden[end + first_row * n_out : end + (first_row + n_rows) * n_out]
        dense(x, vector[weight : weight + n_in * n_out], vector[bias : bias + n_out], y, n_rows, n_in, n_out)
        if layer < n_layers - 1:
            activate(network[ACTIVATION], parameter, y)
        x = y
        end += n_all * n_out
    return y


@merged
def hidden_of(network, net, kept, n_all):
    """
    :param network: The table of the network
    :param net: ``network[ACTOR]`` or ``network[CRITIC]``
    :param kept: The outputs of the layers of both networks, each of ``n_all`` rows: the actor's, then the critic's
    :param n_all: Number of rows
    :return: The part of this network
    """
    n_actor = n_all * network[ACTOR_UNITS]
    return kept[n_actor : n_actor + n_all * network[CRITIC_UNITS]] if net == network[CRITIC] else kept[:n_actor]


@merged
def outputs_of(network, net, hidden, n_rows):
    """
    :param network: The table of the network
    :param net: ``network[ACTOR]`` or ``network[CRITIC]``
    :param hidden: What :func:`forward` has written for all its rows
    :param n_rows: Number of rows
    :return: The outputs of the last layer
    """
    n_outputs = n_rows * network[net + 2 + LAYER_FIELDS * (network[net] - 1)]
    n_units = network[CRITIC_UNITS] if net == network[CRITIC] else network[ACTOR_UNITS]
    return hidden[n_rows * n_units - n_outputs : n_rows * n_units]


@merged
def size_of_latent(network):
    """
    :param network: The table of the network
    :return: Number of inputs of the actor's last layer
    """
    last = network[ACTOR] + 1 + LAYER_FIELDS * (network[network[ACTOR]] - 1)
    return network[last]


@merged
def latent_of_actor(network, x, hidden, first_row, n_rows, n_all):
    """
    :param network: The table of the network
    :param x: Inputs of the actor's first layer
    :param hidden: What :func:`forward` has written for the actor
    :param first_row: The first row
    :param n_rows: Number of rows
    :param n_all: Number of rows that ``hidden`` has room for
    :return: Inputs of the actor's last layer
    """
    n_layers = network[network[ACTOR]]
    if n_layers == 1:
        return x
    start = 0
    for layer in range(n_layers - 2):
        start += n_all * network[network[ACTOR] + 2 + LAYER_FIELDS * layer]
    size = size_of_latent(network)
    return hidden[start + first_row * size : start + (first_row + n_rows) * size]


@merged
def backward(network, net, vector, parameter, x, hidden, delta, spare, out, x_out, n_rows):
    """
    Backpropagation.

    :param network: The table of the network
    :param net: ``network[ACTOR]`` or ``network[CRITIC]``
    :param vector: The parameters, ``(size,)``
    :param parameter: The activation's parameter
    :param x: Inputs of the first layer
    :param hidden: What :func:`forward` has written
    :param delta: Overwritten: the gradient of the last layer's outputs
    :param spare: Overwritten, of the same length
    :param out: Added to: the gradient of the parameters, ``(size,)``
    :param x_out: Written: the gradient of the inputs. Empty: there is none to compute
    :param n_rows: Number of rows
    """
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
        weight_gradient(delta[: n_rows * n_out], below, w_out, b_out, n_rows, n_in, n_out)
        upper = spare[: n_rows * n_in] if layer > 0 else x_out
        if upper.size > 0:
            input_gradient(delta[: n_rows * n_out], vector[weight : weight + n_in * n_out], upper, n_rows, n_in, n_out)
        if layer > 0:
            deactivate(network[ACTIVATION], parameter, below, upper)
            delta, spare = spare, delta

"""
The recurrent part of a policy: LSTMs between observations and the networks of actor and critic, in the steps of a rollout.

An *encoder* makes a network's inputs from observations. It is an LSTM of one or more layers, or a linear layer. The actor and
the critic have an encoder each, or share one. The states of LSTMs are an array of hidden (0) and cell states (1),
``(n_lstms, n_layers, 2, n_steps + 1, n_envs, n_hidden)``: before the first step of a rollout, and after each step.
"""

from sb3_a3c.kernels.dense import dense, weight_gradient
from sb3_a3c.kernels.gradient import clip_norm
from sb3_a3c.kernels.jit import kernel
from sb3_a3c.kernels.lstm import lstm_gradient, lstm_step
from sb3_a3c.kernels.networks import features
from sb3_a3c.kernels.recurrent_table import ACTOR_ENCODER, CRITIC_ENCODER, LAYER_FIELDS


@kernel
def encode(table, vector, observations, starts, states, gates, inputs, first_step, end_step, first_encoder, workspace):
    """
    Compute steps of a rollout, one after another.

    :param table: See :mod:`~sb3_a3c.kernels.recurrent_table`
    :param vector: The parameters, ``(size,)``
    :param observations: ``(n_steps, n_envs, n_obs)``
    :param starts: 1 where an episode starts with a step, else 0, ``(n_steps, n_envs)``
    :param states: See above. Read: the states before the first step to compute. Written: those after each step
    :param gates: Written: the gates of LSTMs, ``(n_lstms, n_layers, n_steps, n_envs, 4, n_hidden)``
    :param inputs: Written: the encoders' outputs, ``(n_steps, n_encoders, n_envs, n_hidden)``
    :param first_step: The first step to compute
    :param end_step: The step after the last one to compute
    :param first_encoder: The first encoder to compute. The critic's is the last one
    :param workspace: Overwritten
    :return: The first environment whose observation is outside of its space, or -1
    """
    _, n_encoders, n_envs, n_hidden = inputs.shape
    size, n_gates, trouble = n_envs * n_hidden, 4 * n_hidden, -1
    for step in range(first_step, end_step):
        x, room, invalid_row = features(table, observations[step].reshape(observations[step].size), n_envs, workspace)
        trouble = invalid_row if trouble < 0 else trouble
        for encoder in range(first_encoder, n_encoders):
            at = table[CRITIC_ENCODER] if encoder > 0 else table[ACTOR_ENCODER]
            n_layers, at = table[at], at + 1
            y, below = inputs[step, encoder].reshape(size), x
            if n_layers == 0:
                n_in, w, b = table[at], table[at + 1], table[at + 3]
                dense(x, vector[w : w + n_hidden * n_in], vector[b : b + n_hidden], y, n_envs, n_in, n_hidden)
            for layer in range(n_layers):
                n_in, w, u, b_w, b_u = table[at], table[at + 1], table[at + 2], table[at + 3], table[at + 4]
                hidden, cells = states[encoder, layer, 0], states[encoder, layer, 1]
                lstm_step(
                    below,
                    vector[w : w + n_gates * n_in],
                    vector[u : u + n_gates * n_hidden],
                    vector[b_w : b_w + n_gates],
                    vector[b_u : b_u + n_gates],
                    hidden[step],
                    cells[step],
                    starts[step],
                    gates[encoder, layer, step],
                    hidden[step + 1],
                    cells[step + 1],
                    workspace[room:],
                )
                below = hidden[step + 1].reshape(size)
                at += LAYER_FIELDS
            if n_layers > 0:
                for i in range(size):
                    y[i] = below[i]
    return trouble


@kernel
def encoders_gradient(table, vector, observations, starts, states, gates, delta, workspace, out, max_grad_norm):
    """
    Add the gradient of the encoders' parameters, and clip the whole gradient. See :func:`encode` for other parameters.

    :param delta: Overwritten: the gradient of the encoders' outputs, ``(n_encoders, n_steps, n_envs, n_hidden)``
    :param workspace: Overwritten
    :param out: Added to: the gradient, ``(size,)``, which holds that of all other parameters, and zeros
    :param max_grad_norm: The largest L2 norm; a longer gradient is scaled down to it
    :return: Whether the gradient is finite
    """
    n_encoders, n_steps, n_envs, n_hidden = delta.shape
    n_rows, n_gates = n_steps * n_envs, 4 * n_hidden
    x, room, _ = features(table, observations.reshape(observations.size), n_rows, workspace)
    for encoder in range(n_encoders):
        first = table[CRITIC_ENCODER] if encoder > 0 else table[ACTOR_ENCODER]
        n_layers, first = table[first], first + 1
        upper = delta[encoder]
        flat_upper = upper.reshape(n_rows * n_hidden)
        if n_layers == 0:
            n_in, w, b = table[first], table[first + 1], table[first + 3]
            weight_gradient(flat_upper, x, out[w : w + n_hidden * n_in], out[b : b + n_hidden], n_rows, n_in, n_hidden)
        for layer in range(n_layers - 1, -1, -1):
            at = first + LAYER_FIELDS * layer
            n_in, w, u, b_w, b_u = table[at], table[at + 1], table[at + 2], table[at + 3], table[at + 4]
            w_end, u_end = w + n_gates * n_in, u + n_gates * n_hidden
            lstm_gradient(
                upper,
                x if layer == 0 else states[encoder, layer - 1, 0][1:].reshape(n_rows * n_hidden),
                states[encoder, layer, 0],
                states[encoder, layer, 1],
                starts,
                gates[encoder, layer],
                vector[w:w_end],
                vector[u:u_end],
                out[w:w_end],
                out[u:u_end],
                out[b_w : b_w + n_gates],
                out[b_u : b_u + n_gates],
                flat_upper if layer > 0 else flat_upper[:0],
                workspace[room:],
            )
    return clip_norm(out, max_grad_norm)

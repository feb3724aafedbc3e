"""
One layer of an LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000), as in torch.

From the inputs ``x`` of a step and the hidden and cell states ``h`` and ``c`` before it, the states after it are::

    i = sigmoid(W_i x + U_i h + b_i)    f = sigmoid(W_f x + U_f h + b_f)
    g = tanh(W_g x + U_g h + b_g)       o = sigmoid(W_o x + U_o h + b_o)
    c' = f c + i g                      h' = o tanh(c')

``W`` and ``U`` are torch's ``weight_ih`` and ``weight_hh``, which hold the rows of i, f, g and o in this order. ``b`` is the
sum of ``bias_ih`` and ``bias_hh``. Where an episode starts with a step, ``h`` and ``c`` count as 0.

Arrays are float32, with one row per environment. Loops use few arrays each: with more, the compiler no longer checks which of
them overlap, and does not vectorize. Nor does it if an index might be negative, so gates have an axis of four.
"""

from sb3_a3c.kernels.activations import sigmoid, tanh
from sb3_a3c.kernels.dense import dense, input_gradient, weight_gradient
from sb3_a3c.kernels.float32 import ONE, ZERO
from sb3_a3c.kernels.jit import inner, merged


@inner
def lstm_step(x, w, u, b_w, b_u, h, c, starts, gates, new_h, new_c, workspace):
    """
    One step.

    :param x: Inputs, ``(n_rows * n_in,)``
    :param w: ``W``, ``(4 * n_hidden * n_in,)``
    :param u: ``U``, ``(4 * n_hidden * n_hidden,)``
    :param b_w: ``bias_ih``, ``(4 * n_hidden,)``
    :param b_u: ``bias_hh``, ``(4 * n_hidden,)``
    :param h: ``(n_rows, n_hidden)``
    :param c: ``(n_rows, n_hidden)``
    :param starts: 1 where an episode starts with the step, else 0, ``(n_rows,)``
    :param gates: Written: ``i, f, g, o``, ``(n_rows, 4, n_hidden)``
    :param new_h: Written: ``h'``, ``(n_rows, n_hidden)``
    :param new_c: Written: ``c'``, ``(n_rows, n_hidden)``
    :param workspace: Overwritten, ``(n_rows * 5 * n_hidden,)``
    """
    n_rows, n_hidden = h.shape
    size, n_gates = n_rows * n_hidden, 4 * n_hidden
    flat_before, flat_recurrent = workspace[:size], workspace[size : 5 * size]
    before, recurrent = flat_before.reshape(n_rows, n_hidden), flat_recurrent.reshape(n_rows, 4, n_hidden)
    for row in range(n_rows):
        for j in range(n_hidden):
            before[row, j] = h[row, j] if starts[row] == ZERO else ZERO
            new_c[row, j] = c[row, j] if starts[row] == ZERO else ZERO
    dense(x, w, b_w, gates.reshape(n_rows * n_gates), n_rows, x.size // n_rows, n_gates)
    dense(flat_before, u, b_u, flat_recurrent, n_rows, n_hidden, n_gates)
    for row in range(n_rows):
        for kind in range(4):
            if kind == 2:
                for j in range(n_hidden):
                    gates[row, kind, j] = tanh(gates[row, kind, j] + recurrent[row, kind, j])
            else:
                for j in range(n_hidden):
                    gates[row, kind, j] = sigmoid(gates[row, kind, j] + recurrent[row, kind, j])
        for j in range(n_hidden):
            new_c[row, j] = gates[row, 1, j] * new_c[row, j] + gates[row, 0, j] * gates[row, 2, j]
        for j in range(n_hidden):
            new_h[row, j] = gates[row, 3, j] * tanh(new_c[row, j])


@inner
def lstm_gradient(delta, x, h, c, starts, gates, w, u, w_out, u_out, b_w_out, b_u_out, x_out, workspace):
    """
    Backpropagation through time (Werbos 1990) over all steps of a rollout. There is no gradient of the states before it.

    :param delta: The gradient of ``h'`` of all steps, ``(n_steps, n_envs, n_hidden)``
    :param x: Inputs, ``(n_steps * n_envs * n_in,)``
    :param h: ``h`` before each step and after the last, ``(n_steps + 1, n_envs, n_hidden)``
    :param c: ``c`` of the same, of the same shape
    :param starts: 1 where an episode starts with a step, else 0, ``(n_steps, n_envs)``
    :param gates: What :func:`lstm_step` has written, ``(n_steps, n_envs, 4, n_hidden)``
    :param w: ``W``, ``(4 * n_hidden * n_in,)``
    :param u: ``U``, ``(4 * n_hidden * n_hidden,)``
    :param w_out: Added to: the gradient of ``W``
    :param u_out: Added to: the gradient of ``U``
    :param b_w_out: Added to: the gradient of ``bias_ih``
    :param b_u_out: Written: the gradient of ``bias_hh``, which is the same
    :param x_out: Written: the gradient of the inputs, ``(n_steps * n_envs * n_in,)``. Empty: there is none to compute
    :param workspace: Overwritten, ``((n_steps * 4 + 2) * n_envs * n_hidden + 4 * n_hidden,)``
    """
    n_steps, n_envs, n_hidden = delta.shape
    n_rows, n_gates = n_steps * n_envs, 4 * n_hidden
    n_in, at_states, at_unused = x.size // n_rows, n_rows * n_gates, (n_rows * 4 + n_envs * 2) * n_hidden
    flat_gate_delta, unused = workspace[:at_states], workspace[at_unused : at_unused + n_gates]
    gate_delta = flat_gate_delta.reshape(n_steps, n_envs, 4, n_hidden)
    _through_time(delta, c, u, starts, gates, gate_delta, workspace[at_states:at_unused])
    weight_gradient(flat_gate_delta, x, w_out, b_w_out, n_rows, n_in, n_gates)
    for i in range(n_gates):
        b_u_out[i] = b_w_out[i]
    if x_out.size > 0:
        input_gradient(flat_gate_delta, w, x_out, n_rows, n_in, n_gates)
    for step in range(n_steps):
        for env in range(n_envs):
            if starts[step, env] != ZERO:  # h counts as 0
                for kind in range(4):
                    for j in range(n_hidden):
                        gate_delta[step, env, kind, j] = ZERO
    weight_gradient(flat_gate_delta, h[:n_steps].reshape(n_rows * n_hidden), u_out, unused, n_rows, n_hidden, n_gates)


@merged
def _through_time(delta, c, u, starts, gates, gate_delta, workspace):
    """From the last step to the first: ``dh = U^T (di, df, dg, do)``, see :func:`_through_gates` for the rest."""
    n_steps, n_envs, n_hidden = delta.shape
    size = n_envs * n_hidden
    flat_dh, flat_dc = workspace[:size], workspace[size : 2 * size]
    dh, dc = flat_dh.reshape(n_envs, n_hidden), flat_dc.reshape(n_envs, n_hidden)
    for i in range(2 * size):
        workspace[i] = ZERO
    for step in range(n_steps - 1, -1, -1):
        _through_gates(delta, c, starts, gates, gate_delta, dh, dc, step)
        if step > 0:
            input_gradient(gate_delta[step].reshape(4 * size), u, flat_dh, n_envs, n_hidden, 4 * n_hidden)
        for env in range(n_envs):
            keep = ONE if starts[step, env] == ZERO else ZERO
            for j in range(n_hidden):
                dh[env, j] *= keep


@merged
def _through_gates(delta, c, starts, gates, gate_delta, dh, dc, step):
    """
    From ``dh'`` and ``dc'``, the gradients of the states after a step, those of the sums in its gates and of ``c`` are::

        dc_now = dc' + dh' o (1 - tanh(c')^2)
        di = dc_now g i (1 - i)    df = dc_now c f (1 - f)    dg = dc_now i (1 - g^2)    do = dh' tanh(c') o (1 - o)
        dc = dc_now f
    """
    n_envs, n_hidden = dh.shape
    for env in range(n_envs):
        for j in range(n_hidden):
            dh[env, j] += delta[step, env, j]
        for j in range(n_hidden):
            o, y = gates[step, env, 3, j], tanh(c[step + 1, env, j])
            gate_delta[step, env, 3, j] = dh[env, j] * y * o * (ONE - o)
            dc[env, j] += dh[env, j] * o * (ONE - y * y)
        for j in range(n_hidden):
            i, g = gates[step, env, 0, j], gates[step, env, 2, j]
            gate_delta[step, env, 0, j] = dc[env, j] * g * i * (ONE - i)
            gate_delta[step, env, 2, j] = dc[env, j] * i * (ONE - g * g)
        keep = ONE if starts[step, env] == ZERO else ZERO
        for j in range(n_hidden):
            f = gates[step, env, 1, j]
            gate_delta[step, env, 1, j] = keep * dc[env, j] * c[step, env, j] * f * (ONE - f)
            dc[env, j] *= keep * f

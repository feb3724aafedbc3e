"""
Dense layers: ``y = x W^T + b``, and the gradients of ``W``, ``b`` and ``x``.

Arrays are flat and float32. Weights are stored as in torch, one row per output. Loops use arrays with two axes, since slices
within loops count references, which takes longer than a short sum. The gradients sum up to eight rows at a time: with more,
the compiler no longer checks which of them overlap, and does not vectorize.

Loops over the inputs of a first layer with few of them would be too short to vectorize. These layers are computed with
transposed weights, in loops over the outputs.
"""

import numpy as np

from sb3_a3c.kernels.float32 import ZERO
from sb3_a3c.kernels.jit import inner

#: Largest numbers of inputs for which transposed weights are faster (measured with 64 outputs), and smallest number of rows.
_FEW_INPUTS, _FEW_INPUTS_OF_GRADIENT, _FEWEST_ROWS = 8, 24, 8


@inner
def dense(flat_x, flat_w, b, flat_y, n_rows, n_in, n_out):
    """
    ``y = x W^T + b``. Four rows and two outputs at a time; of the remaining rows, four outputs at a time.

    :param flat_x: Inputs, ``(n_rows * n_in,)``
    :param flat_w: Weights, ``(n_out * n_in,)``
    :param b: Biases, ``(n_out,)``
    :param flat_y: Written: outputs, ``(n_rows * n_out,)``
    :param n_rows: Number of rows
    :param n_in: Number of inputs
    :param n_out: Number of outputs
    """
    x, w, y = flat_x.reshape(n_rows, n_in), flat_w.reshape(n_out, n_in), flat_y.reshape(n_rows, n_out)
    if n_in <= _FEW_INPUTS and n_in < n_out and n_rows >= _FEWEST_ROWS:
        _dense_of_few_inputs(x, w, b, y)
        return
    row = 0
    while row < n_rows:
        n_together = 4 if row + 4 <= n_rows else 1
        o = 0
        while n_together == 4 and o + 2 <= n_out:
            s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
            t0, t1, t2, t3 = ZERO, ZERO, ZERO, ZERO
            for i in range(n_in):
                w0, w1 = w[o, i], w[o + 1, i]
                s0, t0 = s0 + w0 * x[row, i], t0 + w1 * x[row, i]
                s1, t1 = s1 + w0 * x[row + 1, i], t1 + w1 * x[row + 1, i]
                s2, t2 = s2 + w0 * x[row + 2, i], t2 + w1 * x[row + 2, i]
                s3, t3 = s3 + w0 * x[row + 3, i], t3 + w1 * x[row + 3, i]
            b0, b1 = b[o], b[o + 1]
            y[row, o], y[row, o + 1], y[row + 1, o], y[row + 1, o + 1] = s0 + b0, t0 + b1, s1 + b0, t1 + b1
            y[row + 2, o], y[row + 2, o + 1], y[row + 3, o], y[row + 3, o + 1] = s2 + b0, t2 + b1, s3 + b0, t3 + b1
            o += 2
        while n_together == 1 and o + 4 <= n_out:
            s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
            for i in range(n_in):
                x0 = x[row, i]
                s0 += w[o, i] * x0
                s1 += w[o + 1, i] * x0
                s2 += w[o + 2, i] * x0
                s3 += w[o + 3, i] * x0
            y[row, o], y[row, o + 1], y[row, o + 2], y[row, o + 3] = s0 + b[o], s1 + b[o + 1], s2 + b[o + 2], s3 + b[o + 3]
            o += 4
        while o < n_out:
            for k in range(row, row + n_together):
                total = b[o]
                for i in range(n_in):
                    total += w[o, i] * x[k, i]
                y[k, o] = total
            o += 1
        row += n_together


@inner
def _dense_of_few_inputs(x, w, b, y):
    """See :func:`dense`."""
    (n_rows, n_out), n_in = y.shape, x.shape[1]
    w_t = np.empty((n_in, n_out), np.float32)
    for i in range(n_in):
        for o in range(n_out):
            w_t[i, o] = w[o, i]
    for row in range(n_rows):
        for o in range(n_out):
            y[row, o] = b[o]
        for i in range(n_in):
            x0 = x[row, i]
            for o in range(n_out):
                y[row, o] += x0 * w_t[i, o]


@inner
def weight_gradient(flat_delta, flat_x, flat_out, b_out, n_rows, n_in, n_out):
    """
    ``dL/dW += delta^T x``, ``dL/db += sum over rows of delta``.

    :param flat_delta: ``dL/dy``, ``(n_rows * n_out,)``
    :param flat_x: Inputs, ``(n_rows * n_in,)``
    :param flat_out: Added to: ``dL/dW``, ``(n_out * n_in,)``
    :param b_out: Added to: ``dL/db``, ``(n_out,)``
    :param n_rows: Number of rows
    :param n_in: Number of inputs
    :param n_out: Number of outputs
    """
    delta, x, w_out = flat_delta.reshape(n_rows, n_out), flat_x.reshape(n_rows, n_in), flat_out.reshape(n_out, n_in)
    if n_in <= _FEW_INPUTS_OF_GRADIENT and n_in < n_out and n_rows >= _FEWEST_ROWS:
        w_t = np.zeros((n_in, n_out), np.float32)
        _add_outer_products(x, delta, w_t)
        for o in range(n_out):
            for i in range(n_in):
                w_out[o, i] += w_t[i, o]
    else:
        _add_outer_products(delta, x, w_out)
    for row in range(n_rows):
        for o in range(n_out):
            b_out[o] += delta[row, o]


@inner
def _add_outer_products(a, x, out):
    """
    ``out += a^T x``. Eight rows at a time, then four.

    :param a: ``(n_rows, n)``
    :param x: ``(n_rows, m)``
    :param out: Added to, ``(n, m)``
    """
    (n_rows, n), m = a.shape, x.shape[1]
    row = 0
    while row + 8 <= n_rows:
        for o in range(n):
            a0, a1, a2, a3 = a[row, o], a[row + 1, o], a[row + 2, o], a[row + 3, o]
            a4, a5, a6, a7 = a[row + 4, o], a[row + 5, o], a[row + 6, o], a[row + 7, o]
            for i in range(m):
                out[o, i] += (
                    a0 * x[row, i] + a1 * x[row + 1, i] + a2 * x[row + 2, i] + a3 * x[row + 3, i]
                    + a4 * x[row + 4, i] + a5 * x[row + 5, i] + a6 * x[row + 6, i] + a7 * x[row + 7, i]
                )  # fmt: skip
        row += 8
    while row + 4 <= n_rows:
        for o in range(n):
            a0, a1, a2, a3 = a[row, o], a[row + 1, o], a[row + 2, o], a[row + 3, o]
            for i in range(m):
                out[o, i] += a0 * x[row, i] + a1 * x[row + 1, i] + a2 * x[row + 2, i] + a3 * x[row + 3, i]
        row += 4
    while row < n_rows:
        for o in range(n):
            a0 = a[row, o]
            for i in range(m):
                out[o, i] += a0 * x[row, i]
        row += 1


@inner
def input_gradient(flat_delta, flat_w, flat_out, n_rows, n_in, n_out):
    """
    ``dL/dx = delta W``. Eight outputs at a time, and eight rows with the same weights, which stay in the cache.

    :param flat_delta: ``dL/dy``, ``(n_rows * n_out,)``
    :param flat_w: Weights, ``(n_out * n_in,)``
    :param flat_out: Written: ``dL/dx``, ``(n_rows * n_in,)``
    :param n_rows: Number of rows
    :param n_in: Number of inputs
    :param n_out: Number of outputs
    """
    delta, w, x_out = flat_delta.reshape(n_rows, n_out), flat_w.reshape(n_out, n_in), flat_out.reshape(n_rows, n_in)
    for i in range(n_rows * n_in):
        flat_out[i] = ZERO
    for first in range(0, n_rows, 8):
        end = min(first + 8, n_rows)
        o = 0
        while o + 8 <= n_out:
            for row in range(first, end):
                d0, d1, d2, d3 = delta[row, o], delta[row, o + 1], delta[row, o + 2], delta[row, o + 3]
                d4, d5, d6, d7 = delta[row, o + 4], delta[row, o + 5], delta[row, o + 6], delta[row, o + 7]
                for i in range(n_in):
                    x_out[row, i] += (
                        d0 * w[o, i] + d1 * w[o + 1, i] + d2 * w[o + 2, i] + d3 * w[o + 3, i]
                        + d4 * w[o + 4, i] + d5 * w[o + 5, i] + d6 * w[o + 6, i] + d7 * w[o + 7, i]
                    )  # fmt: skip
            o += 8
        while o < n_out:
            for row in range(first, end):
                d0 = delta[row, o]
                for i in range(n_in):
                    x_out[row, i] += d0 * w[o, i]
            o += 1

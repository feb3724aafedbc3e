"""
Dense layers: ``y = x W^T + b``, and the gradients of ``W``, ``b`` and ``x``.

Arrays are flat and float32. Weights are stored as in torch, one row per output. Loops use arrays with two axes, since slices
within loops count references, which takes longer than a short sum. The gradients sum up to eight rows at a time: with more,
the compiler no longer checks which of them overlap, and does not vectorize.
"""

from sb3_a3c.kernels.float32 import ZERO
from sb3_a3c.kernels.jit import inner


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
def weight_gradient(flat_delta, flat_x, flat_out, b_out, n_rows, n_in, n_out):
    """
    ``dL/dW += delta^T x``, ``dL/db += sum over rows of delta``. Eight rows at a time, then four.

    :param flat_delta: ``dL/dy``, ``(n_rows * n_out,)``
    :param flat_x: Inputs, ``(n_rows * n_in,)``
    :param flat_out: Added to: ``dL/dW``, ``(n_out * n_in,)``
    :param b_out: Added to: ``dL/db``, ``(n_out,)``
    :param n_rows: Number of rows
    :param n_in: Number of inputs
    :param n_out: Number of outputs
    """
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

"""
Optimizer steps over a vector of parameters, its copy, and its sum.

A step writes to other arrays, or in place if it is given none. The loop would not be vectorized for arrays that may be one
and the same.
"""

import math

import numpy as np

from sb3_a3c.kernels.jit import exact_kernel, kernel


@exact_kernel
def copy(source, target):
    """
    :param source: A vector
    :param target: Written, of the same shape
    """
    for i in range(source.size):
        target[i] = source[i]


@kernel
def total(vector):
    """
    :param vector: A vector
    :return: The sum of its elements, which is finite only if all of them are
    """
    result = np.float32(0.0)
    for i in range(vector.size):
        result += vector[i]
    return result


@exact_kernel
def rmsprop_step(vector, gradient, square_avg, learning_rate, alpha, eps, new_vector=None, new_square_avg=None):
    """
    RMSprop as in torch: ``v <- alpha v + (1 - alpha) g^2``, ``x <- x - lr g / (sqrt(v) + eps)``.

    :param vector: The parameters ``x``, ``(size,)``
    :param gradient: ``g``, of the same shape
    :param square_avg: ``v``, of the same shape
    :param learning_rate: ``lr``
    :param alpha: Decay of the average
    :param eps: Keeps the denominator above 0
    :param new_vector: Written: the new parameters, of the same shape. None: in place
    :param new_square_avg: Written: the new average. None: in place
    """
    x_out = vector if new_vector is None else new_vector
    v_out = square_avg if new_square_avg is None else new_square_avg
    keep, add, small, rate = np.float32(alpha), np.float32(1.0 - alpha), np.float32(eps), np.float32(learning_rate)
    for i in range(vector.size):
        g = gradient[i]
        v = keep * square_avg[i] + add * g * g
        v_out[i] = v
        x_out[i] = vector[i] - rate * g / (math.sqrt(v) + small)


@exact_kernel
def rmsprop_tf_step(vector, gradient, square_avg, learning_rate, alpha, eps, new_vector=None, new_square_avg=None):
    """
    RMSprop as in TensorFlow and the A3C paper (Mnih et al. 2016, section 4): ``v <- alpha v + (1 - alpha) g^2``,
    ``x <- x - lr g / sqrt(v + eps)``. See :func:`rmsprop_step` for the parameters.
    """
    x_out = vector if new_vector is None else new_vector
    v_out = square_avg if new_square_avg is None else new_square_avg
    keep, add, small, rate = np.float32(alpha), np.float32(1.0 - alpha), np.float32(eps), np.float32(learning_rate)
    for i in range(vector.size):
        g = gradient[i]
        v = keep * square_avg[i] + add * g * g
        v_out[i] = v
        x_out[i] = vector[i] - rate * g / math.sqrt(v + small)


@exact_kernel
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
    Adam (Kingma and Ba 2015, algorithm 1): ``m <- beta1 m + (1 - beta1) g``, ``v <- beta2 v + (1 - beta2) g^2``,
    ``x <- x - lr m' / (sqrt(v') + eps)`` with ``m' = m / (1 - beta1^n)`` and ``v' = v / (1 - beta2^n)``.

    :param vector: The parameters ``x``, ``(size,)``
    :param gradient: ``g``, of the same shape
    :param exp_avg: ``m``, of the same shape
    :param exp_avg_sq: ``v``, of the same shape
    :param learning_rate: ``lr``
    :param beta1: Decay of ``m``
    :param beta2: Decay of ``v``
    :param eps: Keeps the denominator above 0
    :param n_steps: ``n``, the number of this gradient, from 1
    :param new_vector: Written: the new parameters, of the same shape. None: in place
    :param new_exp_avg: Written: the new ``m``. None: in place
    :param new_exp_avg_sq: Written: the new ``v``. None: in place
    """
    x_out = vector if new_vector is None else new_vector
    m_out = exp_avg if new_exp_avg is None else new_exp_avg
    v_out = exp_avg_sq if new_exp_avg_sq is None else new_exp_avg_sq
    keep1, add1, keep2, add2 = np.float32(beta1), np.float32(1.0 - beta1), np.float32(beta2), np.float32(1.0 - beta2)
    rate = np.float32(learning_rate / (1.0 - beta1**n_steps))
    scale, small = np.float32(math.sqrt(1.0 - beta2**n_steps)), np.float32(eps)
    for i in range(vector.size):
        g = gradient[i]
        difference = g - exp_avg[i]
        m = exp_avg[i] + add1 * difference if beta1 > 0.5 else g - keep1 * difference  # as th.lerp
        v = keep2 * exp_avg_sq[i] + add2 * g * g
        m_out[i], v_out[i] = m, v
        x_out[i] = vector[i] - rate * m / (math.sqrt(v) / scale + small)

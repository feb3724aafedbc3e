"""Activation functions in float32, and their derivatives, which are computed from their outputs."""

import math

import numpy as np

from sb3_a3c.kernels.float32 import HALF, ONE, SIX, TWO, ZERO
from sb3_a3c.kernels.jit import contracted, exact, inner
from sb3_a3c.kernels.network_table import ELU, RECTIFIER, RELU6, SIGMOID, TANH

# exp(x) = 2^n e^r with n = x / ln 2 rounded to an integer; tanh(x) = x + x^3 p(x^2) up to 0.625. The polynomials are those
# of the Cephes library (Moshier).
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


@inner
def activate(kind, parameter, y):
    """
    ``y <- f(y)``.

    :param kind: ``TANH``, ...
    :param parameter: The slope of a leaky ReLU for negative inputs, or ELU's alpha
    :param y: Read and written, of any length
    """
    if kind == TANH:
        for i in range(y.size):
            y[i] = tanh(y[i])
    elif kind == RECTIFIER:
        for i in range(y.size):
            y[i] = parameter * y[i] if y[i] <= ZERO else y[i]
    elif kind == ELU:
        for i in range(y.size):
            y[i] = parameter * (_exp(y[i]) - ONE) if y[i] <= ZERO else y[i]
    elif kind == RELU6:
        for i in range(y.size):
            above = ZERO if y[i] <= ZERO else y[i]
            y[i] = SIX if above >= SIX else above
    elif kind == SIGMOID:
        for i in range(y.size):
            y[i] = sigmoid(y[i])


@inner
def deactivate(kind, parameter, y, delta):
    """
    ``delta <- delta f'(x)``, where ``y = f(x)``.

    :param kind: ``TANH``, ...
    :param parameter: See :func:`activate`
    :param y: The outputs
    :param delta: Read and written: the gradient, of the same length
    """
    if kind == TANH:
        for i in range(y.size):
            delta[i] *= ONE - y[i] * y[i]
    elif kind == RECTIFIER:
        for i in range(y.size):
            delta[i] *= parameter if y[i] <= ZERO else ONE
    elif kind == ELU:
        for i in range(y.size):
            delta[i] *= y[i] + parameter if y[i] <= ZERO else ONE
    elif kind == RELU6:
        for i in range(y.size):
            delta[i] = ZERO if y[i] <= ZERO or y[i] >= SIX else delta[i]
    elif kind == SIGMOID:
        for i in range(y.size):
            delta[i] *= y[i] * (ONE - y[i])


@contracted
def tanh(x):
    """Exact to two units in the last place, and 1 where no other float32 is closer. NaN stays NaN."""
    size, z = abs(x), x * x
    p = _T0 * z + _T1
    p = p * z + _T2
    p = p * z + _T3
    p = p * z + _T4
    small = p * z * x + x
    t = _exp(-TWO * size)
    large = (ONE - t) / (ONE + t)
    large = -large if x < ZERO else large
    return large if size > _TANH_SMALL else small


@contracted
def sigmoid(x):
    """``1 / (1 + e^-x)``. NaN stays NaN."""
    return HALF + HALF * tanh(HALF * x)


@contracted
def _exp(x):
    """For ``x <= 0``. NaN counts as the lowest number."""
    x = x if x > _EXP_LOWEST else _EXP_LOWEST
    n = np.floor(x * _LOG2_E + HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = _E0 * r + _E1
    p = p * r + _E2
    p = p * r + _E3
    p = p * r + _E4
    p = p * r + _E5
    p = p * r * r + r + ONE
    return p * np.int32((np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(np.float32)


@exact
def softplus(x):
    """``log(1 + e^x)``."""
    return (ZERO if x <= ZERO else x) + math.log1p(math.exp(-abs(x)))

"""Random numbers from a generator whose state is an array of four uint64."""

import math

import numpy as np

from sb3_a3c.kernels.jit import exact

_U11, _U17, _U19, _U23, _U41, _U45 = (np.uint64(number) for number in (11, 17, 19, 23, 41, 45))
_TWO_TO_MINUS_53 = 2.0**-53


@exact
def _next(rng):
    """xoshiro256++ (Blackman and Vigna 2021, Scrambled linear pseudorandom number generators)."""
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


@exact
def uniform(rng):
    """
    :param rng: Read and written: the generator's state
    :return: A number from ``[0, 1)``
    """
    return np.float64(_next(rng) >> _U11) * _TWO_TO_MINUS_53


@exact
def normal(rng):
    """
    Marsaglia's polar method (Marsaglia and Bray 1964).

    :param rng: Read and written: the generator's state
    :return: A number from the standard normal distribution
    """
    while True:
        u, v = 2.0 * uniform(rng) - 1.0, 2.0 * uniform(rng) - 1.0
        s = u * u + v * v
        if s < 1.0 and s > 0.0:
            return u * math.sqrt(-2.0 * math.log(s) / s)

"""Numbers in float32. With Python's numbers, numba would compute in float64."""

import math

import numpy as np

ZERO, HALF, ONE, TWO, SIX = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0, 6.0))
NAN, INFINITY = np.float32(np.nan), np.float32(np.inf)
HALF_LOG_TWO_PI = np.float32(0.5 * math.log(2.0 * math.pi))

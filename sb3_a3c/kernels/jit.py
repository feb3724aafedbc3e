"""
How numba compiles the kernels: a decorator for each kind of function.

A *kernel* is called from Python. An *inner* function is called from kernels only. Kernels keep the GIL, because
releasing it takes longer than most of them run. Nothing is compiled, and no cache is touched, before a kernel is called
(see :mod:`~sb3_a3c.kernels.cache`).

Users wait for the first compilation, so it is kept short:

- Types do not depend on shapes. Each kernel is compiled once for all networks.
- An inner function is compiled on its own and again within each caller. Those with few callers are merged into them
  before that (:func:`merged`), and both networks go through one call in a loop.
- Arrays are copied in loops. An assignment of one array to another compiles error messages, which takes seconds.

The flags of ``_FAST`` allow sums to be reordered, so that they are vectorized. NaN and infinity keep their meaning, since a
gradient that is not finite must be noticed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

# All options are always given: numba takes a missing one from whichever function happens to call first.
_OPTIONS: dict[str, Any] = dict(nogil=False, error_model="numpy", no_cfunc_wrapper=True)
_INNER: dict[str, Any] = dict(no_cpython_wrapper=True, **_OPTIONS)
_FAST = {"reassoc", "contract", "arcp", "afn", "nsz"}

inner: Any = njit(fastmath=_FAST, **_INNER)
#: For inner functions with few callers. Their flags are the caller's.
merged: Any = njit(fastmath=_FAST, inline="always", **_INNER)
#: Where the order of operations matters, but a product need not be rounded before it is added.
contracted: Any = njit(fastmath={"contract"}, **_INNER)
#: Where the last bit matters.
exact: Any = njit(fastmath=False, **_INNER)


def kernel(function: Callable) -> Any:
    """
    :param function: A function of arrays and numbers
    :return: The function, to be compiled at its first call
    """
    return _quiet(njit(fastmath=_FAST, **_OPTIONS)(function))


def exact_kernel(function: Callable) -> Any:
    """
    :param function: A function of arrays and numbers whose results must be exact to the last bit
    :return: The function, to be compiled at its first call
    """
    return _quiet(njit(fastmath=False, **_OPTIONS)(function))


def _quiet(function: Any) -> Any:
    """With NUMBA_DISABLE_JIT it is a Python function, and NumPy warns where compiled code does not."""
    return function if hasattr(function, "py_func") else np.errstate(all="ignore")(function)

"""
Compiled arithmetic: numba functions that take arrays and return arrays, one file per topic.

Arrays that go in and out are float32 and C-contiguous, except in :mod:`~sb3_a3c.kernels.normalization`. Kernels check nothing.
Callers are responsible for types and shapes.
"""

"""Compiled arithmetic: numba functions that take arrays and return arrays, and their cache."""

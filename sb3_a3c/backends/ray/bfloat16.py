"""Gradients in bfloat16: two bytes per element, with the range of float32 and a relative precision of 1/256."""

import numpy as np
import torch as th


def to_bfloat16(gradient: np.ndarray) -> np.ndarray:
    """
    :param gradient: A gradient, of shape ``(size,)``
    :return: The same, rounded to nearest, as the bytes of bfloat16, of shape ``(size,)``. NumPy has no such type
    """
    return th.from_numpy(gradient).to(th.bfloat16).view(th.int16).numpy()


def copy_gradient(sent: np.ndarray, gradient: np.ndarray) -> None:
    """
    :param sent: A gradient, or the result of :func:`to_bfloat16`. It may be read-only
    :param gradient: Written: the gradient, of shape ``(size,)``
    """
    if sent.dtype == np.int16:  # the upper halves of numbers in float32
        sent = np.left_shift(sent, 16, dtype=np.int32).view(np.float32)
    np.copyto(gradient, sent)

"""Vectors in memory that processes can share."""

from typing import Any

import numpy as np
import torch as th


class Memory:
    """
    A vector as a tensor and as an array of the same memory. Both are kept, because torch releases the GIL when it converts one
    to the other, which would cost more than a worker's step.

    :param tensor: The vector, of shape ``(n,)``. If it is not on the CPU, the array is empty
    """

    def __init__(self, tensor: th.Tensor) -> None:
        self.tensor = tensor
        self.array = _array(tensor)

    def share(self) -> None:
        """Move it to memory that worker processes share. To be called before they are started."""
        assert self.tensor.device.type == "cpu"
        self.tensor.share_memory_()
        self.array = _array(self.tensor)

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.tensor,)


def _array(tensor: th.Tensor) -> np.ndarray:
    return tensor.numpy() if tensor.device.type == "cpu" else np.empty(0)

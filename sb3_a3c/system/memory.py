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

    def copy_from(self, other: "Memory") -> None:
        """
        Copy without torch's threads. They wait actively for each other, which takes far more processor time than the copy.

        :param other: The vector to copy
        """
        if self._is_on_cpu and other._is_on_cpu:
            np.copyto(self.array, other.array)
        else:
            self.tensor.copy_(other.tensor)

    def equals(self, other: "Memory") -> bool:
        """
        :param other: A vector of the same shape
        :return: Whether all elements are equal, as for ``torch.equal``, without torch's threads
        """
        if self._is_on_cpu and other._is_on_cpu:
            return np.array_equal(self.array, other.array)
        return th.equal(self.tensor, other.tensor)

    @property
    def _is_on_cpu(self) -> bool:
        return self.tensor.device.type == "cpu"

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.tensor,)


def _array(tensor: th.Tensor) -> np.ndarray:
    return tensor.numpy() if tensor.device.type == "cpu" else np.empty(0)

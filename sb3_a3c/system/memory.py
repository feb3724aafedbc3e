"""Vectors in memory that processes can share."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import torch as th

#: Vectors in one block begin at multiples of this many bytes, as separate tensors do.
_ALIGNMENT = 64


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


def share_together(memories: Iterable[Memory], tensors: Iterable[th.Tensor] = ()) -> None:
    """
    Move small vectors to one block of memory that worker processes share. It takes one file descriptor, however many there
    are, and the fork server passes 256 to a process at most. To be called before worker processes are started.

    :param memories: The vectors
    :param tensors: Further tensors, of any shape
    """
    memories = list(memories)
    moved = [*(memory.tensor for memory in memories), *tensors]
    sizes = (-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in moved)
    *starts, n_bytes = accumulate(sizes, initial=0)
    block = th.zeros(n_bytes, dtype=th.uint8, device="cpu").share_memory_()
    for tensor, start in zip(moved, starts, strict=True):
        view = block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        view.copy_(tensor)
        tensor.data = view
    for memory in memories:
        memory.array = _array(memory.tensor)


def as_tensor(vector: th.Tensor | np.ndarray) -> th.Tensor:
    """
    :param vector: A tensor, or an array
    :return: A tensor of the same memory. (``torch.as_tensor`` moves it to torch's default device, which users can set)
    """
    return vector if isinstance(vector, th.Tensor) else th.from_numpy(vector)


def _array(tensor: th.Tensor) -> np.ndarray:
    return tensor.numpy() if tensor.device.type == "cpu" else np.empty(0)

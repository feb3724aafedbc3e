"""Numbers in memory that other processes may see too."""

from typing import Any

import numpy as np
import torch as th


class Memory:
    """
    A vector as a tensor and as an array of the same memory. Torch lets go of the GIL to make the one of the other, and in
    the middle of a worker's step that costs more than the step.

    :param tensor: The vector, of shape ``(n,)``; on another device than the CPU there is no array
    """

    def __init__(self, tensor: th.Tensor) -> None:
        self.tensor = tensor
        self.array = _array(tensor)

    def share(self) -> None:
        """Move it to memory that worker processes see too. To be called before there are any."""
        self.tensor.share_memory_()
        self.array = _array(self.tensor)

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.tensor,)


def _array(tensor: th.Tensor) -> np.ndarray:
    return tensor.numpy() if tensor.device.type == "cpu" else np.empty(0)

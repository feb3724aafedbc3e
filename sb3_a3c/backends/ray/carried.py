"""The shared parameters as the actor of a worker sees them: carried to it with each step, and back with the answer."""

from collections.abc import Sequence

import numpy as np
import torch as th

from sb3_a3c.backends.ray.bfloat16 import to_bfloat16
from sb3_a3c.backends.ray.messages import Pull
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.parameters.protocol import Access, Push


class CarriedParameters:
    """
    See :class:`~sb3_a3c.parameters.protocol.Parameters`. A push and the next pull are one round trip to the driver.

    :param layout: The positions of parameters in the vector
    :param gradient_dtype: See :class:`~sb3_a3c.backends.ray.backend.RayBackend`
    """

    def __init__(self, layout: Layout, gradient_dtype: str | None) -> None:
        self.layout = layout
        self._gradient_dtype = gradient_dtype
        self._vector: np.ndarray
        self._pulled: Pull
        #: The last gradient that was pushed, of shape ``(size,)``, as it is sent, and what was pushed with it.
        self.gradient: np.ndarray
        self.pushed: Push

    def carry(self, vector: np.ndarray, pull: Pull) -> None:
        """
        :param vector: What the next pulls get, of shape ``(size,)``. It is not written
        :param pull: Everything but the vector
        """
        self._vector, self._pulled = vector, pull

    def pull(self, vector: Vector, buffers: Sequence[th.Tensor]) -> Access:
        """See :meth:`Parameters.pull`."""
        pulled = self._pulled
        np.copyto(as_array(vector), self._vector)
        for buffer, carried in zip(buffers, pulled.buffers, strict=True):
            buffer.copy_(carried)
        return Access(pulled.n_updates, pulled.num_timesteps, 0.0, [moments.copy() for moments in pulled.moments])

    def push(self, gradient: Vector, push: Push) -> Access:
        """See :meth:`Parameters.push`. Only the driver, which applies the gradient, knows the version that it makes."""
        self.gradient, self.pushed = as_array(gradient), push
        if self._gradient_dtype == "bfloat16":
            self.gradient = to_bfloat16(self.gradient)
        pulled = self._pulled
        return Access(pulled.n_updates + 1, pulled.num_timesteps + push.n_timesteps, 0.0)


def as_array(vector: Vector) -> np.ndarray:
    """
    :param vector: A vector on the CPU
    :return: The same memory as an array
    """
    return vector if isinstance(vector, np.ndarray) else vector.detach().numpy()

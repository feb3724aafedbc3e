"""What a worker knows of the shared parameters: they can be pulled and pushed to."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch as th

from sb3_a3c.envs.normalization import Journal
from sb3_a3c.parameters.layout import Layout, Vector


class Access(NamedTuple):
    """
    The answer to a pull or a push.

    :param n_updates: The version: gradients applied so far in this call of ``learn()``, including a push's own
    :param num_timesteps: Environment steps whose gradients have been applied, the paper's global counter T
    :param waited: Seconds spent waiting for the lock
    :param moments: Normalization statistics as pulled, see :func:`~sb3_a3c.envs.normalization.moments_of`
    """

    n_updates: int
    num_timesteps: int
    waited: float
    moments: Sequence[np.ndarray] = ()


class Push(NamedTuple):
    """
    What is pushed with a gradient.

    :param learning_rates: The actor's and the critic's learning rate
    :param n_timesteps: Environment steps that the gradient was computed from
    :param buffers: The worker's buffers. Those of the last push are the shared ones
    :param journals: What to count in each of the normalization statistics, None: nothing
    :param without_gradient: Indices of the parameters that have no gradient. They are not stepped
    """

    learning_rates: Sequence[float]
    n_timesteps: int
    buffers: Sequence[th.Tensor] = ()
    journals: Sequence[Journal | None] = ()
    without_gradient: Sequence[int] = ()


class Parameters(Protocol):
    """
    The shared parameters (theta), as a worker sees them. Arguments and results are plain values, so that an implementation
    may be elsewhere. It may also make one round trip of a push and the pull that follows: the answer to the push then
    carries the parameters along, which serve the next pull, at the version that :class:`Access` tells.
    """

    #: The positions of parameters in a vector.
    layout: Layout

    def pull(self, vector: Vector, buffers: Sequence[th.Tensor]) -> Access:
        """
        theta' <- theta.

        :param vector: The worker's parameters, of shape ``(size,)``, to be written
        :param buffers: The worker's buffers (BatchNorm's running statistics), to be written
        :return: The version that was pulled, and the normalization statistics that go with it
        """

    def push(self, gradient: Vector, push: Push) -> Access:
        """
        Step theta along a gradient, with the optimizer's shared statistics, and count it.

        :param gradient: The gradient, finite and of shape ``(size,)``
        :param push: Everything but the gradient
        :return: The version with this gradient
        :raises NonFiniteError: if the step makes a parameter NaN or infinite. It is not applied, except in place
        """

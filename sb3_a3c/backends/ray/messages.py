"""
What the driver and the actor of a worker send each other, and what the driver's two threads do.

Vectors travel beside these messages, not within them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_a3c.backends.process.parcel import MonitorFile
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.parameters.protocol import Push
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.spec import WorkerSpec


@dataclass(frozen=True)
class Assignment:
    """
    What the actor of a worker is started with, packed.

    :param spec: The specification of the worker
    :param layout: The positions of parameters in the vector
    :param gradient_dtype: See :class:`~sb3_a3c.backends.ray.backend.RayBackend`
    """

    spec: WorkerSpec
    layout: Layout
    gradient_dtype: str | None


@dataclass(frozen=True)
class Start:
    """
    To an actor: be this worker.

    :param content: An :class:`Assignment`, packed
    :param files: The files that Monitor writes, in place of their handles in the content
    :param numpy_errors: NumPy's error handling, see ``np.geterr()``
    :param version: The driver's version of the package
    :param kernels: The driver's folder of compiled kernels, used where it exists. None: numba chooses one
    :param import_path: The driver's import path. Its folders are used where they exist
    :param number: Which actor of its worker this is, from 0
    :param pull: The shared parameters, beside the vector
    """

    content: bytes
    files: list[MonitorFile]
    numpy_errors: dict[str, Any]
    version: str
    kernels: str | None
    import_path: list[str]
    number: int
    pull: "Pull"


@dataclass(frozen=True)
class Pull:
    """
    The shared parameters as they are when a rollout is handed out, beside the vector.

    :param n_updates: See :class:`~sb3_a3c.parameters.protocol.Access`
    :param num_timesteps: See :class:`~sb3_a3c.parameters.protocol.Access`
    :param moments: See :class:`~sb3_a3c.parameters.protocol.Access`
    :param buffers: The policy's buffers
    """

    n_updates: int
    num_timesteps: int
    moments: Sequence[np.ndarray]
    buffers: Sequence[th.Tensor]


@dataclass(frozen=True)
class Step:
    """
    To an actor: make a rollout, and answer with its gradient.

    :param pull: The shared parameters, beside the vector
    :param hyperparameters: New hyperparameters, None: they are the same as before
    """

    pull: Pull
    hyperparameters: Hyperparameters | None


@dataclass(frozen=True)
class Stepped:
    """
    From an actor: a rollout. The driver applies its gradient.

    :param rollout: The rollout. Its staleness is not known yet
    :param push: What is pushed with the gradient
    :param notices: Warnings for the user
    """

    rollout: Rollout
    push: Push
    notices: list[str]


@dataclass(frozen=True)
class Stopped:
    """From an actor: there is no rollout, because it was told to stop, or had failed before."""


@dataclass(frozen=True)
class Started:
    """
    From an actor: it is a worker now, and has done nothing yet.

    :param machine: Where its process is, see :func:`~sb3_a3c.backends.ray.local_process.machine`
    :param pid: The id of its process there
    """

    machine: str
    pid: int


@dataclass(frozen=True)
class Lost:
    """To the main thread: the environments of a worker are lost. There is no reason to tell if the worker has failed."""

    why: str


@dataclass(frozen=True)
class Untouched:
    """To the main thread: a worker has done nothing, so its environments are as they were."""


@dataclass(frozen=True)
class Died:
    """To the main thread: a worker has died, and is replaced."""

    text: str


@dataclass(frozen=True)
class Ended:
    """To the main thread: nothing else follows."""

"""The shared parameters on the driver's side: read for each rollout that is handed out, stepped along each that comes back."""

import numpy as np
import torch as th

from sb3_a3c.backends.ray.bfloat16 import copy_gradient
from sb3_a3c.backends.ray.carried import as_array
from sb3_a3c.backends.ray.messages import Pull, Stepped
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.notes import add_note
from sb3_a3c.worker.errors import NonFiniteError, name_environments
from sb3_a3c.worker.recorder import Recorder
from sb3_a3c.worker.rollout import Rollout


class SharedVector:
    """
    :param parameters: The shared parameters. Only one thread pushes to them
    :param recorder: Records pulls and pushes, None: nothing does
    """

    def __init__(self, parameters: SharedParameters, recorder: Recorder | None) -> None:
        self._parameters = parameters
        self._recorder = recorder
        self._vector = th.zeros_like(parameters.vector)
        self._gradient = th.zeros_like(parameters.vector)
        self._buffers = parameters.new_buffers()

    @property
    def n_updates(self) -> int:
        """Gradients applied so far."""
        return self._parameters.n_updates

    def pull(self) -> tuple[Pull, np.ndarray]:
        """
        :return: The shared parameters, and their vector, of shape ``(size,)``, which the next call overwrites
        """
        access = self._parameters.pull(self._vector, self._buffers)
        return Pull(access.n_updates, access.num_timesteps, access.moments, self._buffers), as_array(self._vector)

    def push(self, stepped: Stepped, gradient: np.ndarray, version: int) -> Rollout:
        """
        :param stepped: What a worker has sent
        :param gradient: Its gradient, of shape ``(size,)``, as it was sent
        :param version: The number of updates before its pull
        :return: The rollout, with its staleness
        :raises NonFiniteError: if the step makes a parameter NaN or infinite. It is not applied
        """
        copy_gradient(gradient, as_array(self._gradient))  # what Ray has received can't be written, and kernels ask for that
        rollout = stepped.rollout
        try:
            access = self._parameters.push(self._gradient, stepped.push)
        except NonFiniteError as error:
            add_note(error, f"raised in worker {rollout.worker} of A3C, {name_environments(rollout.env_indices)}")
            self.note_failure(rollout.worker, version)
            raise
        if self._recorder is not None:
            self._recorder.pulled(rollout.worker, version)
            self._recorder.pushed(rollout.worker, access.n_updates)
        return rollout._replace(staleness=access.n_updates - version - 1, lock_seconds=access.waited)

    def note_failure(self, worker: int, version: int) -> None:
        """
        :param worker: Index of a worker that has failed
        :param version: The number of updates before the pull of the rollout in which it has
        """
        if self._recorder is not None:
            self._recorder.pulled(worker, version)

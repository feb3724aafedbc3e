"""
What the actor of a worker does. Ray calls it; it does not import Ray.

Two threads call an actor: one for steps, which come in their order, and one for what is to be done between two steps of the
environments: calls of their methods, and the end. No method raises anything: an exception is a message, like the results.

What is assumed: two threads may use the environments, one at a time (``env_lock``). Nothing depends on the GIL.
"""

import gc
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.installation import Installation
from sb3_a3c.backends.process.messages import EnvResult, decode, encode, encode_rollouts
from sb3_a3c.backends.process.separate_worker import SeparateWorker, unpack_assignment
from sb3_a3c.backends.ray.carried import CarriedParameters
from sb3_a3c.backends.ray.local_process import machine
from sb3_a3c.backends.ray.messages import Assignment, Start, Started, Step, Stepped, Stopped
from sb3_a3c.backends.ray.parts import join, split
from sb3_a3c.kernels.cache import use_cache
from sb3_a3c.policies.hooks import take_notices
from sb3_a3c.system.notes import add_note
from sb3_a3c.worker.errors import WorkerStopped
from sb3_a3c.worker.rollout import lighten

#: Added to what an environment raises in the first step or reset that a worker makes.
FIRST_USE_NOTE = (
    "This was the first use of an environment in a worker's actor, which has a copy of it: backend='ray' pickles "
    "environments. If the copy is not whole (it lacks a connection or a simulator, for instance), let each worker make its "
    "own: pass the id of a registered environment, or a function that makes a batched one."
)


class WorkerActor:
    """It does nothing until it is started."""

    def __init__(self) -> None:
        self._worker: SeparateWorker
        self._parameters: CarriedParameters
        self._ended = False
        self._stepped_at = 0.0

    def start(self, message: bytes, vector: np.ndarray) -> bytes:
        """
        :param message: A :class:`Start`
        :param vector: The shared parameters, of shape ``(size,)``
        :return: :class:`Started`, or a :class:`Failure`
        """
        try:
            self._start(decode(message), vector)
        except BaseException as error:
            add_note(error, "raised while the actor of a worker was starting")
            self._ended = True
            return encode(Failure.of(error))
        self._stepped_at = time.monotonic()
        return encode(Started(machine(), os.getpid()))

    def step(self, *parts: Any) -> Any:
        """
        :param parts: A :class:`Step`, and the shared parameters, of shape ``(size,)``, see :func:`split`
        :return: As many parts: :class:`Stepped` with the gradient; or :class:`Stopped` or a :class:`Failure`, without one
        """
        answer = split(*self._step(parts), len(parts))
        return answer if len(answer) > 1 else answer[0]

    def call_env(self, number: int, message: bytes) -> bytes:
        """
        :param number: The number of the call, whose message may be one that can't be unpickled here
        :param message: An :class:`EnvCall`
        :return: An :class:`EnvResult`
        """
        try:
            return self._worker.call_env(decode(message))
        except BaseException as error:
            return encode(EnvResult(number, None, Failure.of(error)))

    def stop(self) -> None:
        """End the rollout under way after the current step of the environments, and make no other."""
        self._ended = True
        self._worker.stop()

    def finish(self) -> tuple[bytes, str]:
        """
        Close the environments here.

        :return: :class:`FinalState`, or a :class:`Failure`; and a message if an environment could not be closed
        """
        try:
            final, close = self._worker.final_state()
            return encode(final), close()
        except BaseException as error:
            return encode(Failure.of(error)), ""

    def _start(self, start: Start, vector: np.ndarray) -> None:
        ours = Installation.here().version
        if ours != start.version:
            raise RuntimeError(
                f"the node of this actor has sb3_a3c {ours}, but the driver has {start.version}: install the "
                "same version on all nodes, or send it along with backend_kwargs=dict(runtime_env=...)"
            )
        sys.path.extend(folder for folder in start.import_path if folder not in sys.path and os.path.isdir(folder))
        np.seterr(**start.numpy_errors)
        th.set_num_threads(1)  # of this thread: several workers leave no cores for more
        if start.kernels is not None and os.path.isdir(start.kernels):
            use_cache(start.kernels)
        handles = [file.open() for file in start.files]
        assignment: Assignment = unpack_assignment(start.content, handles, FIRST_USE_NOTE)
        self._parameters = CarriedParameters(assignment.layout, assignment.gradient_dtype)
        self._parameters.carry(vector, start.pull)
        self._worker = SeparateWorker(assignment.spec, self._parameters, handles, start.number, FIRST_USE_NOTE)
        gc.freeze()  # loaded objects stay, and collecting them would stop the actor for tenths of a second

    def _step(self, parts: Sequence[Any]) -> tuple[bytes, np.ndarray | None]:
        if self._ended:
            return encode(Stopped()), None
        try:
            idle_seconds = time.monotonic() - self._stepped_at
            message, vector = join(parts)
            assert vector is not None
            step: Step = decode(message)
            if step.hyperparameters is not None:
                self._worker.hyperparameters = step.hyperparameters
            self._parameters.carry(vector, step.pull)
            rollout = lighten(self._worker.step(idle_seconds))
            stepped = encode_rollouts(Stepped(rollout, self._parameters.pushed, take_notices()))
        except WorkerStopped:
            return encode(Stopped()), None
        except BaseException as error:  # SystemExit too: it is meant for the caller, not for this process
            self._ended = True
            return encode(Failure.of(error)), None
        self._stepped_at = time.monotonic()
        return stepped, self._parameters.gradient

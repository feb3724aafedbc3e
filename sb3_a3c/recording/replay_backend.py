"""A backend that runs workers in the caller's thread, in a recorded order."""

from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import islice
from typing import Self

from sb3_a3c.backends import Backend
from sb3_a3c.backends.asynchronous import ANOTHER
from sb3_a3c.envs.slices import is_reset_by_pickling
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.recording.recording import Recording, Turn
from sb3_a3c.system.notes import raise_first
from sb3_a3c.system.torch_threads import OneTorchThread, TorchThreadsOfOthers
from sb3_a3c.worker.rollout import Rollout, lighten
from sb3_a3c.worker.spec import WorkerSpec
from sb3_a3c.worker.worker import make_workers


class ReplayBackend(Backend):
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`. If a worker fails, its error is raised after all updates of the recorded
    run, as it may have been in that run.

    :param specs: Specifications of the workers, in the order of their environments
    :param parameters: The shared parameters
    :param recording: The recorded order
    """

    is_repeatable = True

    def __init__(self, specs: Sequence[WorkerSpec], parameters: SharedParameters, recording: Recording) -> None:
        self.workers = make_workers(specs, parameters)
        self._one_torch_thread = OneTorchThread(len(specs))
        self._torch_threads = TorchThreadsOfOthers()
        self._moved = recording.moved
        self._turns = recording.turns()
        self._failures = recording.failures.tolist()
        self._shown = iter(recording.shown.tolist())
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        #: What workers have failed with, as in the recorded run.
        self._errors: dict[int, BaseException] = {}

    def __enter__(self) -> Self:
        self._torch_threads.__enter__()
        for worker in self.workers:
            if self._moved and is_reset_by_pickling(worker.env):
                worker.reset_envs()
        return self

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._one_torch_thread.__exit__()  # an exception may have come before it was exited
        try:
            if error is None or isinstance(error, Exception):  # updates that workers had made when a callback ended the run
                with self._one_torch_thread:
                    self._take_all_turns(error)
        finally:
            self._torch_threads.__exit__()

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        collected = []
        with self._one_torch_thread:
            for index in islice(self._shown, len(self.workers)):
                while not self._arrived[index]:
                    if not self._take_turn():
                        raise ValueError("recording must have a turn for each rollout that callbacks saw, but one is missing")
                collected.append(self._arrived[index].popleft())
            if not collected:
                self._take_all_turns(None)
                raise ValueError("callback must stop a replay where the recorded run was stopped, but it goes on")
        return collected

    def _take_all_turns(self, error: BaseException | None) -> None:
        """
        Take all remaining turns, and then raise the errors of workers as the recorded run did.

        :param error: The exception that is being raised already
        """
        while self._take_turn():
            pass
        raise_first([self._errors.pop(worker) for worker in self._failures if worker in self._errors], error, ANOTHER)

    def _take_turn(self) -> bool:
        """Let a worker do what is next. Returns False if no turn is left."""
        index, turn = next(self._turns, (-1, None))
        if turn is None:
            return False
        worker = self.workers[index]
        try:
            if turn is not Turn.PUSH:
                worker.collect()
                worker.compute_gradient()
            if turn is not Turn.PULL:
                self._arrived[index].append(lighten(worker.push()))
            if turn is Turn.FAIL:
                raise ValueError(
                    f"worker {index} must fail in a replay where it failed in the recorded run, but it does not: its process "
                    "was killed, or its environments use something that is different now"
                )
        except BaseException as error:
            if turn is not Turn.FAIL:
                self._turns = iter(())  # they follow from what has not happened
                raise
            self._errors[index] = error
        return True

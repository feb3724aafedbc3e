"""
Recording and replaying the order in which workers pull and push.

If each worker and each environment has its own random generator, only this order is random in an asynchronous run.
For each update, :func:`record` records the worker, and the version of the parameters that the worker had pulled.
:func:`replay` runs the workers in that order, in one thread, and gets the same bits.
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from sb3_a3c.backends import Backend
from sb3_a3c.recording.terms import Terms
from sb3_a3c.system.files import atomic_write
from sb3_a3c.worker.recorder import Recorder

#: Format of a recording's file. Another format has other terms, so they can't be compared.
_FORMAT = 3
_ARRAYS = ("workers", "pulls", "failures", "failed_pulls", "shown")

T = TypeVar("T")


class RecordedModel(Protocol):
    """The attributes that a model needs to be recorded or replayed."""

    use_locking: bool
    seed: int | None
    _next_run: Any


class Turn(Enum):
    """What a worker does in its turn: pull and collect a rollout, push its gradient, or fail before that."""

    PULL = "pull"
    PUSH = "push"
    FAIL = "fail"


class Recording:
    """
    The order of pulls and pushes of one run. It is empty until the recorded run has ended.

    :ivar workers: The worker of each update, of shape ``(n_updates,)``
    :ivar pulls: The number of updates before its pull, for each update, of shape ``(n_updates,)``
    :ivar failures: The workers that failed, of shape ``(n_failures,)``. The error of the first was raised, others were noted
    :ivar failed_pulls: The number of updates before the pull of the rollout in which it failed, for each of these
    :ivar shown: The workers whose rollouts callbacks saw, in that order, of shape ``(n_rollouts * n_workers,)``
    """

    def __init__(self) -> None:
        self.workers = np.empty(0, dtype=np.uint16)
        self.pulls = np.empty(0, dtype=np.uint32)
        self.failures = np.empty(0, dtype=np.uint16)
        self.failed_pulls = np.empty(0, dtype=np.uint32)
        self.shown = np.empty(0, dtype=np.uint16)
        self.terms: Terms | None = None
        #: Whether environments were reset when the workers started, as some are in another process.
        self.moved = False
        #: The number of workers that died and were replaced.
        self.n_restarts = 0

    def save(self, path: str | Path) -> None:
        """
        Write the recording to a file.

        :param path: The file to write. An old file is replaced when the new one is complete
        :raises ValueError: if nothing has been recorded
        """
        if self.terms is None:
            raise ValueError(
                "the recording is empty, because no run has been recorded in it: call learn() within record(model)"
            )
        notes = dict(format=_FORMAT, terms=asdict(self.terms), moved=self.moved, n_restarts=self.n_restarts)
        header = json.dumps(notes, default=int)
        with atomic_write(path) as file:
            np.savez_compressed(file, header=np.array(header), **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        Read a recording from a file.

        :param path: A file that :meth:`save` wrote
        :return: The recording
        :raises ValueError: if it is no such file, or another version of sb3_a3c wrote it
        """
        recording = cls()
        with open(path, "rb") as file:  # NumPy would leave it open if it can't be read
            try:
                with np.load(file, allow_pickle=False) as content:
                    header = json.loads(str(content["header"]))
                    written = header.get("format", 1)
                    if written == _FORMAT:
                        recording.terms = Terms(**header["terms"])
                        recording.moved, recording.n_restarts = bool(header["moved"]), int(header["n_restarts"])
                        for name in _ARRAYS:
                            setattr(recording, name, content[name])
            except Exception as error:  # wrong bits cause nearly any
                raise ValueError(f"path must be a file that Recording.save() has written, but it is {str(path)!r}") from error
        if written != _FORMAT:
            raise ValueError(
                f"path must be a recording of format {_FORMAT}, but {str(path)!r} is of format {written}: another version of "
                "sb3_a3c has written it. Record the run again with this one"
            )
        return recording

    def check_fits(self, terms: Terms) -> None:
        """
        :param terms: The terms of a run that is to replay this recording
        :raises ValueError: if they differ from those of the recorded run
        """
        assert self.terms is not None
        if differences := terms.differences(self.terms):
            raise ValueError(f"the recording does not fit: {'; '.join(differences)}")

    def turns(self) -> Iterator[tuple[int, Turn]]:
        """
        :return: Pairs of a worker, and what it does
        """
        beginning: dict[int, list[tuple[int, Turn]]] = {}
        for turn, workers, pulls in ((Turn.PULL, self.workers, self.pulls), (Turn.FAIL, self.failures, self.failed_pulls)):
            for worker, version in zip(workers.tolist(), pulls.tolist(), strict=True):
                beginning.setdefault(version, []).append((worker, turn))
        for version, pusher in enumerate(self.workers.tolist()):
            yield from beginning.get(version, ())
            yield pusher, Turn.PUSH
        yield from beginning.get(len(self.workers), ())


class RecordNextRun:
    """The state of a model whose next run is recorded."""

    def __init__(self) -> None:
        self.recording = Recording()
        self._recorder: Recorder | None = None
        self._n_workers = 0
        self._shown = array("H")

    def begin(self, n_workers: int, max_lead: int) -> Recorder:
        """
        :param n_workers: The number of workers
        :param max_lead: The number of rollouts that a worker may be ahead of callbacks
        :return: The recorder of the workers
        :raises ValueError: if a run has been recorded before. One that failed before a worker began does not count
        """
        if self._recorder is not None and any(self._recorder.last_pull(worker) >= 0 for worker in range(self._n_workers)):
            raise ValueError(
                "learn() must be called once within record(model), but it is called again: a recording holds one run"
            )
        self._n_workers, self._recorder = n_workers, Recorder(n_workers, max_lead + 2)
        return self._recorder

    def show(self, workers: Sequence[int]) -> None:
        """
        :param workers: The workers whose rollouts callbacks will see next
        """
        assert self._recorder is not None
        self._recorder.read()
        self._shown.extend(workers)

    def end(self, terms: Terms, backend: Backend) -> None:
        """
        Fill the recording.

        :param terms: The terms of the run
        :param backend: The backend of its workers
        """
        recording, recorder = self.recording, self._recorder
        assert recorder is not None
        recording.terms, recording.n_restarts, recording.moved = terms, backend.n_restarts, backend.is_remote
        if backend.n_restarts == 0:
            recorder.read()
            workers, pulls = recorder.updates()
            recording.workers, recording.pulls = np.array(workers, dtype=np.uint16), np.array(pulls, dtype=np.uint32)
            recording.shown = np.array(self._shown, dtype=np.uint16)
            last_pushed = dict(zip(workers, pulls, strict=True))
            # What failed may have been the connection to a worker, or a worker that had pushed its last rollout.
            failed = {worker.index: recorder.last_pull(worker.index) for worker in backend.workers if worker.failed}
            failures = {worker: failed.get(worker, -1) for worker in backend.failed_workers}
            failures = {worker: last for worker, last in failures.items() if last not in (-1, last_pushed.get(worker))}
            recording.failures = np.array([*failures], dtype=np.uint16)
            recording.failed_pulls = np.array([*failures.values()], dtype=np.uint32)


def record(model: RecordedModel) -> AbstractContextManager[Recording]:
    """
    Record the order of pulls and pushes of one call of ``learn()``. This costs almost nothing.

    :param model: The model, with a seed. Changes that callbacks make to it or its environments are not recorded
    :return: A context manager that returns the recording. It is filled when ``learn()`` ends, also with an error
    :raises ValueError: if a run of this model could not be replayed
    """
    _check_replays(model)
    next_run = RecordNextRun()
    return _NextRun(model, next_run, next_run.recording)


def replay(model: RecordedModel, recording: Recording) -> AbstractContextManager[None]:
    """
    Repeat the recorded run with the next ``learn()``, in one thread: the same parameters, optimizer statistics, returns and
    normalization statistics, bit for bit, and, if that run failed, the same error.

    :param model: A model in the state in which the recorded one was: made in the same way with the same seed, or loaded from
        the same file, with environments that use only their own ``np_random``
    :param recording: The recording of a run
    :return: A context manager
    :raises ValueError: if the recording can't be replayed with this model. Some of these errors are raised by ``learn()``
    """
    _check_replays(model)
    if not isinstance(recording, Recording):
        raise TypeError(f"recording must be a Recording, such as Recording.load() returns, but it is {recording!r}")
    if recording.terms is None:
        raise ValueError("recording must hold a recorded run, but it is empty")
    if recording.n_restarts > 0:
        raise ValueError(
            f"recording must be of a run without restarts, but that run had {recording.n_restarts}: a worker that died lost "
            "its environments within a rollout, at an unknown step"
        )
    return _NextRun(model, recording, None)


def _check_replays(model: RecordedModel) -> None:
    if not hasattr(model, "_next_run"):
        raise TypeError(f"model must be a model of A3C, but it is {model!r}")
    if not model.use_locking:
        raise ValueError(
            "use_locking must be True for a run that is recorded or replayed, but it is False: Hogwild's updates overlap, so "
            "they have no order, and the parts that are lost can't be recorded"
        )
    if model.seed is None:
        raise ValueError("seed must be a number for a run that is recorded or replayed, but it is None")


class _NextRun(AbstractContextManager[T]):
    """Within it, the next run of a model is recorded or replayed. (A generator could not pass on an error that is frozen.)"""

    def __init__(self, model: RecordedModel, next_run: RecordNextRun | Recording, entered: T) -> None:
        self._model = model
        self._next_run = next_run
        self._entered = entered

    def __enter__(self) -> T:
        if self._model._next_run is not None:
            raise ValueError("model must not be recorded or replayed twice at the same time")
        self._model._next_run = self._next_run
        return self._entered

    def __exit__(self, *exc_info: object) -> None:
        self._model._next_run = None

"""
The order in which workers pulled and pushed: recorded in one run, replayed in another, in one thread and to the last bit.

All that happens by chance in an asynchronous run is this order, if each worker draws from a generator of its own and each
environment too. What :func:`record` notes is, for each update, which worker has made it, and which version of the
parameters that worker had pulled before. :func:`replay` lets the workers take turns in just that order.
"""

import json
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from sb3_a3c.recording.terms import Terms
from sb3_a3c.system.files import atomic_write
from sb3_a3c.worker.recorder import Recorder

#: Of a schedule's file. Another format has other terms, so it can't be told whether it fits.
_FORMAT = 2
_ARRAYS = ("workers", "pulls", "failed_pulls", "shown")


class RecordedModel(Protocol):
    """What is asked of a model that is recorded or replayed."""

    use_locking: bool
    seed: int | None
    _scheduling: Any


class RecordedWorker(Protocol):
    """What is asked of a worker at the end."""

    index: int
    failed: bool


class RecordedBackend(Protocol):
    """What is asked of a backend at the end."""

    elsewhere: ClassVar[bool]

    @property
    def n_restarts(self) -> int: ...

    @property
    def workers(self) -> Sequence[RecordedWorker]: ...


class Schedule:
    """
    A recorded order. It is empty until the run that is recorded has ended.

    :ivar workers: Who has made each update, of shape ``(n_updates,)``
    :ivar pulls: How many updates there were when they pulled the parameters for it, of shape ``(n_updates,)``
    :ivar failed_pulls: The same for the rollout in which a worker has failed, -1: it has not, of shape ``(n_workers,)``
    :ivar shown: Whose rollouts callbacks have seen, in their order, of shape ``(n_rollouts * n_workers,)``
    """

    def __init__(self) -> None:
        self.workers = np.empty(0, dtype=np.uint16)
        self.pulls = np.empty(0, dtype=np.uint32)
        self.failed_pulls = np.empty(0, dtype=np.int64)
        self.shown = np.empty(0, dtype=np.uint16)
        self.terms: Terms | None = None
        #: Whether environments began anew when workers began, as some do that move to another process.
        self.moved = False
        #: How many workers have died and been replaced.
        self.n_restarts = 0

    def save(self, path: str | Path) -> None:
        """
        :param path: A file, to be written; an old one is replaced when all is written
        :raises ValueError: if nothing has been recorded
        """
        if self.terms is None:
            raise ValueError("the schedule is empty, for no run has been recorded in it: call learn() within record(model)")
        notes = dict(format=_FORMAT, terms=asdict(self.terms), moved=self.moved, n_restarts=self.n_restarts)
        header = json.dumps(notes, default=int)
        with atomic_write(path) as file:
            np.savez_compressed(file, header=np.array(header), **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        :param path: A file that :meth:`save` has written
        :return: The schedule
        :raises ValueError: if it is not one, or another version of sb3_a3c has written it
        """
        schedule = cls()
        try:
            with np.load(path, allow_pickle=False) as content:
                header = json.loads(str(content["header"]))
                written = header.get("format", 1)
                if written == _FORMAT:
                    schedule.terms = Terms(**header["terms"])
                    schedule.moved, schedule.n_restarts = bool(header["moved"]), int(header["n_restarts"])
                    for name in _ARRAYS:
                        setattr(schedule, name, content[name])
        except (AttributeError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"path must be a file that Schedule.save() has written, but it is {str(path)!r}") from error
        if written != _FORMAT:
            raise ValueError(
                f"path must be a schedule of format {_FORMAT}, but {str(path)!r} is of format {written}: another version of "
                "sb3_a3c has written it. Record the run again with this one"
            )
        return schedule

    def check_fits(self, terms: Terms) -> None:
        """
        :param terms: Those of the run that is to be as the recorded one was
        :raises ValueError: if it can't be
        """
        assert self.terms is not None
        if differences := terms.differences(self.terms):
            raise ValueError(f"the schedule does not fit: {'; '.join(differences)}")

    def turns(self) -> Iterator[tuple[int, bool]]:
        """
        :return: Whose turn it is, and whether it is to push; else it is to pull, and to collect its rollout
        """
        pulling: dict[int, list[int]] = {}
        for worker, version in [*zip(self.workers.tolist(), self.pulls.tolist(), strict=True), *self._failed()]:
            pulling.setdefault(version, []).append(worker)
        pushers: list[int | None] = [*self.workers.tolist(), None]
        for version, pusher in enumerate(pushers):
            for puller in pulling.get(version, ()):
                yield puller, False
            if pusher is not None:
                yield pusher, True

    def _failed(self) -> list[tuple[int, int]]:
        return [(worker, version) for worker, version in enumerate(self.failed_pulls.tolist()) if version >= 0]


class Recording:
    """What a model is in the middle of: its next run is recorded."""

    def __init__(self) -> None:
        self.schedule = Schedule()
        self._recorder: Recorder | None = None
        self._shown = array("H")

    def begin(self, n_workers: int, max_lead: int) -> Recorder:
        """
        :param n_workers: How many workers there are
        :param max_lead: How many rollouts a worker may be ahead of those that are shown
        :return: Where the workers are to note what they do
        :raises ValueError: if a run has been recorded before
        """
        if self._recorder is not None:
            raise ValueError(
                "learn() must be called once within record(model), but it is called again: a schedule has one run"
            )
        self._recorder = Recorder(n_workers, max_lead + 2)
        return self._recorder

    def show(self, workers: Sequence[int]) -> None:
        """
        :param workers: Whose rollouts callbacks are to see next
        """
        assert self._recorder is not None
        self._recorder.read()
        self._shown.extend(workers)

    def end(self, terms: Terms, backend: RecordedBackend) -> None:
        """
        Fill the schedule.

        :param terms: Those of the run
        :param backend: Where its workers lived
        """
        schedule, recorder = self.schedule, self._recorder
        assert recorder is not None
        schedule.terms, schedule.n_restarts, schedule.moved = terms, backend.n_restarts, backend.elsewhere
        if backend.n_restarts == 0:
            recorder.read()
            workers, pulls = recorder.updates()
            schedule.workers, schedule.pulls = np.array(workers, dtype=np.uint16), np.array(pulls, dtype=np.uint32)
            schedule.shown = np.array(self._shown, dtype=np.uint16)
            last_pushed = dict(zip(workers, pulls, strict=True))
            schedule.failed_pulls = np.full(len(backend.workers), -1, dtype=np.int64)
            for worker in backend.workers:  # one may also count as failed for its environments' sake
                last = recorder.last_pull(worker.index)
                if worker.failed and last != last_pushed.get(worker.index):
                    schedule.failed_pulls[worker.index] = last


@dataclass(frozen=True)
class Replaying:
    """What a model is in the middle of: its next run is as the schedule says."""

    schedule: Schedule


@contextmanager
def record(model: RecordedModel) -> Iterator[Schedule]:
    """
    Record the order of pulls and pushes of a call of ``learn()``; this costs it next to nothing.

    :param model: The model, with a seed. What callbacks change in it or in its environments while it learns is not recorded
    :return: A context manager that gives the schedule, which is full when ``learn()`` has ended, also with an error
    :raises ValueError: if a run of this model could not be replayed
    """
    _check_replays(model)
    with _scheduling(model, Recording()) as recording:
        yield recording.schedule


@contextmanager
def replay(model: RecordedModel, schedule: Schedule) -> Iterator[None]:
    """
    Let the next ``learn()`` be the recorded run again, in one thread, whatever its backend: the same parameters, optimizer
    statistics, returns and normalization statistics to the last bit, and, if that run failed, the same error.

    :param model: A model that begins as the recorded one began: made in the same way with the same seed, or loaded from the
        same file, with environments that draw from their own ``np_random`` alone
    :param schedule: What was recorded
    :return: A context manager
    :raises ValueError: if the schedule can't be replayed with this model; what only ``learn()`` can know, it raises
    """
    _check_replays(model)
    if schedule.terms is None:
        raise ValueError("schedule must be one that a run has been recorded in, but it is empty")
    if schedule.n_restarts > 0:
        raise ValueError(
            f"schedule must be of a run without restarts, but it has had {schedule.n_restarts}: when a worker has died, its "
            "environments are lost in the middle of a rollout, and where that was nobody knows"
        )
    with _scheduling(model, Replaying(schedule)):
        yield


def _check_replays(model: RecordedModel) -> None:
    if not model.use_locking:
        raise ValueError(
            "use_locking must be True for a run that is recorded or replayed, but it is False: in Hogwild's updates an order "
            "does not exist, for one may be in the middle of another, and which parts of them are lost can't be recorded"
        )
    if model.seed is None:
        raise ValueError("seed must be a number for a run that is recorded or replayed, but it is None")


@contextmanager
def _scheduling(model: RecordedModel, what: Any) -> Iterator[Any]:
    if model._scheduling is not None:
        raise ValueError("model must not be recorded or replayed twice at the same time")
    model._scheduling = what
    try:
        yield what
    finally:
        model._scheduling = None

"""
Watches for workers that do not answer: an environment may never return from a step, or the process may be frozen.

A worker is silent while it owes something: a rollout that it has begun or may begin, an answer, or word that it is ready. One
that is frozen while it holds a lock makes all others wait. Their time does not count then, only its own.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_a3c.backends.process.guard import GUARD
from sb3_a3c.backends.process.messages import WhereAreYou
from sb3_a3c.backends.process.remote_worker import RemoteWorker
from sb3_a3c.backends.quota import Quota
from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.worker.errors import name_environments

#: Seconds of silence after which a worker is told of, and a process's for its start. Out of the air: longer than nearly all
#: rollouts.
_REPORT_AFTER = 60.0
#: Seconds for a worker to tell what it is in the middle of. Out of the air.
_ANSWER_WITHIN = 2.0
#: Seconds between two looks. Silence is counted from look to look, and no longer than two of these at once: while the main
#: process did not look (it was stopped, or in a callback) it has not listened either.
_LOOK_EVERY = 1.0


@dataclass
class _Silence:
    seconds: float = 0.0
    asked: bool = False
    told: bool = False
    stack: str | None = None


class Watchdog:
    """
    :param workers: The workers
    :param quota: What they have begun
    :param locks: What they take
    :param worker_timeout: Seconds of silence after which a worker's process is killed, None: it never is
    """

    def __init__(
        self, workers: Sequence[RemoteWorker], quota: Quota, locks: Sequence[FileLock], worker_timeout: float | None
    ) -> None:
        self._workers = workers
        self._quota = quota
        self._locks = locks
        #: Processes that held a lock at the last look.
        self._holders: set[int | None] = set()
        self._timeout = worker_timeout
        self._silences = [_Silence() for _ in workers]
        self.look_every = _LOOK_EVERY if worker_timeout is None else min(_LOOK_EVERY, worker_timeout / 4)
        self._looked_at = time.monotonic()

    def heard(self, worker: int) -> None:
        """
        :param worker: Index of a worker that has shown that it goes on, or has a new process
        """
        self._silences[worker] = _Silence()

    def told(self, worker: int, stack: str) -> None:
        """
        :param worker: Index of a worker that was asked where it is
        :param stack: What it is in the middle of
        """
        silence = self._silences[worker]
        if silence.asked:
            silence.stack = f"It is in the middle of:\n{stack}"

    def look(self) -> None:
        """Look after all of them, if it is time to. One whose time is up is killed; who reads its messages finds that."""
        now = time.monotonic()
        elapsed = now - self._looked_at
        if elapsed < self.look_every:
            return
        self._looked_at = now
        blocking = self._blocking()
        for worker, silence in zip(self._workers, self._silences, strict=True):
            if not worker.alive or not (worker.index in blocking or self._should_speak(worker)):
                self.heard(worker.index)
            elif not blocking or worker.index in blocking:
                silence.seconds += min(elapsed, 2 * self.look_every)
                self._judge(worker, silence)

    def _blocking(self) -> set[int]:
        """Indices of workers that have held a lock at two looks: nearly always because they are frozen."""
        before, self._holders = self._holders, {lock.holder() for lock in self._locks}
        held = before & self._holders
        return {worker.index for worker in self._workers if worker.life is not None and worker.life.pid in held}

    def _should_speak(self, worker: RemoteWorker) -> bool:
        """Whether it owes a rollout, was asked something, or is to say that it is there."""
        return not worker.ready or self._owes_rollout(worker) or worker.call is not None

    def _owes_rollout(self, worker: RemoteWorker) -> bool:
        has_begun = self._quota.taken(worker.index) > worker.n_rollouts
        return has_begun or (worker.has_permit and not self._quota.is_exhausted(worker.index))

    def _judge(self, worker: RemoteWorker, silence: _Silence) -> None:
        timeout = float("inf") if self._timeout is None else self._timeout
        timeout = timeout if worker.ready else max(timeout, _REPORT_AFTER)  # to start is not to make a rollout
        ask_after = min(_REPORT_AFTER, timeout)
        if silence.seconds >= ask_after and not silence.asked:
            silence.asked = True
            worker.send(WhereAreYou())
        elif silence.seconds >= ask_after and (silence.stack or silence.seconds >= ask_after + _ANSWER_WITHIN):
            self._tell(worker, silence, silence.seconds >= timeout)

    def _tell(self, worker: RemoteWorker, silence: _Silence, is_over: bool) -> None:
        what = "finished a rollout" if worker.call is None or self._owes_rollout(worker) else "answered a call"
        what = what if worker.ready else "become ready"
        unknown = (
            "What it is in the middle of is not known: it does not answer. It may be stopped (SIGSTOP, a debugger), or run "
            "code that does not release Python's global lock."
        )
        stack = silence.stack or (unknown if worker.ready else GUARD)
        if is_over:
            worker.condemn(f"was killed, for it had not {what} for worker_timeout={self._timeout:g} s. {stack}")
        elif not silence.told:
            silence.told = True
            who = f"worker {worker.index}, which steps {name_environments(worker.env_indices)},"
            warnings.warn(f"{who} has not {what} for {silence.seconds:.0f} s. {stack}", stacklevel=2)

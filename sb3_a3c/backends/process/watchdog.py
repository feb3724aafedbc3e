"""
Finds workers that do not make progress: an environment may never return from a step, or the process may be frozen.

A worker is silent while it sends nothing though something is expected of it: a rollout that it has begun or may begin, the
result of a call, or that it is ready. If it is frozen while it holds a lock, all others wait for it, and only its own silence
counts. Workers that start share the cores, so more of them get more time, and as long as others become ready none is silent.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_a3c.backends.process.guard import likely_reason
from sb3_a3c.backends.process.messages import StackRequest
from sb3_a3c.backends.process.remote_worker import RemoteWorker
from sb3_a3c.backends.quota import Quota
from sb3_a3c.system.cores import usable_cores
from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.worker.errors import name_environments

#: Seconds of silence until the user is warned of a worker. Chosen arbitrarily: longer than nearly all rollouts, and than the
#: start of one worker per core.
_REPORT_AFTER = 60.0
#: Seconds for a worker to send its stack. Chosen arbitrarily.
_ANSWER_WITHIN = 2.0
#: Seconds between two checks. The time between two checks counts as silence up to twice this: while the main process did not
#: check (it was stopped, or in a callback) it has read no messages either.
_CHECK_EVERY = 1.0


@dataclass
class _Silence:
    seconds: float = 0.0
    stack_requested: bool = False
    stack: str | None = None
    reported: bool = False


class Watchdog:
    """
    :param workers: The workers
    :param quota: How many rollouts they have begun
    :param locks: The locks that they take
    :param worker_timeout: Seconds of silence after which a worker's process is killed, None: it never is
    """

    def __init__(
        self, workers: Sequence[RemoteWorker], quota: Quota, locks: Sequence[FileLock], worker_timeout: float | None
    ) -> None:
        self._workers = workers
        self._quota = quota
        self._locks = locks
        #: Processes that held a lock at the last check.
        self._holders: set[int | None] = set()
        self._timeout = worker_timeout
        self._silences = [_Silence() for _ in workers]
        self._n_cores = usable_cores()
        self._n_starting = 0
        self.check_every = _CHECK_EVERY if worker_timeout is None else min(_CHECK_EVERY, worker_timeout / 4)
        self._checked_at = time.monotonic()

    def reset(self, worker: int) -> None:
        """
        :param worker: Index of a worker that has sent a message, other than its stack
        """
        self._silences[worker] = _Silence()

    def note_stack(self, worker: int, stack: str) -> None:
        """
        :param worker: Index of a worker
        :param stack: The stack that it has sent
        """
        if self._silences[worker].stack_requested:
            self._silences[worker].stack = f"It is in the middle of:\n{stack}"

    def check(self) -> None:
        """Check all workers, if it is time to. One that was silent for too long is killed."""
        now = time.monotonic()
        elapsed = now - self._checked_at
        if elapsed < self.check_every:
            return
        self._checked_at = now
        self._note_starts()
        blocking = self._blocking()
        for worker, silence in zip(self._workers, self._silences, strict=True):
            if not worker.alive or not (worker.index in blocking or self._is_expected_to_speak(worker)):
                self.reset(worker.index)
            elif not blocking or worker.index in blocking:
                silence.seconds += min(elapsed, 2 * self.check_every)
                self._judge(worker, silence)

    def _note_starts(self) -> None:
        starting = [worker.index for worker in self._workers if worker.alive and not worker.ready]
        if len(starting) < self._n_starting:  # the others get its share of the cores
            for index in starting:
                self.reset(index)
        self._n_starting = len(starting)

    def _blocking(self) -> set[int]:
        """Indices of workers that have held a lock at two checks in a row: nearly always because they are frozen."""
        before, self._holders = self._holders, {lock.holder() for lock in self._locks}
        held = before & self._holders
        return {worker.index for worker in self._workers if worker.process is not None and worker.process.pid in held}

    def _is_expected_to_speak(self, worker: RemoteWorker) -> bool:
        return not worker.ready or self._is_expected_to_finish_rollout(worker) or worker.call is not None

    def _is_expected_to_finish_rollout(self, worker: RemoteWorker) -> bool:
        has_begun = self._quota.taken(worker.index) > worker.n_rollouts
        return has_begun or (worker.has_permit and not self._quota.is_exhausted(worker.index))

    def _judge(self, worker: RemoteWorker, silence: _Silence) -> None:
        timeout = float("inf") if self._timeout is None else self._timeout
        report_after = _REPORT_AFTER
        if not worker.ready:  # a start may take longer than a rollout
            report_after *= max(1.0, self._n_starting / self._n_cores)
            timeout = max(timeout, report_after)
        report_after = min(report_after, timeout)
        if silence.seconds < report_after:
            return
        if not silence.stack_requested:
            silence.stack_requested = True
            worker.send(StackRequest())
        elif silence.stack or silence.seconds >= report_after + _ANSWER_WITHIN:
            self._report(worker, silence, silence.seconds >= timeout)

    def _report(self, worker: RemoteWorker, silence: _Silence, timed_out: bool) -> None:
        if not worker.ready:
            what, stack = "become ready", silence.stack or likely_reason()
        else:
            finishes = worker.call is None or self._is_expected_to_finish_rollout(worker)
            what = "finished a rollout" if finishes else "answered a call"
            stack = silence.stack or (
                "What it is in the middle of is not known: it does not answer. It may be stopped (SIGSTOP, a debugger), or "
                "run code that does not release Python's global lock."
            )
        if timed_out:
            limit = f"{silence.seconds:.1f} s (worker_timeout={self._timeout:g})"
            worker.kill_to_replace(f"was killed, because it had not {what} for {limit}. {stack}")
        elif not silence.reported:
            silence.reported = True
            who = f"worker {worker.index}, which steps {name_environments(worker.env_indices)},"
            warnings.warn(f"{who} has not {what} for {silence.seconds:.0f} s. {stack}", stacklevel=2)

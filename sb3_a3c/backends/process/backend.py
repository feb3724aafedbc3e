"""
One process per worker. Parameters, optimizer statistics and counters are in memory that the processes share.

What is guaranteed:

- An exception in a worker, and the end of its process, wake the main thread at once, whatever it waits for: all messages come
  in one queue, the end of a process included.
- A worker that has died is replaced, as often as is allowed. Each of its rollouts arrives once: one that it had begun and not
  sent is made again, by the first worker that is free, because the quota takes it back.
- After ``__exit__`` no worker's process is alive. No shared memory, file or semaphore is left: none of them has a name.
- A worker waits only for the main process, and only when it is ``max_lead`` rollouts ahead.

Only one thread uses this object, the one that learns. Calls of the environments from other threads are refused.
"""

import math
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any, ClassVar

import sb3_a3c.backends.process.fork_server as fork_server
from sb3_a3c.backends.asynchronous import AsynchronousBackend
from sb3_a3c.backends.process.env_calls import EnvCalls
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.guard import GUARD, is_importing_the_script
from sb3_a3c.backends.process.messages import EnvResult, FinalState, Notice, Ready, Rollouts, Stack
from sb3_a3c.backends.process.notices import Notices
from sb3_a3c.backends.process.remote_worker import RemoteWorker
from sb3_a3c.backends.process.restarts import Restarts
from sb3_a3c.backends.process.runner import Assignment
from sb3_a3c.backends.process.starter import Starter
from sb3_a3c.backends.process.watchdog import Watchdog
from sb3_a3c.backends.process.worker_process import Exited, Inbox
from sb3_a3c.backends.protocol import Option, RunSpec
from sb3_a3c.system.cores import usable_cores
from sb3_a3c.system.file_lock import unsupported
from sb3_a3c.system.thread_group import call_in_thread
from sb3_a3c.worker.errors import WorkerDied
from sb3_a3c.worker.rollout import Rollout

#: Seconds for a step under way before its process is killed. Chosen arbitrarily: longer than a step should take.
_PATIENCE = 10.0
#: Seconds after which processes are checked for their end even if messages have come. Chosen arbitrarily.
_CHECK_EVERY = 1.0


class ProcessBackend(AsynchronousBackend):
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

    :param run: What the run asks of it
    :param start_method: How processes are started. "forkserver": from a process that has loaded what they need;
        "spawn": each from nothing; "fork": from this one, which must not have made a backward pass with torch before
    :param max_restarts: How many times, in all, workers that have died are replaced. One that dies before it was ever ready is
        not replaced
    :param worker_timeout: Seconds after which a worker that has not finished a rollout is killed and replaced. None: it is
        not, and there is only a warning after a minute
    :raises ValueError: if this process may not start any
    """

    is_remote = True
    options: ClassVar[dict[str, Option]] = {
        "start_method": Option.one_of(
            [m for m in ("forkserver", "spawn", "fork") if m in multiprocessing.get_all_start_methods()]
        ),
        "max_restarts": Option("a whole number of at least 0", lambda n: type(n) is int and n >= 0),
        "worker_timeout": Option("None or a number of seconds above 0", lambda s: s is None or _is_positive(s)),
    }

    def __init__(
        self,
        run: RunSpec,
        start_method: str = "forkserver",
        max_restarts: int = 10,
        worker_timeout: float | None = None,
    ) -> None:
        super().__init__(run)
        if multiprocessing.current_process().daemon:
            raise ValueError(
                "backend must be 'thread' or 'serial' in a daemonic process, as those of multiprocessing.Pool are, because it "
                "may have no child processes, but it is 'process'"
            )
        self.prepare({"start_method": start_method})
        # In the main thread, Ctrl-C could leave a lock of torch taken, for which the next run would wait.
        self._locks = call_in_thread(lambda: [self._quota.share_memory(), run.parameters.share_memory()])
        self._inbox: Inbox = Inbox()
        context = multiprocessing.get_context(start_method)
        self.workers = [
            RemoteWorker(context, Assignment(spec, run.parameters, self._quota), self._inbox) for spec in run.specs
        ]
        self._starter = Starter(self.workers, start_method, worker_timeout)
        self._restarts = Restarts(max_restarts)
        self._watchdog = Watchdog(self.workers, self._quota, self._locks, worker_timeout)
        self._env_calls = EnvCalls(self.workers, "process")
        self._notices = Notices()
        self._has_begun = False
        self._stopping = False
        self._pid = os.getpid()

    @classmethod
    def prepare(cls, options: dict[str, Any] | None) -> None:
        """
        See :meth:`Backend.prepare`. The fork server loads modules for some seconds.

        :raises ValueError: if there can be no worker processes on this platform
        """
        reason = unsupported()
        if reason is not None:
            raise ValueError(f"backend must be 'thread' or 'serial' on {platform.system()}, but it is 'process': {reason}")
        if not isinstance(options, dict) or options.get("start_method", "forkserver") == "forkserver":
            fork_server.prepare()

    @classmethod
    def n_cores(cls) -> int:
        """See :meth:`Backend.n_cores`."""
        return usable_cores()

    @property
    def n_restarts(self) -> int:  # type: ignore[override]
        """See :attr:`Backend.n_restarts`."""
        return self._restarts.n_restarts

    def __enter__(self) -> "ProcessBackend":
        if is_importing_the_script():
            raise RuntimeError(GUARD)  # this process is itself being started
        for lock in self._locks:  # so that a worker that is frozen while it holds one is found
            lock.while_waiting = self._watchdog.check
        self._starter.start_all()
        return self

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        while not self._inbox.empty():  # a worker may have died
            self._handle(*self._inbox.get())
        self._check_workers()
        return super().collect()

    def reach(self, method: Callable) -> Callable:
        """See :meth:`Backend.reach`."""
        return self._env_calls.reach(method, self._receive)

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        if os.getpid() != self._pid:  # a callback has forked this process, and the workers are not its own
            return
        self._end_processes()
        self._env_calls.end()
        for lock in self._locks:
            lock.while_waiting = None
        for worker in self.workers:
            worker.close()
        self._raise_failures(error)
        for worker in self.workers:
            worker.warn_of_loss()
        self._notices.show()

    def _permit(self, worker: int, n_rollouts: int) -> None:
        self.workers[worker].permit_lead(n_rollouts)

    def _renew_permit(self, worker: int) -> None:
        self.workers[worker].renew_permit()

    def _receive(self) -> None:
        self._check_workers()
        if not self._failures:
            wait_until = min([time.monotonic() + self._watchdog.check_every, *self._restarts.due.values()])
            try:
                self._handle(*self._inbox.get(timeout=max(0.0, wait_until - time.monotonic())))
            except Empty:
                return
        if self._failures:
            raise self._failures[0]
        self._notices.show()

    def _handle(self, index: int, message: Any) -> None:
        worker = self.workers[index]
        if isinstance(message, Stack):
            self._watchdog.note_stack(index, message.text)
            return
        self._watchdog.reset(index)
        match message:
            case Rollouts(rollouts):
                worker.n_rollouts += len(rollouts)
                self._restarts.reset_delay(index)
                self._keep(index, rollouts)
            case EnvResult():
                self._env_calls.note_result(worker, message)
            case Ready():
                worker.on_ready()
                self._begin()
            case Notice(text):
                self._notices.add(text)
            case FinalState():
                worker.take_back(message)
            case Failure():
                self._note_failure(index, message.error())
                worker.on_failure()
            case Exited() if worker.alive:
                self._handle_exit(worker)

    def _begin(self) -> None:
        """Permit the first rollouts when all workers are ready, so that none begins if another can't."""
        if not self._has_begun and all(worker.ready for worker in self.workers):
            self._has_begun = True
            for worker in self.workers:
                worker.permit(1)

    def _handle_exit(self, worker: RemoteWorker) -> None:
        """Its process has exited. If it was not meant to, the worker is replaced, or the run fails."""
        if worker.on_exit():
            return
        cause = worker.describe_exit()
        never_ready = worker.n_processes == 1 and not worker.was_ready
        if self._failures or never_ready or (self._stopping and self._restarts.max_restarts == 0):
            self._fail(worker, cause)
        elif self._stopping:
            worker.lose_envs(f"{cause} while learn() was ending")
        else:
            self._quota.give_back(worker.index, worker.n_rollouts)
            self._schedule_restart(worker, cause)

    def _schedule_restart(self, worker: RemoteWorker, cause: str) -> None:
        text = self._restarts.schedule(worker.index, cause)
        if text is None:
            self._fail(worker, cause + self._restarts.history())
        else:
            warnings.warn(text, stacklevel=2)

    def _fail(self, worker: RemoteWorker, cause: str) -> None:
        worker.failed |= worker.was_ready or worker.n_processes > 1
        self._note_failure(worker.index, WorkerDied(cause))

    def _check_workers(self) -> None:
        """Find those that are silent, and replace those that have died when it is time to."""
        self._watchdog.check()
        for index in self._restarts.take_due():
            worker = self.workers[index]
            try:
                self._starter.restart(worker)
            except (OSError, EOFError) as error:
                cause = f"no process could be started for worker {index} ({type(error).__name__}: {error})"
                self._schedule_restart(worker, cause)

    def _end_processes(self) -> None:
        """Return when no process is left. If it is called again, because it was interrupted, it has no patience."""
        is_patient, self._stopping = not self._stopping, True
        self._quota.free()
        with suppress(OSError, EOFError, WorkerDied):
            self._starter.stop(_PATIENCE)
        for worker in self.workers:
            worker.stop()
        if is_patient:
            self._wait_for_exits(_PATIENCE)
        for worker in self.workers:
            worker.terminate(_PATIENCE if is_patient else None)
        while not self._wait_for_exits(_PATIENCE):
            alive = [worker.process.pid for worker in self.workers if worker.process is not None and worker.alive]
            with suppress(Warning):  # if the user wants warnings to be errors: learn() can't end yet
                warnings.warn(f"learn() waits for processes that have been killed and have not ended: {alive}", stacklevel=2)

    def _wait_for_exits(self, patience: float) -> bool:
        """Whether all processes exit within so many seconds."""
        deadline = time.monotonic() + patience
        while any(worker.alive for worker in self.workers):
            try:
                self._handle(*self._inbox.get(timeout=min(_CHECK_EVERY, max(0.01, deadline - time.monotonic()))))
            except Empty:
                for worker in self.workers:
                    if worker.alive and worker.process is not None and worker.process.exited:
                        self._handle_exit(worker)  # an interrupt has dropped the message
                if time.monotonic() >= deadline:
                    return False
        return True


def _is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < math.inf

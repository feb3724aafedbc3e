"""
Starts processes in a separate thread.

What is guaranteed: an interrupt leaves no process that nobody knows, for only the main thread is interrupted. A fork server
that has ended or can't be reached is replaced. One that is frozen is killed, if there is a timeout. A start that still takes
too long is given up.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Sequence

import sb3_a3c.backends.process.fork_server as fork_server
from sb3_a3c.backends.process.guard import likely_reason
from sb3_a3c.backends.process.remote_worker import RemoteWorker
from sb3_a3c.system.notes import add_note
from sb3_a3c.system.thread_group import ThreadGroup
from sb3_a3c.worker.errors import WorkerDied

#: Seconds within which processes start at the latest, if there is a timeout. The fork server loads modules first.
_START_WITHIN = 60.0
#: How much more time a start gets after that, because another fork server loads modules again. Chosen arbitrarily.
_MORE_TIME = 10
#: How often a worker's process is started if the fork server ends meanwhile, or can't be reached.
_ATTEMPTS = 3


class Starter:
    """
    :param workers: The workers
    :param start_method: Of multiprocessing
    :param worker_timeout: Seconds that a rollout may take, None: any number. A start may take longer
    """

    def __init__(self, workers: Sequence[RemoteWorker], start_method: str, worker_timeout: float | None) -> None:
        self._workers = workers
        self._has_server = start_method == "forkserver"
        self._timeout = None if worker_timeout is None else max(worker_timeout, _START_WITHIN)
        self._stopping = False
        self._given_up = False
        #: How often the fork server has ended during the last start.
        self._n_ended = 0
        self._starting: ThreadGroup | None = None

    def start_all(self) -> None:
        """
        Start the first process of each worker.

        :raises OSError: if no further process can be started
        :raises WorkerDied: if the fork server does not start one, or if the start takes too long
        """
        self._without_interrupts(self._start_all)

    def restart(self, worker: RemoteWorker) -> None:
        """
        :param worker: A worker that has died
        :raises OSError: if no further process can be started now
        :raises EOFError: if the fork server ended during the start, again and again
        :raises WorkerDied: if the start takes too long
        """
        self._without_interrupts(lambda: self._start(worker))

    def stop(self, patience: float) -> None:
        """
        Start no other process, and wait for the start under way. May be called again, if it was interrupted.

        :param patience: Seconds after which a fork server that does not start it is killed
        :raises WorkerDied: if the start is given up
        :raises Exception: what the start has raised, if nobody has seen that yet
        """
        self._stopping = True
        self._wait(patience)

    def _without_interrupts(self, start: Callable[[], None]) -> None:
        self._starting = ThreadGroup({"A3C workers' start": start})
        self._starting.start()
        self._wait(self._timeout)

    def _wait(self, patience: float | None) -> None:
        """
        Wait for the start. A fork server that has not started them in time is killed, and the next one gets more time. If that
        does not help, the start is given up: its thread may be in a system call that never returns.
        """
        if self._starting is None or not self._starting.join(patience):
            return
        if self._has_server:
            fork_server.kill()
        assert patience is not None
        if self._starting.join(_MORE_TIME * patience):
            self._given_up = self._stopping = True
            self._starting = None
            raise WorkerDied(f"the start of worker processes was given up, because it took {(1 + _MORE_TIME) * patience:g} s")

    def _start_all(self) -> None:
        for worker in self._workers:
            if self._stopping:
                return
            try:
                self._start(worker)
            except (ConnectionError, EOFError) as error:
                if not self._has_server or self._stopping:
                    raise
                raise WorkerDied(self._describe(worker, error)) from error

    def _start(self, worker: RemoteWorker) -> None:
        self._n_ended = 0
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                if self._has_server:
                    fork_server.ensure_running()
                worker.start(self._workers)
                break
            except (OSError, EOFError) as error:
                if not self._has_server or self._stopping or not fork_server.is_cause(error):
                    _advise(error)
                    raise
                self._n_ended += fork_server.recover(error)
                if attempts_left == 0:
                    raise
        if self._given_up:
            worker.kill()

    def _describe(self, worker: RemoteWorker, error: Exception) -> str:
        what = f"no process could be started for worker {worker.index} ({type(error).__name__}: {error}): "
        if self._n_ended < _ATTEMPTS:
            why = f"See what the processes have printed. A likely reason:\n\n{likely_reason()}"
            return f"{what}{_ATTEMPTS} attempts failed. {why}"
        return (
            f"{what}the fork server, from which worker processes are forked, ended {_ATTEMPTS} times meanwhile. See what it "
            "has printed; it may have been killed because memory is short. backend_kwargs=dict(start_method='spawn') needs no "
            "fork server"
        )


def _advise(error: Exception) -> None:
    """Add a note that says what to do, if that is known."""
    number = getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE):
        add_note(
            error,
            "raised while a worker's process was started: each takes some file descriptors. Close files that are not needed, "
            "raise the limit (ulimit -n), or set n_workers to a smaller number",
        )
    elif number == errno.ENAMETOOLONG or "path too long" in str(error):
        add_note(
            error,
            f"multiprocessing makes sockets in the folder for temporary files, {tempfile.gettempdir()}. Set the environment "
            "variable TMPDIR to a folder with a shorter path",
        )
    elif number == errno.ENOENT and not _has_current_folder():
        add_note(
            error,
            "the current folder was removed, so multiprocessing can't start processes. Change to one that exists (os.chdir)",
        )


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False

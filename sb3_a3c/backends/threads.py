"""
One thread per worker.

What is guaranteed:

- An exception in a worker wakes the main thread at once, whatever it waits for: rollouts and failures come in one queue.
- After ``__exit__`` no worker's thread is alive, however often Ctrl-C was pressed meanwhile: see :class:`ThreadGroup`.
- A worker waits only for the main thread, and only when it is ``max_lead`` rollouts ahead.
- Each thread runs in a copy of the caller's context (context variables, and NumPy's error handling, which is one of them).

What is assumed: each step of an environment ends, because a thread can't be ended from outside. Nothing depends on the GIL.
"""

import os
import time
import warnings
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue

import torch as th

from sb3_a3c.backends.asynchronous import AsynchronousBackend
from sb3_a3c.backends.protocol import RunSpec
from sb3_a3c.system.locks import free
from sb3_a3c.system.thread_group import ThreadGroup
from sb3_a3c.system.torch_threads import TorchThreadsOfOthers
from sb3_a3c.worker.errors import WorkerStopped
from sb3_a3c.worker.rollout import Rollout, lighten
from sb3_a3c.worker.worker import Worker, make_workers

#: Seconds until a warning says which step keeps learn() from ending: at first, and after Ctrl-C was pressed again. Chosen
#: arbitrarily: longer than a step should take, and shorter than a user waits.
_PATIENCE, _PATIENCE_AFTER_CTRL_C = 10.0, 1.0
#: Added to what an environment raises in the first step or reset that a worker makes.
_NOTE = (
    "This was the first time that a worker's thread used this environment, which was made in another thread. If only the "
    "thread that made it can use it (as with SQLite connections, event loops, signals and OpenGL contexts), use "
    "backend='serial', or a SubprocVecEnv, which makes each environment in the process that steps it: "
    "SubprocVecEnv([make_env, ...]), or make_vec_env(..., vec_env_cls=SubprocVecEnv)."
)


class ThreadBackend(AsynchronousBackend):
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

    :param run: What the run asks of it
    """

    def __init__(self, run: RunSpec) -> None:
        super().__init__(run)
        self.workers = make_workers(run.specs, run.parameters)
        for worker in self.workers:
            worker.note_at_first_use = _NOTE
        #: How many more rollouts each worker may make. (An interrupted Semaphore would stay locked.)
        self._permits: list[SimpleQueue[int]] = [SimpleQueue() for _ in self.workers]
        for permits in self._permits:
            permits.put(1)
        #: What each worker has made, or the exception that it ended with.
        self._messages: SimpleQueue[tuple[int, Rollout | BaseException]] = SimpleQueue()
        self._stopping = False
        self._torch_threads = TorchThreadsOfOthers()
        self._threads = ThreadGroup(
            {
                f"A3C worker {worker.index}": partial(copy_context().run, self._work, worker, permits)
                for worker, permits in zip(self.workers, self._permits, strict=True)
            }
        )

    @classmethod
    def n_cores(cls) -> int:
        """See :meth:`Backend.n_cores`. Threads take turns to run Python code."""
        return 1

    def __enter__(self) -> "ThreadBackend":
        self._torch_threads.__enter__()
        self._threads.start()
        return self

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._stopping = True
        for worker, permits in zip(self.workers, self._permits, strict=True):
            worker.stop()
            permits.put(0)  # wakes up a worker that waits for a permit
            free(worker.env_lock)  # a callback's call may have been interrupted
        try:
            self._join()
        finally:
            self._torch_threads.__exit__()
        while not self._messages.empty():  # no worker is left to send another
            worker_index, message = self._messages.get()
            if isinstance(message, BaseException):
                self._note_failure(worker_index, message)
        self._raise_failures(error)

    def _receive(self) -> None:
        worker, message = self._messages.get()
        if isinstance(message, BaseException):
            self._note_failure(worker, message)
            raise message
        self._keep(worker, [message])

    def _permit(self, worker: int, n_rollouts: int) -> None:
        self._permits[worker].put(n_rollouts)

    def _renew_permit(self, worker: int) -> None:
        self._permits[worker].put(1)

    def _join(self) -> None:
        """Wait for the threads. An exception does not end the wait: a worker would go on in the user's environments."""
        started = time.monotonic()
        patience: float | None = _PATIENCE
        raised: BaseException | None = None
        while True:
            try:
                late = self._threads.join(patience)
                if not late:
                    break
                patience = None
                self._warn_of(late, time.monotonic() - started)
            except Warning as error:  # the user wants warnings to be errors
                raised = raised or error
            except BaseException as error:  # a user who presses Ctrl-C again is soon told what learn() waits for
                raised, patience = error, _PATIENCE_AFTER_CTRL_C
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # it refers to this frame

    def _warn_of(self, late: Sequence[str], seconds: float) -> None:
        warnings.warn(
            f"{' and '.join(f'{name} is still in a step of its environment' for name in late)}, {seconds:.0f} s after learn() "
            "should have ended. A thread can't be ended from outside, so learn() ends when that step does. To end the whole "
            f"program now, press Ctrl-\\ or kill its process ({os.getpid()})",
            stacklevel=2,
        )

    def _work(self, worker: Worker, permits: "SimpleQueue[int]") -> None:
        """Make rollouts, in the worker's thread."""
        n_permits = 0
        try:
            th.set_num_threads(1)  # of this thread: several workers leave no cores for more
            while True:
                started = time.monotonic()
                while n_permits == 0 and not self._stopping:
                    n_permits += permits.get()
                idle_seconds = time.monotonic() - started
                if self._stopping or not self._quota.take(worker.index):
                    return
                n_permits -= 1
                self._messages.put((worker.index, lighten(worker.step(idle_seconds))))
        except WorkerStopped:
            return
        except BaseException as error:  # SystemExit too: it is meant for the caller, not for this thread
            self._messages.put((worker.index, error))

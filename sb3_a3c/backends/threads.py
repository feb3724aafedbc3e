"""
Workers in a thread each.

What is guaranteed: an exception in a worker wakes the main thread at once, whatever it waits for; after ``__exit__`` no
worker's thread is alive; a worker waits for nobody but the main thread, and for that only when it is ``max_lead``
rollouts ahead. What is assumed: that a step of an environment ends, for a thread can't be ended from outside; and
nothing of the GIL.
"""

import threading
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import ClassVar, Self

import torch as th

from sb3_a3c.backends.protocol import Option
from sb3_a3c.backends.quota import Quota, RolloutOrder
from sb3_a3c.env_gate import between_steps
from sb3_a3c.faults import WorkerStopped
from sb3_a3c.parameters import SharedParameters
from sb3_a3c.rollout import Rollout
from sb3_a3c.worker import Worker
from sb3_a3c.worker_spec import WorkerSpec, make_workers

#: Seconds after which a step that keeps learn() from ending is told of. Out of the air: longer than a step should take.
_PATIENCE = 10.0


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class ThreadBackend:
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

    :param specs: What the workers are made of, in the order of their environments
    :param parameters: The shared parameters
    :param n_rollouts: How many rollouts of all environments the run has; the caller asks for no more
    :param rollout_order: "env": a rollout of each worker, "arrival": the first to arrive
    :param max_lead: Rollouts that a worker may be ahead of what the caller has done with
    """

    elsewhere: ClassVar[bool] = False
    options: ClassVar[dict[str, Option]] = {}
    n_restarts = 0

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        parameters: SharedParameters,
        n_rollouts: int,
        rollout_order: RolloutOrder,
        max_lead: int,
    ) -> None:
        self.workers = make_workers(specs, parameters)
        self._quota = Quota(specs, n_rollouts, rollout_order)
        self._permits = [threading.Semaphore(1 + max_lead) for _ in specs]
        self._messages: SimpleQueue[tuple[Worker, Rollout | _Failure]] = SimpleQueue()
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        self._collected: list[Rollout] = []
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, args=(worker, permit), name=f"A3C worker {worker.index}", daemon=True)
            for worker, permit in zip(self.workers, self._permits, strict=True)
        ]

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._stop()
            raise
        return self

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        for rollout in self._collected:
            self._permits[rollout.worker].release()
        self._collected = []
        for worker in self.workers:
            arrived = self._arrived[self._quota.key(worker.index)]
            while not arrived:
                self._receive()
            self._collected.append(arrived.popleft())
        return self._collected

    def reach(self, method: Callable) -> Callable:
        """See :meth:`Backend.reach`."""
        return between_steps(method, [worker.env_lock for worker in self.workers])

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._stop()
        while not self._messages.empty():  # no worker is left to send another
            _, message = self._messages.get()
            if isinstance(message, _Failure):
                if error is None:
                    error = message.error
                else:
                    error.add_note(f"another worker failed too: {message.error!r}")
        if exc_type is None and error is not None:
            raise error

    def _receive(self) -> None:
        worker, message = self._messages.get()
        if isinstance(message, _Failure):
            raise message.error
        self._arrived[self._quota.key(worker.index)].append(message)

    def _stop(self) -> None:
        self._stopping = True
        for worker, permit in zip(self.workers, self._permits, strict=True):
            worker.stop()
            permit.release()  # whoever waits for it finds that it is to stop
        for thread in self._threads:
            if thread.ident is not None:
                _join(thread)
        th.set_num_threads(th.get_num_threads())  # what later threads begin with, which the workers have changed

    def _run(self, worker: Worker, permit: threading.Semaphore) -> None:
        """The life of a worker, in its thread."""
        try:
            th.set_num_threads(1)  # of this thread; many workers leave nothing to divide
            while True:
                started = time.monotonic()
                permit.acquire()
                idle_seconds = time.monotonic() - started
                if self._stopping or not self._quota.take(worker.index):
                    return
                self._messages.put((worker, worker.step(idle_seconds)))
        except WorkerStopped:
            return
        except BaseException as error:  # SystemExit too: it is the caller's, not a thread's
            self._messages.put((worker, _Failure(error)))


def _join(thread: threading.Thread) -> None:
    thread.join(_PATIENCE)
    if thread.is_alive():
        warnings.warn(f"{thread.name} is still in a step of its environment; learn() ends when that step does", stacklevel=2)
        thread.join()

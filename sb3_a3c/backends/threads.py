"""
Workers in a thread each.

What is guaranteed: an exception in a worker wakes the main thread at once, whatever it waits for; after ``__exit__`` no
worker's thread is alive, however often Ctrl-C was pressed meanwhile; a worker waits for nobody but the main thread, and
for that only when it is ``max_lead`` rollouts ahead; each thread runs in a copy of the caller's context (context variables,
and NumPy's error handling, which is one of them). What is assumed: that a step of an environment ends, for a thread
can't be ended from outside; and nothing of the GIL.
"""

import os
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import ClassVar, Self

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_a3c.backends.max_lead import MaxLead
from sb3_a3c.backends.process.messages import lighten
from sb3_a3c.backends.protocol import Option
from sb3_a3c.backends.quota import Quota, RolloutOrder
from sb3_a3c.envs.gate import between_steps
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.locks import free
from sb3_a3c.system.thread_group import ThreadGroup
from sb3_a3c.worker.errors import WorkerStopped
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.spec import WorkerSpec, make_workers
from sb3_a3c.worker.worker import Worker

#: Seconds after which a warning tells of a step that keeps learn() from ending, and seconds after Ctrl-C was pressed again.
#: Chosen arbitrarily: longer than a step should take, and shorter than a user waits.
_PATIENCE, _PATIENCE_AFTER_CTRL_C = 10.0, 1.0
#: A note to what fails where a worker does something with an environment for the first time.
_NOTE = (
    "This was the first time that a worker's thread used this environment, which was made in another thread. If only the "
    "thread that made it can use it (as with SQLite connections, event loops, signals and OpenGL contexts), use "
    "backend='serial', or a SubprocVecEnv, which makes each environment in the process that steps it: "
    "SubprocVecEnv([make_env, ...]), or make_vec_env(..., vec_env_cls=SubprocVecEnv)."
)


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
    :param max_lead: How far a worker may be ahead of what the caller has done with
    """

    elsewhere: ClassVar[bool] = False
    waits = False
    options: ClassVar[dict[str, Option]] = {}
    n_restarts = 0

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        parameters: SharedParameters,
        n_rollouts: int,
        rollout_order: RolloutOrder,
        max_lead: MaxLead,
    ) -> None:
        self.workers = make_workers(specs, parameters)
        for worker in self.workers:
            worker.note_at_first_use = _NOTE
        self._quota = Quota(specs, n_rollouts, rollout_order)
        #: How many more rollouts each worker may make. (An interrupted Semaphore would stay locked.)
        self._permits: list[SimpleQueue[int]] = [SimpleQueue() for _ in specs]
        for permits in self._permits:
            permits.put(1)
        self._max_lead = max_lead
        self._leads: dict[int, int] = {}
        self._messages: SimpleQueue[tuple[Worker, Rollout | _Failure]] = SimpleQueue()
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        self._collected: list[Rollout] = []
        self._stopping = False
        self._threads = ThreadGroup(
            {
                f"A3C worker {worker.index}": partial(copy_context().run, self._run, worker, permits)
                for worker, permits in zip(self.workers, self._permits, strict=True)
            }
        )

    def __enter__(self) -> Self:
        self._threads.start()
        return self

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        for rollout in self._collected:
            self._permits[rollout.worker].put(1)
        self._collected = []
        for worker in self.workers:
            arrived = self._arrived[self._quota.key(worker.index)]
            while not arrived:
                self._receive()
            self._collected.append(arrived.popleft())
        return self._collected

    def learn(self, written: RolloutBuffer | None) -> list[Rollout]:
        """See :meth:`Backend.learn`. The workers have learned from them already."""
        return self._collected

    def reach(self, method: Callable) -> Callable:
        """See :meth:`Backend.reach`."""
        return between_steps(method, [worker.env_lock for worker in self.workers])

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._stopping = True
        for worker, permits in zip(self.workers, self._permits, strict=True):
            worker.stop()
            permits.put(0)  # a worker that waits for permits finds that it is to stop
            free(worker.env_lock)  # a callback's call may have been interrupted
        try:
            self._join()
        finally:
            th.set_num_threads(th.get_num_threads())  # what later threads begin with, which the workers have changed
        self._raise_failures(error)

    def _receive(self) -> None:
        worker, message = self._messages.get()
        if isinstance(message, _Failure):
            raise message.error
        if worker.index not in self._leads:
            self._leads[worker.index] = self._max_lead.of(message)
            self._permits[worker.index].put(self._leads[worker.index])
        self._arrived[self._quota.key(worker.index)].append(message)

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
                self._tell_of(late, time.monotonic() - started)
            except Warning as error:  # the user wants warnings to be errors
                raised = raised or error
            except BaseException as error:  # whoever presses Ctrl-C again is told soon what there is to wait for
                raised, patience = error, _PATIENCE_AFTER_CTRL_C
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # it knows this frame

    def _tell_of(self, late: Sequence[str], seconds: float) -> None:
        warnings.warn(
            f"{' and '.join(f'{name} is still in a step of its environment' for name in late)}, {seconds:.0f} s after learn() "
            "was to end. A thread can't be ended from outside, so learn() ends when that step does. To end the whole program "
            f"now, press Ctrl-\\ or kill its process ({os.getpid()})",
            stacklevel=2,
        )

    def _raise_failures(self, error: BaseException | None) -> None:
        """
        Raise what workers failed with.

        :param error: What is being raised already; then failures become notes of it
        """
        first = error
        while not self._messages.empty():  # no worker is left to send another
            _, message = self._messages.get()
            if isinstance(message, _Failure) and first is None:
                first = message.error
            elif isinstance(message, _Failure) and first is not None:
                first.add_note(f"another worker failed too: {message.error!r}")
        if error is None and first is not None:
            try:
                raise first
            finally:
                del first  # it knows this frame

    def _run(self, worker: Worker, permits: "SimpleQueue[int]") -> None:
        """The life of a worker, in its thread."""
        n_permits = 0
        try:
            th.set_num_threads(1)  # of this thread; many workers leave nothing to divide
            while True:
                started = time.monotonic()
                while n_permits == 0 and not self._stopping:
                    n_permits += permits.get()
                idle_seconds = time.monotonic() - started
                if self._stopping or not self._quota.take(worker.index):
                    return
                n_permits -= 1
                self._messages.put((worker, lighten(worker.step(idle_seconds))))
        except WorkerStopped:
            return
        except BaseException as error:  # SystemExit too: it is the caller's, not a thread's
            self._messages.put((worker, _Failure(error)))

"""
Workers in a process each; parameters, optimizer statistics and counters in memory that they share.

What is guaranteed: an exception in a worker, and a worker's death, wake the main thread at once, whatever it waits for;
after ``__exit__`` no worker's process is alive, and no shared memory, file or semaphore is left, for none of it has a
name; a worker waits for nobody but the main process, and for that only when it is ``max_lead`` rollouts ahead. What is
assumed: that one thread uses this object, the one that learns. All pipes are read in a thread of their own, where Ctrl-C
can't cut a message in two.
"""

import inspect
import multiprocessing
import selectors
import threading
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from multiprocessing import forkserver
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Self

from sb3_a3c.backends.failures import Failure
from sb3_a3c.backends.messages import Answer, EnvCall, Farewell, Permits, Ready, Rollouts, decode
from sb3_a3c.backends.quota import Quota, RolloutOrder
from sb3_a3c.backends.remote_worker import GUARD, RemoteWorker
from sb3_a3c.backends.worker_process import Assignment
from sb3_a3c.parameters import SharedParameters
from sb3_a3c.rollout import Rollout
from sb3_a3c.worker_spec import WorkerSpec

#: Seconds that are left to a step under way before its process is killed. Out of the air: longer than a step should take.
_PATIENCE = 10.0
#: Methods of a VecEnv that give one value for all its environments.
_ONE_FOR_ALL = ("has_attr", "set_attr")
#: Loaded once, by the server that the workers are forked from, so that they share its pages.
_PRELOAD = ("sb3_a3c.backends.preloaded",)


@dataclass(frozen=True)
class _Ended:
    """Instead of a message: the process has ended, and all that it had sent was read."""


class ProcessBackend:
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

    :param specs: What the workers are made of, in the order of their environments
    :param parameters: The shared parameters
    :param n_rollouts: How many rollouts of all environments the run has; the caller asks for no more
    :param rollout_order: "env": a rollout of each worker, "arrival": the first to arrive
    :param max_lead: Rollouts that a worker may be ahead of what the caller has done with
    :param start_method: How processes are started. "forkserver": from a process that has loaded what they need;
        "spawn": each from nothing; "fork": from this one, which must not have made a backward pass with torch by then
    """

    options: ClassVar[dict[str, Sequence[Any]]] = {
        "start_method": [m for m in ("forkserver", "spawn", "fork") if m in multiprocessing.get_all_start_methods()]
    }

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        parameters: SharedParameters,
        n_rollouts: int,
        rollout_order: RolloutOrder,
        max_lead: int,
        start_method: str = "forkserver",
    ) -> None:
        self._max_lead = max_lead
        self._quota = Quota(specs, n_rollouts, rollout_order)
        self._quota.share_memory()
        parameters.share_memory()
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            _preload()
        self.workers = [RemoteWorker(context, Assignment(spec, parameters, self._quota)) for spec in specs]
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        self._collected: list[Rollout] = []
        self._answers: dict[int, Answer] = {}
        self._failures: list[BaseException] = []
        self._mail: SimpleQueue[tuple[RemoteWorker, Any]] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="A3C workers' mail", daemon=True)

    def __enter__(self) -> Self:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(GUARD)  # this process is itself being started
        try:
            for worker in self.workers:
                worker.start(self.workers)
            self._reader.start()
        except BaseException:
            self._stop()
            raise
        return self

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        for rollout in self._collected:
            self.workers[rollout.worker].owe_permit(self._max_lead)
        self._collected = []
        for worker in self.workers:
            arrived = self._arrived[self._quota.key(worker.index)]
            while not arrived:
                self._receive()
            self._collected.append(arrived.popleft())
        return self._collected

    def reach(self, method: Callable) -> Callable:
        """See :meth:`Backend.reach`. Rendering calls other methods, which reach them."""
        venv, name, signature = method.__self__, method.__name__, inspect.signature(method)  # type: ignore[attr-defined]
        if name == "render":
            return method

        @wraps(method)
        def reaching(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            indices = [range(venv.num_envs)[i] for i in venv._get_indices(bound.arguments.pop("indices", None))]
            values = self._call(name, bound, indices)
            if name == "has_attr":
                return all(values)
            return None if name == "set_attr" else values

        return reaching

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._stop()
        error = _with_others(error, self._failures)
        # An error knows the frames that it came through. If they knew it too, the shared memory would stay for a while.
        self._failures = []
        try:
            if exc_type is None and error is not None:
                raise error
        finally:
            error = None
        for text in filter(None, (worker.lost for worker in self.workers)):
            warnings.warn(text, stacklevel=2)

    def _call(self, method: str, bound: inspect.BoundArguments, indices: list[int]) -> list[Any]:
        """Call a method in each process that has some of the environments; the values come in the order of ``indices``."""
        slots = {worker.index: [i for i in indices if i in worker.env_indices] for worker in self.workers}
        asked = [worker for worker in self.workers if slots[worker.index]]
        self._answers = {}
        for worker in asked:
            local = [i - int(worker.env_indices[0]) for i in slots[worker.index]]
            by_index = {"indices": local} if "indices" in bound.signature.parameters else {}
            worker.send(EnvCall(method, bound.args, {**bound.kwargs, **by_index}))
        while len(self._answers) < len(asked):
            self._receive()
        values: dict[int, Any] = {}
        for worker in asked:
            answer = self._answers[worker.index]
            if answer.failure is not None:
                raise answer.failure.error()
            n_values = len(slots[worker.index])
            parts = [answer.value] * n_values if method in _ONE_FOR_ALL else answer.value
            values.update(zip(slots[worker.index], parts, strict=True))
        return [values[i] for i in indices]

    def _receive(self) -> None:
        self._take(*self._mail.get())
        if self._failures:
            raise self._failures[0]

    def _take(self, worker: RemoteWorker, message: Any) -> None:
        match message:
            case Rollouts(rollouts):
                self._arrived[self._quota.key(worker.index)].extend(rollouts)
            case Answer():
                self._answers[worker.index] = message
            case Ready():
                worker.ready = True
                if all(other.ready for other in self.workers):  # they begin together, and none if one can't
                    for other in self.workers:
                        other.send(Permits(1 + self._max_lead))
            case Farewell():
                worker.part(message)
            case Failure():
                self._failures.append(message.error())
                worker.parted |= not worker.ready  # it could not even begin
            case _Ended():
                self._failures += worker.end()

    def _stop(self) -> None:
        if self._reader.ident is None:  # not all could be started
            for worker in self.workers:
                worker.kill()
                worker.close()
            return
        try:
            for worker in self.workers:
                worker.stop()
            deadline = time.monotonic() + _PATIENCE
            while any(not worker.ended for worker in self.workers):
                try:
                    self._take(*self._mail.get(timeout=max(0.01, deadline - time.monotonic())))
                except Empty:
                    for worker in self.workers:
                        worker.give_up(_PATIENCE)
        finally:  # a second Ctrl-C is impatient
            for worker in self.workers:
                worker.kill()
            self._reader.join()
            for worker in self.workers:
                worker.close()

    def _read(self) -> None:
        """In a thread of its own, until all workers' processes have ended."""
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                selector.register(worker.connection, selectors.EVENT_READ, (worker, True))
                selector.register(worker.process.sentinel, selectors.EVENT_READ, (worker, False))
            while selector.get_map():
                ready = [key.data for key, _ in selector.select()]
                senders = {worker.index for worker, is_mail in ready if is_mail}
                for worker, is_mail in ready:
                    if not is_mail and worker.index in senders:
                        continue  # it has ended, but there is still something to read
                    message = _next_message(worker) if is_mail else _Ended()
                    if isinstance(message, _Ended):
                        selector.unregister(worker.connection)
                        selector.unregister(worker.process.sentinel)
                        worker.process.join()
                    self._mail.put((worker, message))


def _next_message(worker: RemoteWorker) -> Any:
    try:
        content = worker.connection.recv_bytes()
    except (EOFError, OSError):
        return _Ended()
    try:
        return decode(content)
    except Exception as error:
        return Failure.of(error)


def _with_others(error: BaseException | None, failures: Sequence[BaseException]) -> BaseException | None:
    """The error to raise, with notes of those that came after it."""
    for failure in failures:
        if error is None:
            error = failure
        elif error is not failure:
            error.add_note(f"another worker failed too: {failure!r}")
    return error


def _preload() -> None:
    """Say what the fork server is to load, beside what the user wants it to; of no consequence if it already runs."""
    wanted = getattr(getattr(forkserver, "_forkserver", None), "_preload_modules", [])
    multiprocessing.get_context("forkserver").set_forkserver_preload([*dict.fromkeys([*wanted, *_PRELOAD])])

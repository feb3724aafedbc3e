"""
Workers in a process each; parameters, optimizer statistics and counters in memory that they share.

What is guaranteed: an exception in a worker, and a worker's death, wake the main thread at once, whatever it waits for,
for it waits for all pipes and all processes together; after ``__exit__`` no worker's process is alive, and no shared
memory, file or semaphore is left, for none of it has a name; a worker waits for nobody but the main process, and for that
only when it is ``max_lead`` rollouts ahead. What is assumed: that one thread uses this object, the one that learns.
"""

import inspect
import multiprocessing
import selectors
import signal
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import wraps
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, ClassVar, Self

import numpy as np

from sb3_a3c.backends.failures import Failure
from sb3_a3c.backends.messages import Answer, EnvCall, Farewell, Learn, Permits, Ready, Rollouts, Stop, decode, encode
from sb3_a3c.backends.quota import Quota, RolloutOrder
from sb3_a3c.backends.worker_process import Assignment, live
from sb3_a3c.faults import WorkerDied, name_environments
from sb3_a3c.hyperparameters import Hyperparameters
from sb3_a3c.parameters import SharedParameters
from sb3_a3c.parcel import pack, unpack
from sb3_a3c.rollout import Rollout
from sb3_a3c.worker_spec import WorkerSpec

#: Seconds that are left to a step under way before its process is killed. Out of the air: longer than a step should take.
_PATIENCE = 10.0
#: Loaded once, by the server that the workers are forked from, so that they share its pages.
_PRELOAD = ("sb3_a3c", "stable_baselines3", "numba")
_GUARD = """\
The script that is run needs a guard, for each new process imports it, and would run all that is in it:

    if __name__ == "__main__":
        model = A3C(..., backend="process")
        model.learn()
"""


class ProcessBackend:
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

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
        self.workers = [_RemoteWorker(context, Assignment(spec, parameters, self._quota)) for spec in specs]
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        self._collected: list[Rollout] = []
        self._answers: dict[int, Answer] = {}
        self._failures: list[BaseException] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(_GUARD)  # this process is itself being started
        try:
            for worker in self.workers:
                worker.start([other.connection for other in self.workers if other.connection is not None])
                assert worker.connection is not None
                self._selector.register(worker.connection, selectors.EVENT_READ, worker)
                self._selector.register(worker.process.sentinel, selectors.EVENT_READ, worker)
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
            indices = list(venv._get_indices(bound.arguments.pop("indices", None)))
            values = self._call(name, bound.args, bound.kwargs, indices, "indices" in signature.parameters)
            if name == "has_attr":
                return all(values)
            return None if name == "set_attr" else values

        return reaching

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._stop()
        for failure in self._failures:
            if error is None:
                error = failure
            elif error is not failure:
                error.add_note(f"another worker failed too: {failure!r}")
        if exc_type is None and error is not None:
            raise error

    def _call(self, method: str, args: tuple, kwargs: dict[str, Any], indices: list[int], by_index: bool) -> list[Any]:
        """Call a method in each process that has some of the environments; the values come in the order of ``indices``."""
        slots = {w.index: [i for i in indices if i in w.env_indices] for w in self.workers}
        asked = [worker for worker in self.workers if slots[worker.index]]
        self._answers = {}
        for worker in asked:
            local = {"indices": [i - int(worker.env_indices[0]) for i in slots[worker.index]]} if by_index else {}
            worker.send(EnvCall(method, args, {**kwargs, **local}))
        while len(self._answers) < len(asked):
            self._receive()
        values: dict[int, Any] = {}
        for worker in asked:
            answer = self._answers[worker.index]
            if answer.failure is not None:
                raise answer.failure.error()
            parts = answer.value if isinstance(answer.value, list | tuple) else [answer.value] * len(slots[worker.index])
            values.update(zip(slots[worker.index], parts, strict=True))
        return [values[i] for i in indices]

    def _receive(self) -> None:
        """Wait for messages, and take what is there."""
        for worker in self._ready(None):
            self._read(worker)
        if self._failures:
            raise self._failures[0]

    def _ready(self, timeout: float | None) -> list["_RemoteWorker"]:
        found = {key.data.index: key.data for key, _ in self._selector.select(timeout)}
        return list(found.values())

    def _read(self, worker: "_RemoteWorker") -> None:
        """Take one message, or find that the process has ended."""
        assert worker.connection is not None
        try:
            if not worker.connection.poll() and worker.process.is_alive():
                return
            message = decode(worker.connection.recv_bytes())
        except (EOFError, OSError):
            self._failures += worker.ended()
            self._selector.unregister(worker.connection)
            self._selector.unregister(worker.process.sentinel)
            worker.close()
            return
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
                worker.failed |= not worker.ready
                worker.parted |= not worker.ready
                self._failures.append(message.error())

    def _stop(self) -> None:
        try:
            for worker in self.workers:
                worker.stop()
            deadline = time.monotonic() + _PATIENCE
            while any(worker.connection is not None for worker in self.workers):
                for worker in self._ready(max(0.0, deadline - time.monotonic())):
                    self._read(worker)
                if time.monotonic() >= deadline:
                    for worker in self.workers:
                        worker.give_up()
                    deadline += _PATIENCE
        finally:  # a second Ctrl-C is impatient
            for worker in self.workers:
                worker.kill()
            self._selector.close()


class _RemoteWorker:
    """A worker process, as the main process sees it; see :class:`~sb3_a3c.backends.protocol.SeenWorker`."""

    def __init__(self, context: Any, assignment: Assignment) -> None:
        spec = assignment.spec
        self.index = spec.index
        self.env_indices = spec.env_indices
        self.env = spec.env
        self.last_obs = spec.last_obs
        self.last_episode_starts = spec.last_episode_starts
        self.failed = False
        #: Whether it has said that it is there; before that it does nothing.
        self.ready = False
        #: Whether it has said farewell, so that it may end.
        self.parted = False
        self.connection: Connection | None = None
        self._context = context
        self._hyperparameters = spec.hyperparameters
        self._owed_permits = 0
        self._killed = False
        self._parcel = _pack(assignment)
        self.process: Any = None

    def start(self, open_connections: Sequence[Connection]) -> None:
        """
        Start the process.

        :param open_connections: Those of the main process to other workers
        """
        self.connection, theirs = self._context.Pipe()
        forks = self._context.get_start_method() == "fork"
        not_ours = [*open_connections, self.connection] if forks else []
        self.process = self._context.Process(
            target=live, args=(theirs, self._parcel, not_ours), name=f"A3C worker {self.index}", daemon=True
        )
        try:
            self.process.start()
        finally:
            theirs.close()

    @property
    def hyperparameters(self) -> Hyperparameters:
        """What it learns with."""
        return self._hyperparameters

    @hyperparameters.setter
    def hyperparameters(self, hyperparameters: Hyperparameters) -> None:
        if hyperparameters != self._hyperparameters:
            self._hyperparameters = hyperparameters
            self.send(Learn(hyperparameters))

    def owe_permit(self, max_lead: int) -> None:
        """
        Allow one more rollout; several are told of together, but never so late that the worker has none left.

        :param max_lead: Rollouts that it may be ahead
        """
        self._owed_permits += 1
        if self._owed_permits > max_lead // 4:
            self.send(Permits(self._owed_permits))
            self._owed_permits = 0

    def send(self, message: Any) -> None:
        """
        Send a message; if the process has ended, reading will find it.

        :param message: The message
        """
        if self.connection is not None:
            try:
                self.connection.send_bytes(encode(message))
            except OSError:
                pass

    def part(self, farewell: Farewell) -> None:
        """
        Take over what it has come to.

        :param farewell: Its last message
        """
        self.parted = True
        self.failed |= farewell.failed
        lost = farewell.lost
        if farewell.env is not None:
            try:
                self.env = unpack(farewell.env, self._parcel.handles)
            except Exception as error:
                lost = f"{type(error).__name__}: {error}"
        if lost:
            self.failed = True
            warnings.warn(
                f"{name_environments(self.env_indices)} can't be brought back from another process, and will begin anew: {lost}",
                stacklevel=2,
            )
        self.last_obs, self.last_episode_starts = farewell.last_obs, farewell.last_episode_starts

    def stop(self) -> None:
        """Ask it to end. If it has not begun, it need not be asked."""
        if self.ready:
            self.send(Stop())
        elif self.process is not None and self.process.pid is not None:
            self.parted = self._killed = True
            self.process.kill()
        elif self.connection is not None:
            self.close()

    def give_up(self) -> None:
        """End it in the middle of a step."""
        if self.connection is not None and not self._killed:
            warnings.warn(
                f"{self.process.name} was still in a step of its environment {_PATIENCE:.0f} s after it was asked to stop, and "
                "has been killed; its environments will begin anew",
                stacklevel=2,
            )
            self.failed = self._killed = True
            self.process.kill()

    def kill(self) -> None:
        """End it if it is alive."""
        if self.process is not None and self.process.pid is not None:
            if self.connection is not None:
                self.failed = True
                self.process.kill()
            self.process.join()
            self.close()

    def ended(self) -> list[BaseException]:
        """
        :return: Why it has ended, if it was not to
        """
        self.process.join()
        if self.parted or self._killed:
            return []
        self.failed = True
        return [WorkerDied(self._cause_of_death())]

    def close(self) -> None:
        """Close the pipe to it."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _cause_of_death(self) -> str:
        who = f"the process of worker {self.index}, which steps {name_environments(self.env_indices)},"
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended by itself (exit code {code})"
        if self.ready or code < 0:
            return f"{who} {how}"
        return f"{who} {how} before it was ready; what it has written says why. A likely reason:\n\n{_GUARD}"


def _preload() -> None:
    """
    What the fork server is to load, if it is not running yet; with what the user wants it to.
    """
    wanted = getattr(getattr(forkserver, "_forkserver", None), "_preload_modules", [])
    multiprocessing.get_context("forkserver").set_forkserver_preload([*dict.fromkeys([*wanted, *_PRELOAD])])


def _pack(assignment: Assignment) -> Any:
    try:
        return pack(assignment)
    except Exception as error:
        raise TypeError(
            f"{name_environments(assignment.spec.env_indices)}, or something else that worker {assignment.spec.index} needs, "
            f"can't be handed to another process ({type(error).__name__}: {error}). What can: environments that can be "
            "pickled, or a SubprocVecEnv, which takes constructors: SubprocVecEnv([make_env, ...]). backend='thread' "
            "needs neither."
        ) from error

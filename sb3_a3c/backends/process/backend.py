"""
Workers in a process each; parameters, optimizer statistics and counters in memory that they share.

What is guaranteed: an exception in a worker, and a worker's death, wake the main thread at once, whatever it waits for; a
worker that has died is replaced, as often as is allowed, and each of its rollouts comes once: one that it had begun and
not sent is made again, by whoever is first; after ``__exit__`` no worker's process is alive, and no shared memory, file or
semaphore is left, for none of it has a name; a worker waits for nobody but the main process, and for that only when it is
``max_lead`` rollouts ahead. One thread uses this object, the one that learns: calls of the environments from other threads
are refused.
"""

import inspect
import math
import multiprocessing
import platform
import threading
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from queue import Empty
from typing import Any, ClassVar, Self

from stable_baselines3.common.buffers import RolloutBuffer

import sb3_a3c.backends.process.fork_server as fork_server
from sb3_a3c.backends.max_lead import MaxLead
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.guard import GUARD, is_importing_the_script
from sb3_a3c.backends.process.mailbox import Ended, Mailbox
from sb3_a3c.backends.process.messages import Answer, EnvCall, Farewell, Notice, Ready, Rollouts, Unclosed, Whereabouts
from sb3_a3c.backends.process.remote_worker import RemoteWorker
from sb3_a3c.backends.process.restarts import Restarts
from sb3_a3c.backends.process.watchdog import Watchdog
from sb3_a3c.backends.process.worker_process import Assignment
from sb3_a3c.backends.protocol import Option
from sb3_a3c.backends.quota import Quota, RolloutOrder
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.file_lock import unsupported
from sb3_a3c.system.thread_group import ThreadGroup
from sb3_a3c.worker.errors import WorkerDied
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.spec import WorkerSpec

#: Seconds that are left to a step under way before its process is killed. Out of the air: longer than a step should take.
_PATIENCE = 10.0
#: Seconds between two looks at which processes have ended, whatever messages have come. Chosen arbitrarily.
_LOOK_EVERY = 1.0
#: Methods of a VecEnv that give one value for all its environments.
_ONE_FOR_ALL = ("has_attr", "set_attr")
#: Seconds within which processes start at the longest, if there is a ``worker_timeout``. The fork server loads modules first.
_START_WITHIN = 60.0
#: How often a worker's first process is started if the fork server ends meanwhile.
_ATTEMPTS = 3


class ProcessBackend:
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

    :param specs: What the workers are made of, in the order of their environments
    :param parameters: The shared parameters
    :param n_rollouts: How many rollouts of all environments the run has; the caller asks for no more
    :param rollout_order: "env": a rollout of each worker, "arrival": the first to arrive
    :param max_lead: How far a worker may be ahead of what the caller has done with
    :param start_method: How processes are started. "forkserver": from a process that has loaded what they need;
        "spawn": each from nothing; "fork": from this one, which must not have made a backward pass with torch by then
    :param max_restarts: How often, in all, a worker that has died is replaced. One that dies before it was ever ready is not
    :param worker_timeout: Seconds after which a worker that has not finished a rollout is killed and replaced, None: it never
        is, and there is but a warning after a minute
    :raises ValueError: if this process may not start any
    """

    elsewhere: ClassVar[bool] = True
    waits = False
    options: ClassVar[dict[str, Option]] = {
        "start_method": Option.one_of(
            [m for m in ("forkserver", "spawn", "fork") if m in multiprocessing.get_all_start_methods()]
        ),
        "max_restarts": Option("a whole number of at least 0", lambda n: type(n) is int and n >= 0),
        "worker_timeout": Option("None or a number of seconds above 0", lambda s: s is None or _is_positive(s)),
    }

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        parameters: SharedParameters,
        n_rollouts: int,
        rollout_order: RolloutOrder,
        max_lead: MaxLead,
        start_method: str = "forkserver",
        max_restarts: int = 10,
        worker_timeout: float | None = None,
    ) -> None:
        _check_platform()
        if multiprocessing.current_process().daemon:
            raise ValueError(
                "backend must be 'thread' or 'serial' in a daemonic process, as those of multiprocessing.Pool are, for it may "
                "have no processes of its own, but it is 'process'"
            )
        self._thread = threading.get_ident()
        self._max_lead = max_lead
        self._leads: dict[int, int] = {}
        self._start_method = start_method
        self._start_timeout = None if worker_timeout is None else max(worker_timeout, _START_WITHIN)
        self._quota = Quota(specs, n_rollouts, rollout_order)
        self._locks = [self._quota.share_memory(), parameters.share_memory()]
        context = multiprocessing.get_context(start_method)
        prepare(start_method)
        self.workers = [RemoteWorker(context, Assignment(spec, parameters, self._quota)) for spec in specs]
        self._restarts = Restarts(max_restarts)
        self._watchdog = Watchdog(self.workers, self._quota, self._locks, worker_timeout)
        #: When workers that have died are to be replaced.
        self._due: dict[int, float] = {}
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        self._collected: list[Rollout] = []
        self._n_calls = 0
        self._answers: dict[int, Answer] = {}
        self._failures: list[BaseException] = []
        self._notices: set[str] = set()
        self._begun = False
        self._stopping = False
        self._mailbox = Mailbox()
        self._starting: ThreadGroup | None = None

    @property
    def n_restarts(self) -> int:
        """See :attr:`Backend.n_restarts`."""
        return self._restarts.n_restarts

    def __enter__(self) -> Self:
        if is_importing_the_script():
            raise RuntimeError(GUARD)  # this process is itself being started
        for lock in self._locks:  # a worker that is frozen while it holds one can be killed, then
            lock.while_waiting = self._watchdog.look
        self._mailbox.__enter__()
        self._without_interrupts(self._start_all)
        return self

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        for rollout in self._collected:
            self.workers[rollout.worker].owe_permit(self._leads[rollout.worker])
        self._collected = []
        while not self._mailbox.empty():  # somebody may have died
            self._take(*self._mailbox.get(0.0))
        self._attend()
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
        self._end_all()
        self._mailbox.__exit__()
        for lock in self._locks:
            lock.while_waiting = None
        for worker in self.workers:
            worker.close()
        error = _with_others(error, self._failures)
        # An error knows the frames that it came through. If they knew it too, the shared memory would stay for a while.
        self._failures = []
        try:
            if exc_type is None and error is not None:
                raise error
        finally:
            error = None
        for worker in self.workers:
            text, worker.lost = worker.lost, ""
            if text:
                warnings.warn(text, stacklevel=2)
        unclosed = [text for worker in self.workers for text in worker.unclosed]
        for worker in self.workers:
            worker.unclosed = []
        if unclosed:
            warnings.warn(f"in a worker's process, {unclosed[0]}", stacklevel=2)

    def _call(self, method: str, bound: inspect.BoundArguments, indices: list[int]) -> list[Any]:
        """Call a method in each process that has some of the environments; the values come in the order of ``indices``."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"{method}() must be called in the thread that learns (in a callback, for instance), but it was called in "
                f"{threading.current_thread().name}: while A3C learns with backend='process', no other thread reaches the "
                "environments"
            )
        self._n_calls += 1
        slots = {worker.index: [i for i in indices if i in worker.env_indices] for worker in self.workers}
        asked = [worker for worker in self.workers if slots[worker.index]]
        self._answers = {}
        try:
            for worker in asked:
                local = [i - int(worker.env_indices[0]) for i in slots[worker.index]]
                by_index = {"indices": local} if "indices" in bound.signature.parameters else {}
                worker.ask(EnvCall(self._n_calls, method, bound.args, {**bound.kwargs, **by_index}))
            while len(self._answers) < len(asked):
                self._receive()
        finally:  # if it was interrupted, nobody waits for the rest
            for worker in asked:
                worker.call = None
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
        self._attend()
        if not self._failures:
            wait_until = min([time.monotonic() + self._watchdog.look_every, *self._due.values()])
            try:
                self._take(*self._mailbox.get(max(0.0, wait_until - time.monotonic())))
            except Empty:
                return
        if self._failures:
            raise self._failures[0]

    def _take(self, index: int, message: Any) -> None:
        worker = self.workers[index]
        if isinstance(message, Whereabouts):
            self._watchdog.told(index, message.stack)
            return
        self._watchdog.heard(index)
        match message:
            case Rollouts(rollouts):
                self._receive_rollouts(worker, rollouts)
            case Answer():
                self._note(worker, message)
            case Ready():
                worker.begin()
                self._begin_together()
            case Notice(text) if text not in self._notices:
                self._notices.add(text)  # other workers have the same to say
                warnings.warn(text, stacklevel=2)
            case Farewell():
                worker.part(message)
            case Unclosed(failures):
                worker.unclosed += failures
            case Failure():
                self._failures.append(message.error())
                worker.fail()
            case Ended() if worker.alive:
                self._bury(worker)

    def _receive_rollouts(self, worker: RemoteWorker, rollouts: Sequence[Rollout]) -> None:
        worker.n_rollouts += len(rollouts)
        if worker.index not in self._leads:
            self._leads[worker.index] = lead = self._max_lead.of(rollouts[0])
            if lead > 0:
                worker.permit(lead)
        self._restarts.bore_fruit(worker.index)
        self._arrived[self._quota.key(worker.index)].extend(rollouts)

    def _note(self, worker: RemoteWorker, answer: Answer) -> None:
        """Keep an answer, unless it is to a call that was interrupted."""
        if worker.call is not None and worker.call.number == answer.number:
            worker.call = None
            self._answers[worker.index] = answer

    def _begin_together(self) -> None:
        """Let the workers begin when all of them are ready, so that none begins if one can't."""
        if not self._begun and all(worker.ready for worker in self.workers):
            self._begun = True
            for worker in self.workers:
                worker.permit(1)

    def _bury(self, worker: RemoteWorker) -> None:
        """Its process has ended. If it was not to, the worker is to have another."""
        if worker.end():
            return
        cause = worker.cause_of_death()
        never_ready = worker.n_lives == 1 and not worker.was_ready
        if self._failures or never_ready or (self._stopping and self._restarts.max_restarts == 0):
            self._fail(worker, cause)
        elif self._stopping:
            worker.lose(f"{cause} while learn() was ending")
        else:
            self._quota.give_back(worker.index, worker.n_rollouts)
            self._schedule(worker, cause)

    def _schedule(self, worker: RemoteWorker, cause: str) -> None:
        delay = self._restarts.admit(worker.index, cause)
        if delay is None:
            self._fail(worker, cause + self._restarts.history())
            return
        self._due[worker.index] = time.monotonic() + delay
        when = f"in {delay:g} s" if delay > 0 else "now"
        count = f"restart {self._restarts.n_restarts} of at most {self._restarts.max_restarts}"
        warnings.warn(f"{cause}. It is replaced {when}, and its environments begin anew ({count})", stacklevel=2)

    def _fail(self, worker: RemoteWorker, cause: str) -> None:
        worker.failed |= worker.was_ready or worker.n_lives > 1
        self._failures.append(WorkerDied(cause))

    def _attend(self) -> None:
        """Look after the workers; those that have died get a process, when it is time to."""
        self._watchdog.look()
        for index in [index for index, due in self._due.items() if due <= time.monotonic()]:
            del self._due[index]
            worker = self.workers[index]
            try:
                self._without_interrupts(partial(self._start, worker))
            except (OSError, EOFError) as error:
                self._schedule(worker, f"no process could be started for worker {index} ({type(error).__name__}: {error})")

    def _without_interrupts(self, start: Callable[[], None]) -> None:
        """Start processes in another thread: an interrupt in the middle of it would leave a process that nobody knows."""
        self._starting = ThreadGroup({"A3C workers' start": start})
        self._starting.start()
        self._await_start(self._start_timeout)

    def _await_start(self, patience: float | None) -> None:
        """A fork server that has not started them after so many seconds is frozen, and is killed. The next gets more time."""
        while self._starting is not None and self._starting.join(patience):
            fork_server.kill()
            patience = 10 * (patience or 0.0)

    def _start_all(self) -> None:
        for worker in self.workers:
            if not self._stopping:
                self._start_first(worker)

    def _start_first(self, worker: RemoteWorker) -> None:
        """Start its first process, with another fork server if the one that there was has ended."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                self._start(worker)
                return
            except (OSError, EOFError) as error:
                if self._start_method != "forkserver" or self._stopping:
                    raise
                if attempts_left == 0:
                    raise WorkerDied(
                        f"no process could be started for worker {worker.index} ({type(error).__name__}: {error}): the fork "
                        f"server, from which worker processes are forked, ended {_ATTEMPTS} times meanwhile. See what it has "
                        "written; it may have been killed because memory is short. backend_kwargs=dict(start_method='spawn') "
                        "needs none"
                    ) from error
                fork_server.recover()

    def _start(self, worker: RemoteWorker) -> None:
        if self._start_method == "forkserver":
            fork_server.ensure_running()
        worker.start(self.workers, self._mailbox)
        self._watchdog.heard(worker.index)

    def _end_all(self) -> None:
        """End all processes, and return when none is left. If it is called again, for it was interrupted, it is impatient."""
        is_patient, self._stopping = not self._stopping, True
        self._quota.free()
        with suppress(OSError, EOFError, WorkerDied):
            self._await_start(_PATIENCE)
        for worker in self.workers:
            worker.stop()
        if is_patient:
            self._await_ends(_PATIENCE)
        for worker in self.workers:
            worker.give_up(_PATIENCE if is_patient else None)
        while not self._await_ends(_PATIENCE):
            alive = [worker.life.pid for worker in self.workers if worker.life is not None and worker.alive]
            with suppress(Warning):  # if the user wants warnings to be errors: learn() can't end yet
                warnings.warn(f"learn() waits for processes that have been killed and have not ended: {alive}", stacklevel=2)

    def _await_ends(self, patience: float) -> bool:
        """Whether all processes end within so many seconds."""
        deadline = time.monotonic() + patience
        while any(worker.alive for worker in self.workers):
            try:
                self._take(*self._mailbox.get(min(_LOOK_EVERY, max(0.01, deadline - time.monotonic()))))
            except Empty:
                for worker in self.workers:
                    if worker.alive and worker.life is not None and worker.life.gone:
                        self._bury(worker)  # an interrupt has dropped the message
                if time.monotonic() >= deadline:
                    return False
        return True


def prepare(start_method: str = "forkserver") -> None:
    """
    Begin what the start of workers would wait for, if it is not there yet: the fork server loads modules for some seconds.

    :param start_method: How processes are to be started
    :raises ValueError: if this platform can't have worker processes
    """
    _check_platform()
    if start_method == "forkserver":
        fork_server.prepare()


def _check_platform() -> None:
    reason = unsupported()
    if reason is not None:
        raise ValueError(f"backend must be 'thread' or 'serial' on {platform.system()}, but it is 'process': {reason}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < math.inf


def _with_others(error: BaseException | None, failures: Sequence[BaseException]) -> BaseException | None:
    """The error to raise, with notes of those that came after it."""
    for failure in failures:
        if error is None:
            error = failure
        elif error is not failure:
            error.add_note(f"another worker failed too: {failure!r}")
    return error

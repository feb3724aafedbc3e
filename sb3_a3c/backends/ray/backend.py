"""
Workers as actors of Ray, on one machine or on many. The shared parameters stay in the driver, the process that learns.

What is guaranteed:

- The driver hands out each rollout with the parameters that it begins with, and applies the gradient that comes back. So
  callbacks, optimizers and normalization statistics are what they are with threads, and there is no second process whose end
  would lose them.
- An exception in a worker, and the end of its actor or its node, wake the main thread at once. An actor that has died is
  replaced, as often as is allowed. Each rollout arrives once, see :class:`~sb3_a3c.backends.ray.pump.Pump`.
- After ``__exit__`` no actor is left. Ray that was initialised before is as it was; Ray that was started here has ended.

Only the thread that learns uses this object. A second thread, which Ctrl-C can't interrupt, speaks with Ray.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from sb3_a3c.backends.asynchronous import AsynchronousBackend
from sb3_a3c.backends.process.env_calls import EnvCalls
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.messages import EnvResult, FinalState, Notice, Rollouts
from sb3_a3c.backends.process.notices import Notices
from sb3_a3c.backends.process.restarts import Restarts
from sb3_a3c.backends.protocol import Option, RunSpec
from sb3_a3c.backends.ray.actor import WorkerActor
from sb3_a3c.backends.ray.hand_out import HandOut
from sb3_a3c.backends.ray.messages import Assignment, Died, Ended, Lost, Untouched
from sb3_a3c.backends.ray.pump import Pump
from sb3_a3c.backends.ray.ray_worker import RayWorker
from sb3_a3c.backends.ray.shared_vector import SharedVector
from sb3_a3c.backends.ray.slot import Slot
from sb3_a3c.system.extras import require
from sb3_a3c.system.thread_group import ThreadGroup
from sb3_a3c.system.torch_threads import TorchThreadsOfOthers

#: The name of the thread that speaks with Ray.
_NAME = "A3C workers on Ray"


class RayBackend(AsynchronousBackend):
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`.

    :param run: What the run asks of it
    :param address: The address of a cluster, as for ``ray.init()``. None: Ray as the program has initialised it; if it has
        not, the cluster that this machine is a node of; if there is none, a Ray on this machine, which ends with the run
    :param namespace: The namespace of the connection, as for ``ray.init()``
    :param num_cpus: What each worker takes of its node's cores, for Ray's bookkeeping
    :param resources: What else it takes: name -> amount
    :param runtime_env: The environment of its process, as for Ray: packages, files and variables
    :param max_restarts: How many times, in all, actors that have died are replaced. One that dies before it was ever ready is
        not replaced
    :param max_staleness: How many updates there may be at most between a worker's pull and its push. Workers wait for the
        slowest one where they must. None: no limit
    :param n_in_flight: How many rollouts a worker is asked for at a time. 1: after each rollout it waits for the parameters
        with its gradient. 2: it begins the next one meanwhile, with parameters that lack it
    :param gradient_dtype: The type in which gradients are sent. None: that of the parameters. "bfloat16": two bytes each
    """

    is_remote = True
    options: ClassVar[dict[str, Option]] = {
        "address": Option("None or a string", lambda value: value is None or isinstance(value, str)),
        "namespace": Option("None or a string", lambda value: value is None or isinstance(value, str)),
        "num_cpus": Option("a number of at least 0", lambda value: _is_amount(value)),
        "resources": Option(
            "None or a dict: name -> a number of at least 0",
            lambda value: value is None or (isinstance(value, dict) and all(map(_is_amount, value.values()))),
        ),
        "runtime_env": Option("None or a dict", lambda value: value is None or isinstance(value, dict)),
        "max_restarts": Option("a whole number of at least 0", lambda n: type(n) is int and n >= 0),
        "max_staleness": Option("None or a whole number of at least 0", lambda n: n is None or (type(n) is int and n >= 0)),
        "n_in_flight": Option("a whole number of at least 1", lambda n: type(n) is int and n >= 1),
        "gradient_dtype": Option(
            "None or 'bfloat16'", lambda value: value is None or (isinstance(value, str) and value == "bfloat16")
        ),
    }

    def __init__(
        self,
        run: RunSpec,
        address: str | None = None,
        namespace: str | None = None,
        num_cpus: float = 1,
        resources: dict[str, float] | None = None,
        runtime_env: dict[str, Any] | None = None,
        max_restarts: int = 10,
        max_staleness: int | None = None,
        n_in_flight: int = 2,
        gradient_dtype: str | None = None,
    ) -> None:
        super().__init__(run)
        self.prepare(None)
        if not run.parameters.use_locking:
            warnings.warn(
                "use_locking=False has no effect with backend='ray': one thread of the driver applies all gradients",
                stacklevel=2,
            )
        from sb3_a3c.backends.ray.connection import Connection, RayOptions  # the extra is installed

        options = RayOptions(address, namespace, num_cpus, resources or {}, runtime_env)
        self._restarts = Restarts(max_restarts)
        recorder = run.specs[0].recorder
        if recorder is not None:  # a replay can't pull before it has pushed, and does not round
            n_in_flight, gradient_dtype = 1, None
        layout = run.parameters.layout
        assignments = [Assignment(replace(spec, recorder=None), layout, gradient_dtype) for spec in run.specs]
        self.workers = [RayWorker(assignment, lambda *call: self._pump.call_env(*call)) for assignment in assignments]
        slots = [Slot(worker) for worker in self.workers]
        shared = SharedVector(run.parameters, recorder)
        steps = HandOut(slots, shared, self._quota, n_in_flight, max_staleness)
        connect = partial(Connection, options, WorkerActor, len(slots))
        self._pump = Pump(connect, slots, shared, self._quota, steps, self._restarts)
        self._torch_threads = TorchThreadsOfOthers()
        self._thread = ThreadGroup({_NAME: self._pump.run})
        self._env_calls = EnvCalls(self.workers, "ray")
        self._notices = Notices()
        #: Workers whose final state has not been taken back.
        self._out: set[int] = set()
        self._stopping = False

    @classmethod
    def prepare(cls, options: dict[str, Any] | None) -> None:
        """
        See :meth:`Backend.prepare`.

        :raises MissingExtra: if Ray is not installed
        """
        require("ray", "backend='ray'", "ray")

    @property
    def n_restarts(self) -> int:  # type: ignore[override]
        """See :attr:`Backend.n_restarts`."""
        return self._restarts.n_restarts

    def __enter__(self) -> "RayBackend":
        self._out = {worker.index for worker in self.workers}
        self._torch_threads.__enter__()
        self._thread.start()
        return self

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        is_patient, self._stopping = not self._stopping, True
        self._pump.stop(is_patient)
        try:
            self._thread.join()
        finally:
            self._torch_threads.__exit__()
        self._env_calls.end()
        while not self._pump.inbox.empty():
            self._handle(*self._pump.inbox.get())
        for worker in self.workers:
            if worker.index in self._out:
                worker.lose_envs("an interrupt came while it was taken back")
                self._out.discard(worker.index)
            worker.close()
        self._raise_failures(error)
        for worker in self.workers:
            worker.warn_of_loss()
        self._notices.show()

    def reach(self, method: Callable) -> Callable:
        """See :meth:`Backend.reach`."""
        return self._env_calls.reach(method, self._receive)

    def _permit(self, worker: int, n_rollouts: int) -> None:
        if n_rollouts > 0:
            self._pump.permit(worker, n_rollouts)

    def _renew_permit(self, worker: int) -> None:
        self._pump.permit(worker, 1)

    def _receive(self) -> None:
        if not self._failures:
            self._handle(*self._pump.inbox.get())
        if self._failures:
            raise self._failures[0]
        self._notices.show()

    def _handle(self, index: int, message: Any) -> None:
        match message:
            case Rollouts(rollouts):
                self._keep(index, rollouts)
            case EnvResult():
                self._env_calls.note_result(self.workers[index], message)
            case Notice(text):
                self._notices.add(text)
            case Died(text):
                warnings.warn(text, stacklevel=2)
            case Failure():
                self._note_failure(index, message.error())
            case BaseException():
                self._note_failure(index, message)
                if index >= 0:  # else it is the connection's
                    self.workers[index].failed = True
            case Ended() if not self._stopping and not self._failures:
                self._note_failure(index, RuntimeError("the connection to Ray has ended"))
            case FinalState() | Lost() | Untouched():
                self._take_back(self.workers[index], message)

    def _take_back(self, worker: RayWorker, final: FinalState | Lost | Untouched) -> None:
        match final:
            case FinalState():
                worker.take_back(final)
            case Lost(""):
                worker.failed = True
            case Lost(why):
                worker.lose_envs(why)
        self._out.discard(worker.index)  # at the end, because this may be interrupted


def _is_amount(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < math.inf

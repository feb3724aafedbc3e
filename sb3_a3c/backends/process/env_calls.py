"""
Calls of the environments from the main process, while workers in other processes step them.

Only the thread that learns may make them, because it alone reads the workers' messages. A result that comes after its call was
interrupted is dropped.
"""

import inspect
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from sb3_a3c.backends.process.messages import EnvCall, EnvResult
from sb3_a3c.backends.process.worker_elsewhere import WorkerElsewhere

#: Methods of a VecEnv that return one value for all its environments.
_ONE_FOR_ALL = ("has_attr", "set_attr")


class EnvCalls:
    """
    :param workers: The workers
    :param backend: The name of their backend, for messages
    """

    def __init__(self, workers: Sequence[WorkerElsewhere], backend: str) -> None:
        self._workers = workers
        self._backend = backend
        self._thread = threading.get_ident()
        self._n_calls = 0
        self._results: dict[int, EnvResult] = {}
        self._ended = False

    def end(self) -> None:
        """The workers have exited. A method that the caller has kept does from now on what the VecEnv's own does."""
        self._ended = True

    def reach(self, method: Callable, receive: Callable[[], None]) -> Callable:
        """
        See :meth:`Backend.reach`. Rendering is left as it is: it calls other methods, which reach the environments.

        :param method: A bound method of the VecEnv that was sliced
        :param receive: Waits for a message of a worker and handles it. May return without one
        :return: A function that does the same in the workers' processes
        """
        venv, name, signature = method.__self__, method.__name__, inspect.signature(method)  # type: ignore[attr-defined]
        if name == "render":
            return method

        @wraps(method)
        def reaching(*args: Any, **kwargs: Any) -> Any:
            if self._ended:
                current = getattr(venv, name)  # another run may have begun
                return (method if getattr(current, "calls", None) is self else current)(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            indices = [range(venv.num_envs)[i] for i in venv._get_indices(bound.arguments.pop("indices", None))]
            values = self._call(name, bound, indices, receive)
            if name == "has_attr":
                return all(values)
            return None if name == "set_attr" else values

        reaching.calls = self  # type: ignore[attr-defined]  # a function that referred to itself would keep what it refers to
        return reaching

    def note_result(self, worker: WorkerElsewhere, result: EnvResult) -> None:
        """
        :param worker: Who has sent it
        :param result: What a call, this one or an interrupted one, returned or raised
        """
        if worker.call is not None and worker.call.number == result.number:
            worker.call = None
            self._results[worker.index] = result

    def _call(self, method: str, bound: inspect.BoundArguments, indices: list[int], receive: Callable[[], None]) -> list[Any]:
        """Call a method in each process that has some of the environments. The values come in the order of ``indices``."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"{method}() must be called in the thread that learns (in a callback, for instance), but it was called in "
                f"{threading.current_thread().name}: while A3C learns with backend={self._backend!r}, no other thread "
                "reaches the environments"
            )
        self._n_calls += 1
        of_worker = {worker.index: [i for i in indices if i in worker.env_indices] for worker in self._workers}
        called = [worker for worker in self._workers if of_worker[worker.index]]
        self._results = {}
        try:
            for worker in called:
                local = [i - int(worker.env_indices[0]) for i in of_worker[worker.index]]
                by_index = {"indices": local} if "indices" in bound.signature.parameters else {}
                worker.call = EnvCall(self._n_calls, method, bound.args, {**bound.kwargs, **by_index})
                worker.send(worker.call)
            while len(self._results) < len(called):
                receive()
        finally:  # if it was interrupted, nobody waits for the other results
            for worker in called:
                worker.call = None
        values: dict[int, Any] = {}
        for worker in called:
            result, its_indices = self._results[worker.index], of_worker[worker.index]
            if result.failure is not None:
                raise result.failure.error()
            its_values = [result.value] * len(its_indices) if method in _ONE_FOR_ALL else result.value
            values.update(zip(its_indices, its_values, strict=True))
        return [values[i] for i in indices]

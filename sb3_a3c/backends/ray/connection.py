"""
Everything that is used of Ray. No other file imports it.

What is guaranteed: Ray that was initialised before is used, and left as it is. Ray that a :class:`Connection` has started ends
with it, and so does its folder. No call waits for an actor, except :meth:`Connection.wait_for_end`, which has a time limit.

One name is private: ``get_ray_address_from_environment``. Checked against Ray 2.60.
"""

import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

#: The thread of an actor that is free while the other one makes a step.
_BETWEEN_STEPS = "between_steps"
#: The longest name of a folder for a local Ray: the names of its sockets are about 70 characters longer, and may have 107.
_LONGEST_FOLDER = 30
#: What a call raises if the actor's process, its node, or a result on that node is gone.
_DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
#: Seconds for a connection to a cluster's address. Chosen arbitrarily: longer than any network takes.
_REACHABLE_WITHIN = 10.0
#: Set by ``ray.init()`` where it starts Ray.
_AUTHENTICATION = "RAY_AUTH_MODE"
#: Called in a thread of Ray when a call has ended, with a function that returns its results or raises its error.
Done = Callable[[Callable[[], list[Any]]], None]


@dataclass(frozen=True)
class RayOptions:
    """The options of the backend that Ray reads, see :class:`~sb3_a3c.backends.ray.backend.RayBackend`."""

    address: str | None = None
    namespace: str | None = None
    num_cpus: float = 1
    resources: dict[str, float] = field(default_factory=dict)
    runtime_env: dict[str, Any] | None = None


class Connection:
    """
    A context manager. Within the block there is a Ray with actors in it, which only the thread that entered it uses.

    :param options: The options
    :param actor_class: The class of the actors
    :param n_actors: How many there will be at a time. A local Ray has room for so many
    """

    def __init__(self, options: RayOptions, actor_class: type, n_actors: int) -> None:
        self._options = options
        self._n_actors = n_actors
        remote: Any = ray.remote  # its types lack concurrency_groups
        self._actor_class = remote(concurrency_groups={_BETWEEN_STEPS: 1})(actor_class)
        self._is_ours = False
        self._folder: str | None = None
        self._authentication = os.environ.get(_AUTHENTICATION)

    def __enter__(self) -> Self:
        options = self._options
        if ray.is_initialized():
            address = ray.get_runtime_context().gcs_address
            if options.address not in (None, "auto", address):
                raise ValueError(
                    f"backend_kwargs['address'] must be None or {address!r}, because Ray is initialised already and connected "
                    f"to that address, but it is {options.address!r}"
                )
            return self
        self._is_ours = True
        common: dict[str, Any] = dict(namespace=options.namespace, logging_level=logging.ERROR)
        if options.address is None and get_ray_address_from_environment(None, None) is None:  # type: ignore[arg-type]
            self._start_local(common)
        else:  # with None, Ray finds the address again, and the token that goes with it
            check_reachable(options.address)
            ray.init(options.address, **common)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._is_ours:
            ray.shutdown()
            if self._authentication is None:
                os.environ.pop(_AUTHENTICATION, None)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start_actor(self) -> Any:
        """
        :return: A new actor. It starts when one of the nodes has room for it
        """
        options = self._options
        return self._actor_class.options(
            num_cpus=options.num_cpus,
            resources=options.resources or None,
            runtime_env=options.runtime_env,
            scheduling_strategy="SPREAD",  # over the nodes, as evenly as possible
            max_restarts=0,  # a new one would not know where its worker was
            enable_task_events=False,  # Ray would keep an account of each call
        ).remote()

    def call(self, actor: Any, method: str, *args: Any, done: Done, n_results: int = 1, between_steps: bool = False) -> None:
        """
        :param actor: An actor
        :param method: The name of its method
        :param args: The arguments
        :param done: Called in the end, whatever happens to the actor
        :param n_results: How many results the method returns. Only the last may be large: when it is here, all are
        :param between_steps: Whether to call it while the actor makes a step, and not after that
        """
        function = getattr(actor, method)
        if between_steps:
            function = function.options(concurrency_group=_BETWEEN_STEPS)
        elif n_results > 1:
            function = function.options(num_returns=n_results)  # takes longer than a call without it
        refs = function.remote(*args)
        if n_results == 1:
            refs.future().add_done_callback(lambda future: done(lambda: [future.result()]))
        else:
            refs[-1].future().add_done_callback(lambda future: done(lambda: ray.get(refs)))

    def kill(self, actor: Any) -> None:
        """
        End the process of an actor at once.

        :param actor: The actor
        """
        with suppress(RayError):
            ray.kill(actor)

    def wait_for_end(self, actors: Sequence[Any], timeout: float) -> bool:
        """
        :param actors: Actors that have been killed
        :param timeout: Seconds to wait
        :return: Whether Ray knows of each that it has ended
        """
        if not actors:
            return True
        pending = [actor.stop.remote() for actor in actors]
        return not ray.wait(pending, num_returns=len(pending), timeout=timeout)[1]

    def capacity(self) -> str:
        """
        :return: What the cluster has, and what of it is free, for the user
        """
        with suppress(RayError):
            total, free = ray.cluster_resources(), ray.available_resources()
            names = ["CPU", *self._options.resources]
            return ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in names)
        return "unknown"

    def demand(self) -> str:
        """
        :return: What each actor takes of its node, for the user
        """
        wanted = {"CPU": self._options.num_cpus, **self._options.resources}
        return ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())

    @staticmethod
    def has_died(error: BaseException) -> bool:
        """
        :param error: What a call of an actor has raised
        :return: Whether its process or its node has ended, or can't be reached
        """
        return isinstance(error, _DEATHS)

    @staticmethod
    def cause_of(error: BaseException) -> str:
        """
        :param error: What a call of an actor has raised
        :return: Why, in one line
        """
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        details = [line for line in lines if any(word in line.lower() for word in ("exit", "killed", "node"))]
        return f"{type(error).__name__}: {' '.join(details[:2] or lines[:1])}"

    def _start_local(self, common: dict[str, Any]) -> None:
        options, n = self._options, self._n_actors
        if len(tempfile.gettempdir()) < _LONGEST_FOLDER:
            self._folder = tempfile.mkdtemp(prefix="a3c-ray-")
        ray.init(
            "local",
            num_cpus=max(1, math.ceil(n * options.num_cpus)),
            resources={name: n * amount for name, amount in options.resources.items()} or None,
            include_dashboard=False,
            _temp_dir=self._folder,
            **common,
        )


def check_reachable(address: str | None) -> None:
    """
    Ray itself would try for minutes.

    :param address: The address of a cluster, in any form of ``ray.init()``. Only ``host:port`` is tried
    :raises ConnectionError: if nothing answers there
    """
    host, colon, port = (address or "").rpartition(":")
    if not (colon and port.isdigit() and "/" not in host):
        return
    try:
        socket.create_connection((host, int(port)), _REACHABLE_WITHIN).close()
    except OSError as error:
        raise ConnectionError(
            f"backend_kwargs['address'] must be the address of a cluster, but {address!r} can't be reached ({error})"
        ) from error

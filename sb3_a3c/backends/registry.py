"""The backends by name."""

import inspect
from typing import Any

from sb3_a3c.backends.process.backend import ProcessBackend
from sb3_a3c.backends.protocol import Backend, RunSpec
from sb3_a3c.backends.ray.backend import RayBackend
from sb3_a3c.backends.serial import SerialBackend
from sb3_a3c.backends.threads import ThreadBackend

#: The backends by the names that users type.
BACKENDS: dict[str, type[Backend]] = {}


def register_backend(name: str, backend_class: type[Backend]) -> None:
    """
    Make a backend available as ``A3C(..., backend=name)``. A class may be registered again, as when a notebook's cell is run
    a second time.

    :param name: The value of the argument ``backend``
    :param backend_class: A subclass of ``sb3_a3c.backends.Backend``
    :raises TypeError: if it is not such a class, or if it does not define all abstract methods
    :raises ValueError: if the name belongs to another backend
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    if not (isinstance(backend_class, type) and issubclass(backend_class, Backend)):
        raise TypeError(f"backend_class must be a subclass of sb3_a3c.backends.Backend, not {backend_class!r}")
    if inspect.isabstract(backend_class):
        missing = ", ".join(sorted(backend_class.__abstractmethods__))
        raise TypeError(f"backend_class must define all methods of a backend, but {backend_class.__name__} lacks {missing}")
    taken = BACKENDS.get(name, backend_class)
    if (taken.__module__, taken.__qualname__) != (backend_class.__module__, backend_class.__qualname__):
        raise ValueError(f"name must not be that of another backend, but '{name}' is {taken.__module__}.{taken.__qualname__}")
    BACKENDS[name] = backend_class


register_backend("serial", SerialBackend)
register_backend("thread", ThreadBackend)
register_backend("process", ProcessBackend)
register_backend("ray", RayBackend)


def prepare_backend(name: str, options: dict[str, Any] | None) -> None:
    """
    Start what a first run would otherwise wait for.

    :param name: The argument ``backend``, not checked yet. An unknown name is ignored
    :param options: The argument ``backend_kwargs``, not checked yet
    """
    if isinstance(name, str) and name in BACKENDS:
        BACKENDS[name].prepare(options)


def make_backend(name: str, run: RunSpec, options: dict[str, Any] | None) -> Backend:
    """
    :param name: A key of ``BACKENDS``
    :param run: What the run asks of it
    :param options: The backend's own options (``backend_kwargs``)
    :return: The backend. A single worker always runs in the caller's thread: callbacks must see its policy as it was at each
        rollout, so it and they would only wait for each other
    """
    if len(run.specs) == 1:
        return SerialBackend(run)
    return BACKENDS[name](run, **options or {})  # type: ignore[call-arg]

"""
Locks that survive an exception at any instruction.

``KeyboardInterrupt``, and whatever else a signal handler or a debugger raises, can come between any two instructions of
the main thread. If it comes between the end of a ``with`` block and the first instruction of ``__exit__``, the lock stays
locked. So each lock knows its holder, and :meth:`Lock.free` releases it only if the caller is the holder.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

#: The number of attempts, after each of which other threads run, before a worker queues for the lock. An update of a small
#: network takes less time than waking up a thread. Moreover, a thread that gets the lock from the queue waits for the GIL
#: while it holds the lock, and all others wait for the lock: such a convoy would never end. Chosen arbitrarily.
_YIELDS = 20


class Lock(Protocol):
    """A context manager that holds the lock within the block. Entering it returns the seconds spent waiting."""

    def __enter__(self) -> float: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def free(self) -> None:
        """Release the lock if the caller still holds it, because an exception came before ``__exit__``."""


class ThreadLock:
    """See :class:`Lock`. A lock between threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # which knows its holder

    def __enter__(self) -> float:
        try:
            return 0.0 if self._lock.acquire(False) else take(self._lock.acquire)
        except BaseException:
            self.free()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def free(self) -> None:
        """See :meth:`Lock.free`."""
        free(self._lock)


def free(lock: "threading.RLock") -> None:  # type: ignore[valid-type]
    """
    :param lock: A lock to release if the calling thread still holds it, because an exception came before its ``__exit__``
    """
    with suppress(RuntimeError):  # the calling thread does not hold it any more
        while True:
            lock.release()  # type: ignore[attr-defined]


def take(acquire: Callable[[bool], bool]) -> float:
    """
    Acquire a lock that is usually held for a short time.

    :param acquire: Acquires the lock. Its argument tells whether to wait, its result whether the lock is held now
    :return: Seconds spent waiting
    """
    if acquire(False):
        return 0.0
    started = time.monotonic()
    for _ in range(_YIELDS):
        time.sleep(0)
        if acquire(False):
            break
    else:
        acquire(True)
    return time.monotonic() - started

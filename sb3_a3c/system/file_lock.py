"""
A lock between processes, which the system releases when its holder dies.

Guaranteed: at most one process holds it, and it is released when that process ends for any reason. (A semaphore would stay
locked, and others would wait forever.) Why: it is a lock on a file (``fcntl``), which belongs to the process. Assumed: only
one thread of each process uses it, because the system does not tell threads apart. A holder that is frozen keeps the lock: a
process that must not wait forever sets :attr:`FileLock.while_waiting`, and can kill the holder there.
"""

import io
import os
import struct
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

from sb3_a3c.system.locks import take
from sb3_a3c.system.thread_group import call_in_thread

try:
    import fcntl
except ImportError:  # Windows has no such module; see unsupported()
    fcntl = None  # type: ignore[assignment]

#: Seconds between two attempts of a process with ``while_waiting``: less than an update of a large network takes, and much
#: longer than an attempt.
_RETRY_EVERY = 0.0005
#: C's ``struct flock`` on 64-bit Linux: type, whence, start, length, process. Other systems have another order.
_FLOCK = struct.Struct("hhqqi") if sys.platform == "linux" and sys.maxsize > 2**32 else None


def unsupported() -> str | None:
    """
    :return: The reason why this platform has no :class:`FileLock`, None: it has one
    """
    return "this platform has no fcntl module" if fcntl is None else None


class FileLock:
    """
    See :class:`~sb3_a3c.system.locks.Lock`. It can be passed to a process that is being started.

    :param descriptor: Descriptor of the file to lock. None: a new file without a name, so that no file is left behind
    """

    def __init__(self, descriptor: int | None = None) -> None:
        file = _new_file() if descriptor is None else io.FileIO(descriptor, "r+")
        # Like shared memory, it exists as long as it is used. At the exit of the program, a thread may still use it, and the
        # system closes it after that.
        _Closing.when_gone(self, file)
        self._descriptor = file.fileno()
        #: What this process calls repeatedly while it waits. None: it waits until the lock is free.
        self.while_waiting: Callable[[], None] | None = None

    def __enter__(self) -> float:
        try:
            return take(self.acquire)
        except BaseException:
            self.free()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def acquire(self, blocking: bool = True) -> bool:
        """
        :param blocking: Whether to wait for the lock
        :return: Whether the lock is held now
        """
        if blocking and self.while_waiting is not None:
            while not self.acquire(blocking=False):
                self.while_waiting()
                time.sleep(_RETRY_EVERY)
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Release the lock. This has no effect if another process holds it."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def holder(self) -> int | None:
        """
        :return: Id of the other process that holds it now, None: there is none, or the system can't tell
        """
        if _FLOCK is None:
            return None
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = _FLOCK.unpack(fcntl.fcntl(self._descriptor, fcntl.F_GETLK, wanted))
        return None if kind == fcntl.F_UNLCK else pid

    def free(self) -> None:
        """See :meth:`~sb3_a3c.system.locks.Lock.free`."""
        self.release()

    def __reduce__(self) -> tuple[Callable[[Any], "FileLock"], tuple[Any]]:
        from multiprocessing.reduction import DupFd  # Windows does not have it

        return _received, (DupFd(self._descriptor),)


class _Closing(weakref.ref):
    """
    Closes a file when the object that it refers to is gone. No line of Python runs then: Ctrl-C in one, as in those of
    ``weakref.finalize``, would leave the file open.
    """

    close: Callable[[], None]

    @classmethod
    def when_gone(cls, referent: Any, file: io.FileIO) -> None:
        """
        :param referent: The object
        :param file: The file to close
        """
        closing = cls(referent, methodcaller("close"))
        closing.close = file.close
        _CLOSING[:] = [*(other for other in _CLOSING if other() is not None), closing]


_CLOSING: list[_Closing] = []


def _new_file() -> io.FileIO:
    """
    Open a file without a name, in a thread: in the main thread, Ctrl-C during the system call would lose the descriptor that
    it returns.
    """
    return call_in_thread(partial(tempfile.TemporaryFile, buffering=0))  # type: ignore[return-value]


def _received(descriptor: Any) -> FileLock:
    return FileLock(descriptor.detach())

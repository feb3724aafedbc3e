"""
A lock between processes, which is free again when its holder dies.

What is guaranteed: one process at a time holds it, and the system takes it back from a process that has ended, however
that ended; a semaphore would stay taken, and whoever waits for it would wait for ever. What is assumed: that one thread
of each process uses it, for the system tells processes apart and not threads. A holder that is frozen is neither: whoever
must not wait for it for ever sets :attr:`FileLock.while_waiting`, and may kill it there.
"""

import io
import os
import struct
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from typing import Any

from sb3_a3c.system.locks import take

try:
    import fcntl
except ImportError:  # Windows has no such module; see unsupported()
    fcntl = None  # type: ignore[assignment]

#: Seconds between two attempts of a process that does something else while it waits: less than an update of a large network
#: takes, and much longer than an attempt.
_RETRY_EVERY = 0.0005
#: C's ``struct flock`` on 64-bit Linux: type, whence, start, length, process. Other systems order it otherwise.
_FLOCK = struct.Struct("hhqqi") if sys.platform == "linux" and sys.maxsize > 2**32 else None


def unsupported() -> str | None:
    """
    :return: Why there is no :class:`FileLock` on this platform, None: there is
    """
    return "this platform has no fcntl module" if fcntl is None else None


class FileLock:
    """
    See :class:`~sb3_a3c.system.locks.Lock`. It can be handed to a process that is being started.

    :param descriptor: Of the file that is locked; None: a new one, without a name, so nothing is ever left behind
    """

    def __init__(self, descriptor: int | None = None) -> None:
        # A file object rather than a number, which an interrupt might lose.
        file = tempfile.TemporaryFile(buffering=0) if descriptor is None else io.FileIO(descriptor, "r+")
        weakref.finalize(self, file.close)  # as shared memory, it is there as long as somebody has it
        self._descriptor = file.fileno()
        #: What this process does again and again while it waits; None: it waits until the lock is free.
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
        :param blocking: Whether to wait for it
        :return: Whether it is now held
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
        """Release it; this has no effect on what another process holds."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def holder(self) -> int | None:
        """
        :return: Id of the other process that holds it now; None if there is none, and where the system can't be asked
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


def _received(descriptor: Any) -> FileLock:
    return FileLock(descriptor.detach())

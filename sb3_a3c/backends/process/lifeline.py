"""
The tie between the main process and a worker's: when the main process is gone, the system ends the other.

What is guaranteed, on Linux: however the main process has ended, and whatever this one is in (a step that never ends, or
code that holds the GIL), it is killed at once. What is assumed: that nobody writes to the pipe, and that only the main
process holds its other end. Elsewhere, and if a process that was forked from the main one still holds that end, the thread
that reads the main process's messages finds that it is gone (:func:`watch`).
"""

import os
import signal
from multiprocessing.connection import Connection

try:
    import fcntl
except ImportError:  # Windows has no such module, and no worker processes
    fcntl = None  # type: ignore[assignment]


def tie(lifeline: Connection) -> None:
    """
    Have this process killed when the other end of a pipe is closed.

    :param lifeline: The end that is this process's
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if lifeline.poll():  # it was closed before
        os._exit(1)


def watch(pid: int) -> int | None:
    """
    :param pid: Of a process that has not been waited for, or does not end before :func:`tie` has been called
    :return: A file descriptor that can be read once it has ended; None where the system has no such thing
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None

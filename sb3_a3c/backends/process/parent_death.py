"""
Ends a worker's process when the main process is gone, as Linux's ``PR_SET_PDEATHSIG`` does for the thread that forked it.

What is guaranteed, on Linux: however the main process has ended, and whatever this one is in (a step that never ends, or code
that holds the GIL), the system kills it at once, because it sends SIGKILL when the other end of a pipe is closed. What is
assumed: nobody writes to the pipe, and only the main process holds its other end. Elsewhere, and if a process that was forked
from the main one holds that end, the thread that reads messages notices the main process's end (:func:`open_pidfd`).
"""

import os
import signal
from multiprocessing.connection import Connection

try:
    import fcntl
except ImportError:  # Windows has no such module, and no worker processes
    fcntl = None  # type: ignore[assignment]


def exit_with_parent(pipe: Connection) -> None:
    """
    Have this process killed when the other end of a pipe is closed.

    :param pipe: This process's end
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if pipe.poll():  # it was closed before
        os._exit(1)


def open_pidfd(pid: int) -> int | None:
    """
    :param pid: Of a process that has not been waited for, or that can't end before :func:`exit_with_parent` was called
    :return: A file descriptor that can be read once it has ended. None if the system has no such thing
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None

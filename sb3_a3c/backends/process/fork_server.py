"""
The server that worker processes are forked from: started before it is needed, and again if it has ended.

multiprocessing keeps one server per program, and starts another when it finds that the server has ended. What it does not
find out: that the server has ended, if the program ignores SIGCHLD or waits for all child processes itself; that the
server is another process's, if this process was forked; that the server is just ending, because it was killed. Checked
against Python 3.11.
"""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import Any

from sb3_a3c.backends.process.guard import is_importing_the_script
from sb3_a3c.backends.process.installation import importing_the_same

try:
    from multiprocessing import forkserver
except ImportError:  # Windows has none
    forkserver = None  # type: ignore[assignment]

#: Loaded once, by the server that the workers are forked from, so that they share its pages.
_PRELOAD = ("sb3_a3c.backends.process.preloaded",)
#: Seconds within which a server that was killed has ended. Chosen arbitrarily.
_ENDS_WITHIN = 2.0


def prepare() -> None:
    """Start the server if none runs; it loads modules for some seconds."""
    if is_importing_the_script():
        return
    # It loads what the user wants it to, too; of no consequence if it already runs.
    wanted = getattr(_server(), "_preload_modules", [])
    multiprocessing.get_context("forkserver").set_forkserver_preload([*dict.fromkeys([*wanted, *_PRELOAD])])
    with suppress(OSError):  # it is tried again when there is a worker to start
        ensure_running()


def ensure_running() -> None:
    """
    Start the server if none runs.

    :raises OSError: if there can be no further process now
    """
    with importing_the_same():
        try:
            forkserver.ensure_running()
        except ChildProcessError:
            _forget()
            forkserver.ensure_running()


def recover() -> None:
    """Start another server if the one that did not start a process is ending, which may take a moment."""
    pid, deadline = _server()._forkserver_pid, time.monotonic() + _ENDS_WITHIN
    while _server()._forkserver_pid == pid and time.monotonic() < deadline:
        time.sleep(0.01)
        with suppress(OSError):
            ensure_running()


def kill() -> None:
    """Kill a server that does not answer. A start that waits for it fails then."""
    if _server() is not None and _server()._forkserver_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(_server()._forkserver_pid, signal.SIGKILL)


def _forget() -> None:
    server = _server()
    os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = server._forkserver_address = server._forkserver_pid = None


def _server() -> Any:
    return getattr(forkserver, "_forkserver", None)

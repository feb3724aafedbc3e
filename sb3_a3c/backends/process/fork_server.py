"""
The fork server, from which worker processes are forked: started before it is needed, and again if it has ended.

multiprocessing keeps one server per program, and starts another when it finds that the server has ended. It does not find
that out if the program ignores SIGCHLD or waits for all child processes itself, if this process was forked, so that the
server belongs to another process, or while the server is ending because it was killed. Checked against Python 3.11.
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

#: Modules that the server loads, so that the processes forked from it share their memory.
_PRELOAD = ("sb3_a3c.backends.process.preloaded",)
#: Seconds to wait for the end of a server that was killed. Chosen arbitrarily.
_ENDS_WITHIN = 2.0


def prepare() -> None:
    """Start the server if none runs. It loads modules for some seconds."""
    if is_importing_the_script():
        return
    # The user's modules are kept. This has no effect if the server already runs.
    wanted = getattr(_server(), "_preload_modules", [])
    multiprocessing.get_context("forkserver").set_forkserver_preload([*dict.fromkeys([*wanted, *_PRELOAD])])
    with suppress(OSError):  # it is tried again when a worker is started
        ensure_running()


def ensure_running() -> None:
    """
    Start the server if none runs.

    :raises OSError: if no further process can be started now
    """
    with importing_the_same():
        try:
            forkserver.ensure_running()
        except ChildProcessError:
            _forget()
            forkserver.ensure_running()


def recover() -> None:
    """The server has not started a process. If it is ending, which may take a moment, start another."""
    pid, deadline = _server()._forkserver_pid, time.monotonic() + _ENDS_WITHIN
    while _server()._forkserver_pid == pid and time.monotonic() < deadline:
        time.sleep(0.01)
        with suppress(OSError):
            ensure_running()


def kill() -> None:
    """Kill a server that does not answer, so that a start that waits for it fails."""
    if _server() is not None and _server()._forkserver_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(_server()._forkserver_pid, signal.SIGKILL)


def _forget() -> None:
    server = _server()
    os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = server._forkserver_address = server._forkserver_pid = None


def _server() -> Any:
    return getattr(forkserver, "_forkserver", None)

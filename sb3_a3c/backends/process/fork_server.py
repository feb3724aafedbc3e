"""
The fork server, from which worker processes are forked: started before it is needed, and again if it has ended.

multiprocessing keeps one server per program, and starts another when it finds that the server has ended. It does not find
that out if the program ignores SIGCHLD or waits for all child processes itself, if this process was forked, so that the
server belongs to another process, or while the server is ending because it was killed. It does not find out at all if the
folder with the server's socket was removed. Checked against Python 3.11.
"""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import Any

from sb3_a3c.backends.process.guard import is_importing_the_script
from sb3_a3c.backends.process.installation import importing_the_same
from sb3_a3c.system.thread_group import ThreadGroup

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
    with suppress(OSError, RuntimeError):  # it is tried again when a worker is started
        ensure_running()


def ensure_running() -> None:
    """
    Start the server if none runs, even if the call is interrupted.

    :raises OSError: if no further process can be started now
    """
    if _is_running():
        return
    starting = ThreadGroup({"A3C fork server's start": _start})
    try:
        starting.start()
        starting.join()
    finally:
        starting.join()


def is_cause(error: Exception) -> bool:
    """
    :param error: What the start of a process has raised
    :return: Whether to try again, because the server has ended or can't be reached, or because the new process died at once
    """
    return isinstance(error, ConnectionError | EOFError) or _has_lost_socket()


def recover(error: Exception) -> bool:
    """
    Start another server if this one has ended, which may take a moment, or if it can't be reached.

    :param error: What the start of a process has raised
    :return: Whether it has ended
    """
    pid, has_lost_socket = _server()._forkserver_pid, _has_lost_socket()
    has_ended = _is_replaced(pid) and not has_lost_socket
    if not has_ended and isinstance(error, ConnectionRefusedError):
        kill()
        _is_replaced(pid)
    return has_ended


def kill() -> None:
    """Kill a server that does not answer, so that a start that waits for it fails."""
    if _server() is not None and _server()._forkserver_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(_server()._forkserver_pid, signal.SIGKILL)


def _start() -> None:
    with importing_the_same():
        if _has_lost_socket():
            _forget()  # it ends by itself when all processes that were forked from it have ended
        _make_folder_again()
        try:
            forkserver.ensure_running()
        except ChildProcessError:
            _forget()
            forkserver.ensure_running()


def _is_replaced(pid: int | None) -> bool:
    """Whether a server ends, or has lost its socket, and another takes its place, within some time."""
    deadline = time.monotonic() + _ENDS_WITHIN
    while _server()._forkserver_pid == pid and time.monotonic() < deadline:
        time.sleep(0.01)
        with suppress(OSError):
            ensure_running()
    return _server()._forkserver_pid != pid


def _is_running() -> bool:
    """
    Whether the server runs and has its socket, as far as can be told: macOS has no ``waitid``, a process that was forked can't
    wait for the server, and the program may have waited for it. It is left to multiprocessing to wait for one that has ended.
    """
    pid = _server()._forkserver_pid
    if pid is None or _has_lost_socket():
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except (AttributeError, ChildProcessError):
        return False


def _has_lost_socket() -> bool:
    address = _server()._forkserver_address
    return address is not None and address.startswith("/") and not os.path.exists(address)


def _make_folder_again() -> None:
    """multiprocessing makes all sockets in one folder, which a program that cleans up temporary files may have removed."""
    folder = multiprocessing.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    if folder is not None:
        os.makedirs(folder, mode=0o700, exist_ok=True)


def _forget() -> None:
    server = _server()
    os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = server._forkserver_address = server._forkserver_pid = None


def _server() -> Any:
    return getattr(forkserver, "_forkserver", None)

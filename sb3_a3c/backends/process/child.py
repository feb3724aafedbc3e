"""One process of a worker, from its start to its end."""

import io
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sb3_a3c.backends.process.installation import Installation
from sb3_a3c.backends.process.lifeline import watch
from sb3_a3c.backends.process.parcel import Parcel
from sb3_a3c.backends.process.worker_process import live

#: Seconds that the fork server is given to tell how a process of it has ended. Chosen arbitrarily.
_TELL_WITHIN = 2.0


class Life:
    """
    A process, and the connections to it. It is started at once.

    :param context: Of multiprocessing, with the start method
    :param name: What the process is called
    :param parcel: What it is started with
    :param number: Which life of its worker this is, from 0
    :param others: The lives that go on meanwhile
    :raises OSError: if there can be no further process now
    :raises EOFError: if the fork server has ended in the middle of this
    """

    def __init__(self, context: Any, name: str, parcel: Parcel, number: int, others: Sequence["Life"]) -> None:
        #: Whether it has said that it is there; before that it does nothing.
        self.ready = False
        #: Whether it is right for it to end: it has said farewell, or we have ended it.
        self.parted = False
        #: Whether it has ended, and all that it had sent was read. (Of this there is a message, which an interrupt may drop.)
        self.gone = False
        #: Whether :meth:`end` has been called.
        self.ended = False
        #: How it has ended, None: this is not known.
        self.exit_code: int | None = None
        self.connection, theirs = socket.socketpair()
        their_lifeline, self._lifeline = context.Pipe(duplex=False)
        self._pidfd: io.FileIO | None = None  # which may be closed twice, as a number may not
        self._has_server = context.get_start_method() == "forkserver"
        forks = context.get_start_method() == "fork"
        not_ours = [end for life in (*others, self) for end in (life.connection, life._lifeline)] if forks else []
        arguments = theirs, their_lifeline, os.getpid(), parcel, number, not_ours, Installation.here()
        self._process = context.Process(target=live, args=arguments, name=name, daemon=True)
        try:
            self._process.start()
        except BaseException:
            self._close()  # if it has been started all the same, it finds its lifeline cut
            raise
        finally:
            theirs.close()
            their_lifeline.close()
        self.pid: int = self._process.pid
        # The process's own sentinel would be another process's, the fork server's, which may end before it.
        pidfd = watch(self.pid)
        self._pidfd = None if pidfd is None else io.FileIO(pidfd)
        self.sentinel: int = self._process.sentinel if pidfd is None else pidfd

    def kill(self) -> None:
        """End it; that it has ended is found by who reads its messages."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError, ValueError):  # it has ended, or was closed
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)
        else:
            self._process.kill()

    def join(self) -> None:
        """Find out how it has ended. To be called when it has."""
        # A fork server that is frozen tells nothing. Without one, this can't last.
        self._process.join(_TELL_WITHIN if self._has_server else None)

    def end(self) -> None:
        """Note that it has ended, and close what led to it; nobody listens to it any more."""
        with suppress(ValueError):  # it is closed already: this was interrupted, and is repeated
            self.exit_code = self._process.exitcode
            if self.exit_code is None:
                # SIGCHLD is ignored, or another part of the program has waited for it, so nobody can say how it has ended.
                # multiprocessing would take it for one that runs, and would end whatever has its number in the end.
                self._process._popen.returncode = 255
        self._close()
        self._process.close()
        self.ended = True

    def _close(self) -> None:
        self.connection.close()
        self._lifeline.close()
        if self._pidfd is not None:
            self._pidfd.close()

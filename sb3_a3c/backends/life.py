"""One process of a worker, from its start to its end."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sb3_a3c.backends.lifeline import watch
from sb3_a3c.backends.worker_process import live
from sb3_a3c.parcel import Parcel


class Life:
    """
    A process, and the pipes to it. It is started at once.

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
        #: Whether it has ended.
        self.ended = False
        self.exit_code: int | None = None
        self.connection, theirs = context.Pipe()
        their_lifeline, self._lifeline = context.Pipe(duplex=False)
        self._pidfd: int | None = None
        forks = context.get_start_method() == "fork"
        not_ours = [end for life in (*others, self) for end in (life.connection, life._lifeline)] if forks else []
        arguments = theirs, their_lifeline, os.getpid(), parcel, number, not_ours
        self._process = context.Process(target=live, args=arguments, name=name, daemon=True)
        try:
            self._process.start()
        except BaseException:
            self._close()  # if it has been started all the same, it finds its lifeline cut
            raise
        finally:
            theirs.close()
            their_lifeline.close()
        # The process's own sentinel would be another process's, the fork server's, which may end before it.
        self._pidfd = watch(self._process.pid)
        self.sentinel: int = self._process.sentinel if self._pidfd is None else self._pidfd

    def kill(self) -> None:
        """End it; that it has ended is found by who reads its messages."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            self._process.kill()

    def join(self) -> None:
        """Wait until it has ended."""
        self._process.join()

    def end(self) -> None:
        """Note that it has ended, and close what led to it; nobody listens to it any more."""
        self.ended = True
        self.exit_code = self._process.exitcode
        self._close()
        self._process.close()

    def _close(self) -> None:
        self.connection.close()
        self._lifeline.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

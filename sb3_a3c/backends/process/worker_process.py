"""
One process of a worker, from its start to its end, as the main process sees it.

What is guaranteed: the messages of a process arrive in their order and whole, and after all of them :class:`Exited`; a message
that was cut in two by the end of its process does not arrive. A thread per process reads them and another writes, where Ctrl-C
can't cut one in two. A process that is frozen in the middle of a message, or does not read, blocks only its own two threads,
until it is killed. The main thread never waits for a process: it puts messages into a queue, and takes them from another.
What a process needs is its first message, so one that dies or freezes before it has read it blocks nobody, either.
"""

import io
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import Any

from sb3_a3c.backends.process.channel import Channel
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.installation import Installation
from sb3_a3c.backends.process.messages import decode, encode
from sb3_a3c.backends.process.parcel import Parcel
from sb3_a3c.backends.process.parent_death import open_pidfd
from sb3_a3c.backends.process.worker_main import run_worker
from sb3_a3c.system.thread_group import ThreadGroup, call_in_thread

#: Seconds for the fork server to tell the exit code of a process. Chosen arbitrarily.
_EXIT_CODE_WITHIN = 2.0

#: The index of a worker, and a message of it.
Inbox = SimpleQueue[tuple[int, Any]]


@dataclass(frozen=True)
class Exited:
    """Put into the inbox by the main process itself: the process has exited, and all that it had sent has been read."""


class WorkerProcess:
    """
    It is started at once.

    :param context: Of multiprocessing, with the start method
    :param worker: Index of the worker
    :param parcel: What it is started with
    :param number: Which process of its worker this is, from 0
    :param others: Processes of other workers
    :param inbox: Where its messages go
    :raises OSError: if no further process can be started now
    :raises EOFError: if the fork server ended during the start
    """

    def __init__(
        self, context: Any, worker: int, parcel: Parcel, number: int, others: Sequence["WorkerProcess"], inbox: Inbox
    ) -> None:
        #: Whether it has said that it is ready; before that it does nothing.
        self.ready = False
        #: Whether it is meant to exit: it has sent its final state, or was killed because the run ends.
        self.may_exit = False
        #: Whether it has exited. (:class:`Exited` says so, too, but an interrupt may drop that message.)
        self.exited = False
        #: Whether :meth:`close` has been called.
        self.closed = False
        #: Its exit code, None: not known.
        self.exit_code: int | None = None
        self._worker = worker
        self._inbox = inbox
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._connection, theirs = socket.socketpair()
        try:
            their_pipe, self._pipe = context.Pipe(duplex=False)
        except OSError:
            self._connection.close()
            theirs.close()
            raise
        self._pidfd: io.FileIO | None = None  # which may be closed twice, unlike a number
        self._has_server = context.get_start_method() == "forkserver"
        forks = context.get_start_method() == "fork"
        not_theirs = [end for other in (*others, self) for end in (other._connection, other._pipe)] if forks else []
        name = f"A3C worker {worker}"
        arguments = theirs, their_pipe, os.getpid(), parcel.arguments(), number, not_theirs, Installation.here()
        self._process = context.Process(target=run_worker, args=arguments, name=name, daemon=True)
        try:
            self.send(parcel.message())
            self._process.start()
            self.pid: int = self._process.pid
            # The process's own sentinel would be a pipe to the fork server, which may end before it.
            pidfd = open_pidfd(self.pid)
            self._pidfd = None if pidfd is None else io.FileIO(pidfd)
            self._sentinel: int = self._process.sentinel if pidfd is None else pidfd
            self._channel = Channel(self._connection, self._sentinel)
            self._threads = ThreadGroup({f"{name}, reader": self._read, f"{name}, writer": self._write})
            self._threads.start()
        except BaseException:
            self._close_connections()  # which also ends a process that was started all the same
            raise
        finally:
            theirs.close()
            their_pipe.close()

    def send(self, message: Any) -> None:
        """
        Send a message, and do not wait until it is sent.

        :param message: The message. If the process has exited, it is dropped
        """
        self._outbox.put(encode(message))

    def kill(self) -> None:
        """End it at once. :class:`Exited` follows."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError, ValueError):  # it has exited, or was closed
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)
        else:
            self._process.kill()

    def close(self) -> None:
        """
        Release what it holds, after it has exited. May be called again, if it was interrupted. In the main thread, Ctrl-C
        could come within the close() of a class of multiprocessing, which would take a file for closed that is still open.
        """
        self._threads.join()
        call_in_thread(self._release)

    def _read(self) -> None:
        """Put all that it sends into the inbox, in a separate thread."""
        try:
            while True:
                self._inbox.put((self._worker, _decoded(self._channel.receive())))
        except (EOFError, OSError):
            pass
        except BaseException as error:  # memory is short
            self._inbox.put((self._worker, Failure.of(error)))
        finally:
            wait([self._sentinel])
            with suppress(OSError):  # wakes up the other thread, if another process holds the socket and does not read
                self._connection.shutdown(socket.SHUT_RDWR)
            self._outbox.put(None)
            # A frozen fork server tells no exit code. Without a fork server, this can't take long.
            self._process.join(_EXIT_CODE_WITHIN if self._has_server else None)
            self.exited = True
            self._inbox.put((self._worker, Exited()))

    def _write(self) -> None:
        """Send all that is in the outbox, in a separate thread."""
        while (content := self._outbox.get()) is not None:
            with suppress(OSError):  # nobody reads any more
                self._channel.send(content)

    def _release(self) -> None:
        if self.closed:
            return
        self.exit_code = self._process.exitcode
        if self.exit_code is None:
            # SIGCHLD is ignored, or another part of the program has waited for it, so nobody knows the exit code.
            # multiprocessing would take it for one that runs, and would kill whichever process gets its number.
            self._process._popen.returncode = 255
        self._close_connections()
        self._process.close()
        self.closed = True

    def _close_connections(self) -> None:
        self._connection.close()
        self._pipe.close()
        if self._pidfd is not None:
            self._pidfd.close()


def _decoded(content: bytearray) -> Any:
    try:
        return decode(content)
    except BaseException as error:  # unpickling may call anything
        return Failure.of(error)

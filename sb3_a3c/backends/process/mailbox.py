"""
All that worker processes send, in one queue, and all that they are sent.

What is guaranteed: the messages of a process come in their order and whole, and last of all that it has ended; one that
was cut in two by its end does not come. A thread reads and writes them, where Ctrl-C can't cut one in two. It never waits
for a single process, and neither does who sends a message: a process that is frozen in the middle of a message, or does
not read what it is sent, delays no other's.
"""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Self

from sb3_a3c.backends.process.channel import Line
from sb3_a3c.backends.process.child import Life
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.messages import decode
from sb3_a3c.system.thread_group import ThreadGroup


@dataclass(frozen=True)
class Ended:
    """Instead of a message: the process has ended, and all that it had sent was read."""


@dataclass
class _Sender:
    worker: int
    life: Life
    line: Line
    #: Whether more may come.
    is_open: bool = True


class Mailbox:
    """A context manager: it is open while it is entered."""

    def __init__(self) -> None:
        self._mail: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._senders: dict[Life, _Sender] = {}
        self._closing = False
        self._thread = ThreadGroup({"A3C workers' mail": self._serve})
        self._woken: socket.socket | None = None
        self._wake: socket.socket | None = None

    def __enter__(self) -> Self:
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop listening; to be called when all processes have ended. May be called again, if it was interrupted."""
        self._closing = True
        self._order(lambda: None)
        self._thread.join()
        for end in (self._woken, self._wake):
            if end is not None:
                end.close()

    def listen(self, worker: int, life: Life) -> None:
        """
        :param worker: Index of a worker
        :param life: A process of it, to be listened to until it has ended
        """
        self._order(partial(self._welcome, worker, life))

    def send(self, life: Life, content: bytes) -> None:
        """
        Send a message, and do not wait until it is sent.

        :param life: A process that is listened to. If it has ended, the message is dropped
        :param content: The message
        """
        self._order(partial(self._send, life, content))

    def empty(self) -> bool:
        """Whether nothing has come."""
        return self._mail.empty()

    def get(self, timeout: float) -> tuple[int, Any]:
        """
        :param timeout: Seconds to wait
        :return: The index of a worker, and a message of it
        :raises queue.Empty: if none comes
        """
        return self._mail.get(timeout=timeout)

    def _order(self, order: Callable[[], None]) -> None:
        """Let the thread do something."""
        self._orders.put(order)
        if self._wake is not None:
            with suppress(OSError):  # it is full, so the thread will wake up; or it was closed
                self._wake.send(b"!")

    def _serve(self) -> None:
        """In a thread of its own, as all that follows."""
        assert self._woken is not None
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing:
                for key, events in self._selector.select():
                    if key.data is None:
                        self._follow_orders()
                    elif key.fd == key.data.life.sentinel:
                        self._finish(key.data)
                    elif key.data.life in self._senders:  # and has not been finished just now
                        self._exchange(key.data, events)

    def _follow_orders(self) -> None:
        assert self._woken is not None
        self._woken.recv(1 << 16)
        with suppress(Empty):
            while True:
                self._orders.get_nowait()()

    def _welcome(self, worker: int, life: Life) -> None:
        sender = self._senders[life] = _Sender(worker, life, Line(life.connection))
        self._selector.register(life.connection, selectors.EVENT_READ, sender)
        self._selector.register(life.sentinel, selectors.EVENT_READ, sender)

    def _send(self, life: Life, content: bytes) -> None:
        sender = self._senders.get(life)
        if sender is not None and sender.is_open:
            sender.line.put(content)
            self._exchange(sender, selectors.EVENT_WRITE)

    def _exchange(self, sender: _Sender, events: int) -> None:
        """Send what a process takes now, and read a message of it if there is one."""
        if events & selectors.EVENT_WRITE:
            more = 0 if sender.line.flush() else selectors.EVENT_WRITE
            self._selector.modify(sender.life.connection, selectors.EVENT_READ | more, sender)
        if events & selectors.EVENT_READ:
            self._read_one(sender)

    def _read_one(self, sender: _Sender) -> bool:
        """Put one message into the queue; False: there is none now."""
        try:
            content = sender.line.receive()
        except Exception as error:
            sender.is_open = False
            self._selector.unregister(sender.life.connection)
            if not isinstance(error, EOFError):  # memory is short
                self._mail.put((sender.worker, Failure.of(error)))
            return False
        if content is not None:
            self._mail.put((sender.worker, _decoded(content)))
        return content is not None

    def _finish(self, sender: _Sender) -> None:
        """A process has ended. Since its messages were last looked at it may have sent more."""
        while sender.is_open and self._read_one(sender):
            pass
        if sender.is_open:
            self._selector.unregister(sender.life.connection)
        self._selector.unregister(sender.life.sentinel)
        del self._senders[sender.life]
        sender.life.join()
        sender.life.gone = True
        self._mail.put((sender.worker, Ended()))


def _decoded(content: bytearray) -> Any:
    try:
        return decode(content)
    except Exception as error:
        return Failure.of(error)

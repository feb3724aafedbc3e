"""
All that worker processes send, in one queue.

What is guaranteed: the messages of a process come in their order and whole, and last of all that it has ended; one that
was cut in two by its end does not come. They are read in a thread, where Ctrl-C can't cut one in two.
"""

import os
import selectors
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from sb3_a3c.backends.failures import Failure
from sb3_a3c.backends.life import Life
from sb3_a3c.backends.messages import decode


@dataclass(frozen=True)
class Ended:
    """Instead of a message: the process has ended, and all that it had sent was read."""


class Mailbox:
    """It is open from its making until it is closed."""

    def __init__(self) -> None:
        self._mail: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._newcomers: SimpleQueue[tuple[int, Life] | None] = SimpleQueue()
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._read, name="A3C workers' mail", daemon=True)
        self._thread.start()

    def listen(self, worker: int, life: Life) -> None:
        """
        :param worker: Index of a worker
        :param life: A process of it, to be listened to until it has ended
        """
        self._newcomers.put((worker, life))
        os.write(self._wake, b"!")

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

    def close(self) -> None:
        """Stop listening; to be called when all processes have ended."""
        self._newcomers.put(None)
        os.write(self._wake, b"!")
        self._thread.join()
        os.close(self._woken)
        os.close(self._wake)

    def _read(self) -> None:
        """In a thread of its own."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key for key, _ in selector.select()]
                with_mail = {id(key.data) for key in ready if key.data is not None and key.fileobj is key.data[1].connection}
                for key in ready:
                    if key.data is None:
                        if not self._welcome(selector):
                            return
                    elif (is_mail := key.fileobj is key.data[1].connection) or id(key.data) not in with_mail:
                        self._read_one(selector, key.data, is_mail)

    def _welcome(self, selector: selectors.BaseSelector) -> bool:
        """Listen to a newcomer, too; False: it is time to stop."""
        os.read(self._woken, 1)
        newcomer = self._newcomers.get()
        if newcomer is None:
            return False
        _, life = newcomer
        selector.register(life.connection, selectors.EVENT_READ, newcomer)
        selector.register(life.sentinel, selectors.EVENT_READ, newcomer)
        return True

    def _read_one(self, selector: selectors.BaseSelector, sender: tuple[int, Life], is_mail: bool) -> None:
        """Of a process that has sent something, or that has ended: since it was looked at it may have done both."""
        worker, life = sender
        message = _next_message(life) if is_mail or life.connection.poll() else Ended()
        if isinstance(message, Ended):
            selector.unregister(life.connection)
            selector.unregister(life.sentinel)
            life.join()
        self._mail.put((worker, message))


def _next_message(life: Life) -> Any:
    try:
        content = life.connection.recv_bytes()
    except (EOFError, OSError):
        return Ended()
    try:
        return decode(content)
    except Exception as error:
        return Failure.of(error)

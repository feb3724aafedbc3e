"""
Messages over a socket: whole, in order, and without blocking the main process.

A worker blocks while it sends or receives (:class:`Channel`). The main process never does (:class:`Line`): a worker that is
frozen in the middle of a message, or that does not read, keeps nobody waiting but itself.
"""

import socket
import struct
from collections import deque

#: Each message follows its length.
_HEADER = struct.Struct("!Q")
#: Bytes up to which a message is sent together with its header: copying so few is faster than a second system call.
_SHORT = 1 << 14


class Channel:
    """
    The worker's end.

    :param connection: A socket to the main process
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """File descriptor to wait for, for a message or for the other end's close."""
        return self._connection.fileno()

    def send(self, content: bytes) -> None:
        """
        :param content: A message
        :raises OSError: if nobody reads any more
        """
        header = _HEADER.pack(len(content))
        if len(content) <= _SHORT:
            self._connection.sendall(header + content)
        else:
            self._connection.sendall(header)
            self._connection.sendall(content)

    def receive(self) -> bytearray:
        """
        :return: The next message
        :raises EOFError: if there will be none
        :raises OSError: if the connection is broken
        """
        (length,) = _HEADER.unpack(self._receive(_HEADER.size))
        return self._receive(length)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def _receive(self, n_bytes: int) -> bytearray:
        content = bytearray(n_bytes)
        view = memoryview(content)
        while view:
            n_received = self._connection.recv_into(view)
            if n_received == 0:
                raise EOFError
            view = view[n_received:]
        return content


class Line:
    """
    The main process's end.

    :param connection: A socket to the worker. It becomes non-blocking
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._unsent: deque[memoryview] = deque()
        self._missing: memoryview
        self._begin(bytearray(_HEADER.size), is_header=True)

    def receive(self) -> bytearray | None:
        """
        :return: The next message, None: it is not complete yet
        :raises EOFError: if there will be none
        """
        while True:
            while self._missing:
                try:
                    n_received = self._connection.recv_into(self._missing)
                except BlockingIOError:
                    return None
                except OSError as error:
                    raise EOFError from error
                if n_received == 0:
                    raise EOFError
                self._missing = self._missing[n_received:]
            content, was_header = self._content, self._is_header
            if was_header:
                (length,) = _HEADER.unpack(content)
                self._begin(bytearray(length), is_header=False)
            else:
                self._begin(bytearray(_HEADER.size), is_header=True)
                return content

    def put(self, content: bytes) -> None:
        """
        :param content: A message to send. :meth:`flush` sends it
        """
        self._unsent += memoryview(_HEADER.pack(len(content))), memoryview(content)

    def flush(self) -> bool:
        """
        Send as much as the system takes now. What nobody will read is dropped.

        :return: Whether nothing is left to send
        """
        while self._unsent:
            try:
                n_sent = self._connection.send(self._unsent[0])
            except BlockingIOError:
                return False
            except OSError:
                self._unsent.clear()
                return True
            self._unsent[0] = self._unsent[0][n_sent:]
            if not self._unsent[0]:
                self._unsent.popleft()
        return True

    def _begin(self, content: bytearray, is_header: bool) -> None:
        """Read these bytes next."""
        self._content, self._is_header = content, is_header
        self._missing = memoryview(content)

"""
Messages between two processes, over a socket: whole, and in order.

Both ends block. What is guaranteed: :meth:`Channel.receive` ends when the other process has ended, even if a process that was
forked from it still holds the other end of the socket, because it waits for the other process's end, too.
"""

import socket
import struct
from multiprocessing.connection import wait
from typing import Any

#: Each message is preceded by its length.
_HEADER = struct.Struct("!Q")
#: Bytes up to which a message is sent together with its header: copying so few is faster than a second system call.
_SHORT = 1 << 14


class Channel:
    """
    One end. One thread at a time may send, and one may receive.

    :param connection: A socket to the other process
    :param sentinel: A file descriptor that can be read once the other process has ended, None: there is none
    """

    def __init__(self, connection: socket.socket, sentinel: int | None) -> None:
        self._connection = connection
        self._sources: list[Any] = [connection] if sentinel is None else [connection, sentinel]

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

    def _receive(self, n_bytes: int) -> bytearray:
        content = bytearray(n_bytes)
        view = memoryview(content)
        while view:
            if self._connection not in wait(self._sources):
                raise EOFError
            n_received = self._connection.recv_into(view)
            if n_received == 0:
                raise EOFError
            view = view[n_received:]
        return content

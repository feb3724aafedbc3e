"""
A message and a vector as parts that Ray sends with the call itself.

Ray sends an argument or a result of at most 100 kB with the call, and puts a larger one into its object store. The store costs
the driver, the actor and Ray's daemon about a millisecond each, so a vector is cut into parts. From about a megabyte on, the
copies cost more than the store.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Bytes of a part: somewhat less than Ray's ``max_direct_call_object_size``.
_LARGEST_PART = 96 * 1024
#: Bytes of the largest vector that is cut into parts.
LARGEST_VECTOR = 1 << 20
#: Bytes that are expected of a message. Larger ones are sent, too.
_MESSAGE = 16 * 1024
#: The last bytes of the content: how many of the vector there are, and its type.
_TRAILER = struct.Struct("<Q8s")


def count_parts(vector: np.ndarray) -> int:
    """
    :param vector: A vector of the size of those to be sent
    :return: The number of parts for it and its message
    """
    if vector.nbytes > LARGEST_VECTOR:
        return 1
    return -(-(vector.nbytes + _MESSAGE) // _LARGEST_PART)


def split(message: bytes, vector: np.ndarray | None, n_parts: int) -> list[Any]:
    """
    :param message: A message
    :param vector: What goes with it, of shape ``(size,)``. It is copied if it is cut. None: nothing
    :param n_parts: The number of parts. If the content is too large for them, it is in the last one
    :return: The parts
    """
    if vector is None:
        vector = np.empty(0, np.float32)
    if vector.nbytes > LARGEST_VECTOR:
        return [b""] * (n_parts - 1) + [(message, vector)]
    content = b"".join((vector.data, message, _TRAILER.pack(vector.nbytes, vector.dtype.str.encode())))
    size = -(-len(content) // n_parts)
    if size > _LARGEST_PART:
        return [b""] * (n_parts - 1) + [content]
    return [content[n * size : (n + 1) * size] for n in range(n_parts)]


def join(parts: Sequence[Any]) -> tuple[bytes | memoryview, np.ndarray | None]:
    """
    :param parts: What :func:`split` returned
    :return: The message and the vector, which can't be written
    """
    if isinstance(parts[-1], tuple):
        return parts[-1]
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    n_bytes, name = _TRAILER.unpack(content[-_TRAILER.size :])
    view = memoryview(content)
    vector = np.frombuffer(view[:n_bytes], np.dtype(name.rstrip(b"\0").decode())) if n_bytes else None
    return view[n_bytes : -_TRAILER.size], vector

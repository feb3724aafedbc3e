"""torch's own threads, while many workers compute in the caller's thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def one_torch_thread(n_workers: int) -> Iterator[None]:
    """
    As in the workers' own threads: the last bits of a sum depend on it. One worker is A2C, which leaves them as they are.

    :param n_workers: How many workers there are
    """
    n_threads = th.get_num_threads()
    if n_workers > 1:
        th.set_num_threads(1)
    try:
        yield
    finally:
        if n_workers > 1:
            th.set_num_threads(n_threads)

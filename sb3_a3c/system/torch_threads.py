"""torch's own threads: one while several workers compute in the caller's thread, and one in a process that was forked."""

import os

import torch as th

try:
    from multiprocessing.forkserver import get_inherited_fds
except ImportError:  # Windows has no fork server, and no fork
    get_inherited_fds = lambda: None  # type: ignore[assignment]  # noqa: E731

#: The process that has imported this: another one was forked from it.
_IMPORTED_IN = os.getpid()


def survive_fork() -> None:
    """
    Let torch compute with one thread in a process that was forked from one in which torch may have computed (a
    ``ProcessPoolExecutor``'s, for instance). A fork does not copy torch's threads, and torch would wait for them for ever. The
    fork server has not computed with torch, so nothing is changed in its processes.
    """
    if os.getpid() != _IMPORTED_IN and get_inherited_fds() is None and th.get_num_threads() > 1:
        th.set_num_threads(1)


class OneTorchThread:
    """
    While it is entered, torch computes with one thread, as it does in the workers' own threads: the last bits of a sum depend
    on it. A single worker is A2C, which leaves torch's threads as they are.

    :param n_workers: How many workers there are
    """

    def __init__(self, n_workers: int) -> None:
        self._several = n_workers > 1
        self._n_threads = 0

    def __enter__(self) -> None:
        if self._several:
            self._n_threads = th.get_num_threads()
            th.set_num_threads(1)

    def __exit__(self, *exc_info: object) -> None:
        """Put the user's number of threads back. May be called again, if it was interrupted."""
        if self._n_threads > 0:
            th.set_num_threads(self._n_threads)
            self._n_threads = 0

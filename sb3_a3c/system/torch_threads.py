"""The number of torch's threads: one while several workers compute in the caller's thread, and one in a forked process."""

import os

import torch as th

try:
    from multiprocessing.forkserver import get_inherited_fds
except ImportError:  # Windows has no fork server, and no fork
    get_inherited_fds = lambda: None  # type: ignore[assignment]  # noqa: E731

#: The process that imported this module. Another process was forked from it.
_IMPORTED_IN = os.getpid()


def survive_fork() -> None:
    """
    Set torch to one thread if this process was forked from one in which torch may have computed (in a ``ProcessPoolExecutor``,
    for instance). A fork does not copy torch's threads, and torch would wait for them forever. Processes of the fork server
    are left alone, because it has not computed with torch.
    """
    if os.getpid() != _IMPORTED_IN and get_inherited_fds() is None and th.get_num_threads() > 1:
        th.set_num_threads(1)


class OneTorchThread:
    """
    A context manager within which torch computes with one thread, as it does in workers' threads: the last bits of a sum
    depend on it. With a single worker nothing is changed, as in A2C.

    :param n_workers: The number of workers
    """

    def __init__(self, n_workers: int) -> None:
        self._several = n_workers > 1
        self._n_threads = 0

    def __enter__(self) -> None:
        if self._several:
            self._n_threads = th.get_num_threads()
            th.set_num_threads(1)

    def __exit__(self, *exc_info: object) -> None:
        """Restore the user's number of threads. May be called again, if it was interrupted."""
        if self._n_threads > 0:
            th.set_num_threads(self._n_threads)
            self._n_threads = 0

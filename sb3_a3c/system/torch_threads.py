"""
The number of torch's threads: one while several workers compute in the caller's thread, and one in a forked process.

torch keeps a number for each thread. A new thread begins with the number that any thread has set last.
"""

import os
from functools import partial

import torch as th

try:
    from multiprocessing.forkserver import get_inherited_fds
except ImportError:  # Windows has no fork server, and no fork
    get_inherited_fds = lambda: None  # type: ignore[assignment]  # noqa: E731

from sb3_a3c.system.locks import ThreadLock
from sb3_a3c.system.thread_group import call_in_thread

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


#: The runs that are within :class:`TorchThreadsOfOthers`, and the number that new threads began with before the first one.
_RUNS: set["TorchThreadsOfOthers"] = set()
_LOCK = ThreadLock()
_before_all = 0


class TorchThreadsOfOthers:
    """
    A context manager for a run that sets the number of torch's threads. After it, threads that the user starts begin with the
    number that they would have begun with before, however many runs there were at the same time.
    """

    def __init__(self) -> None:
        self._n_threads = 0

    def __enter__(self) -> None:
        global _before_all
        self._n_threads = th.get_num_threads()
        with _LOCK:
            if not _RUNS:
                _before_all = call_in_thread(th.get_num_threads)
            _RUNS.add(self)

    def __exit__(self, *exc_info: object) -> None:
        """May be called again, if it was interrupted."""
        _LOCK.free()
        if self in _RUNS:
            n_threads = th.get_num_threads()  # which a callback may have set
            call_in_thread(partial(th.set_num_threads, _before_all if n_threads == self._n_threads else n_threads))
            _RUNS.discard(self)


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

"""torch's own threads, while several workers compute in the caller's thread."""

import torch as th


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

"""Where workers note what they pull and push, for who would replay a run."""

from array import array

import torch as th

from sb3_a3c.system.memory import Memory


class Recorder:
    """
    Notes of one run, in memory that worker processes see too: of each worker, its latest updates, as many as there can be
    before :meth:`read` is called again. No two workers write the same number, so there is no lock.

    :param n_workers: How many workers there are
    :param n_rollouts: How many rollouts a worker may begin between two calls of :meth:`read`
    """

    def __init__(self, n_workers: int, n_rollouts: int) -> None:
        self._last_pulls = Memory(th.full((n_workers,), -1, dtype=th.int64))
        self._n_pushed = Memory(th.zeros(n_workers, dtype=th.int64))
        #: The latest updates: for each worker, rows with the version that was pulled and the one that was made.
        self._latest = Memory(th.zeros(n_workers * n_rollouts * 2, dtype=th.int64))
        self._n_rows = n_rollouts
        self._n_read = [0] * n_workers
        self._workers, self._pulls, self._pushes = array("H"), array("Q"), array("Q")
        for memory in (self._last_pulls, self._n_pushed, self._latest):
            memory.share()

    def pulled(self, worker: int, version: int) -> None:
        """
        :param worker: Index of a worker
        :param version: The version that it has pulled
        """
        self._last_pulls.array[worker] = version

    def pushed(self, worker: int, version: int) -> None:
        """
        :param worker: Index of a worker
        :param version: The version that its update has made
        """
        n_pushed, latest = self._n_pushed.array, self._latest.array
        row = self._row(worker, int(n_pushed[worker]))
        latest[row] = self._last_pulls.array[worker]
        latest[row + 1] = version
        n_pushed[worker] += 1  # last of all: from now on it is read

    def last_pull(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: The version that it has pulled last
        """
        return int(self._last_pulls.array[worker])

    def read(self) -> None:
        """Take over what workers have noted since the last call."""
        latest = self._latest.array
        for worker, n_pushed in enumerate(self._n_pushed.array.tolist()):
            for index in range(self._n_read[worker], n_pushed):
                row = self._row(worker, index)
                self._workers.append(worker)
                self._pulls.append(int(latest[row]))
                self._pushes.append(int(latest[row + 1]))
            self._n_read[worker] = n_pushed

    def updates(self) -> tuple[list[int], list[int]]:
        """
        :return: For each update that was read, in their order, the worker, and the version that it had pulled
        """
        order = sorted(range(len(self._pushes)), key=self._pushes.__getitem__)
        # One is missing where Ctrl-C came between a push and its note. What came after it can't be replayed.
        whole = [index for version, index in enumerate(order, 1) if self._pushes[index] == version]
        return [self._workers[index] for index in whole], [self._pulls[index] for index in whole]

    def _row(self, worker: int, index: int) -> int:
        return (worker * self._n_rows + index % self._n_rows) * 2

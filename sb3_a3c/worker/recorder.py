"""Records what workers pull and push, so that a run can be replayed."""

from array import array

import torch as th

from sb3_a3c.system.memory import Memory


class Recorder:
    """
    The latest updates of each worker, in memory shared with worker processes. There is room for all updates between two
    calls of :meth:`read`. No two workers write the same number, so no lock is needed.

    :param n_workers: Number of workers
    :param n_rollouts: Number of rollouts that a worker may begin between two calls of :meth:`read`
    """

    def __init__(self, n_workers: int, n_rollouts: int) -> None:
        self._last_pulls = Memory(th.full((n_workers,), -1, dtype=th.int64, device="cpu"))
        self._n_pushed = Memory(th.zeros(n_workers, dtype=th.int64, device="cpu"))
        #: The latest updates: for each worker, rows of the version that was pulled and the version that was made.
        self._latest = Memory(th.zeros(n_workers * n_rollouts * 2, dtype=th.int64, device="cpu"))
        self._n_rows = n_rollouts
        self._n_read = [0] * n_workers
        self._workers, self._pulls, self._pushes = array("H"), array("Q"), array("Q")
        for memory in (self._last_pulls, self._n_pushed, self._latest):
            memory.share()

    def pulled(self, worker: int, version: int) -> None:
        """
        :param worker: Index of a worker
        :param version: The version that it pulled
        """
        self._last_pulls.array[worker] = version

    def pushed(self, worker: int, version: int) -> None:
        """
        :param worker: Index of a worker
        :param version: The version that its update made
        """
        n_pushed, latest = self._n_pushed.array, self._latest.array
        row = self._row(worker, int(n_pushed[worker]))
        latest[row] = self._last_pulls.array[worker]
        latest[row + 1] = version
        n_pushed[worker] += 1  # at the end, since read() reads the row from now on

    def last_pull(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: The version that it pulled last
        """
        return int(self._last_pulls.array[worker])

    def read(self) -> None:
        """Read what workers have written since the last call."""
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
        :return: For all updates in order, the worker, and the version that it had pulled
        """
        order = sorted(range(len(self._pushes)), key=self._pushes.__getitem__)
        # An update is missing if Ctrl-C came between a push and its record. Later updates can't be replayed.
        whole = [index for version, index in enumerate(order, 1) if self._pushes[index] == version]
        return [self._workers[index] for index in whole], [self._pulls[index] for index in whole]

    def _row(self, worker: int, index: int) -> int:
        return (worker * self._n_rows + index % self._n_rows) * 2

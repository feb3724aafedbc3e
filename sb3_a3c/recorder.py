"""Where workers note what they pull and push, for who would replay a run."""

import torch as th

from sb3_a3c.memory import Memory

_NOT_YET = -1


class Recorder:
    """
    Notes of one run, in memory that worker processes see too. No two workers write the same number, so there is no lock.

    :param n_workers: How many workers there are
    :param n_updates: How many updates they make
    """

    def __init__(self, n_workers: int, n_updates: int) -> None:
        self._last_pulls = Memory(th.full((n_workers,), _NOT_YET, dtype=th.int64))
        self._workers = Memory(th.full((n_updates,), _NOT_YET, dtype=th.int64))
        self._pulls = Memory(th.full((n_updates,), _NOT_YET, dtype=th.int64))
        for memory in (self._last_pulls, self._workers, self._pulls):
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
        if version <= len(self._workers.array):  # there are more where a worker has died, which is not replayed
            self._pulls.array[version - 1] = self._last_pulls.array[worker]
            self._workers.array[version - 1] = worker

    def last_pull(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: The version that it has pulled last
        """
        return int(self._last_pulls.array[worker])

    def updates(self, n_updates: int) -> tuple[list[int], list[int]]:
        """
        :param n_updates: How many have been made
        :return: For each, in their order, the worker, and the version that it had pulled
        """
        workers, pulls = self._workers.array[:n_updates].tolist(), self._pulls.array[:n_updates].tolist()
        if _NOT_YET in workers:  # Ctrl-C has come between a push and its note
            n_updates = workers.index(_NOT_YET)
        return workers[:n_updates], pulls[:n_updates]

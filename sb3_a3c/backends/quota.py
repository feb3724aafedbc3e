"""Who may begin how many rollouts, so that the length of a run is a count and not a race."""

from collections.abc import Sequence
from typing import Literal

import torch as th

from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.system.locks import Lock, ThreadLock
from sb3_a3c.system.memory import Memory
from sb3_a3c.worker.spec import WorkerSpec

RolloutOrder = Literal["env", "arrival"]


class Quota:
    """
    The rollouts of one run, divided among the workers. In order "env" each worker has its own. In order "arrival" workers with
    the same number of environments share theirs, so the fast ones make more, and the number of steps stays the same.

    :param specs: One specification per worker
    :param n_rollouts: How many rollouts of all environments the run has
    :param rollout_order: "env" or "arrival"
    """

    def __init__(self, specs: Sequence[WorkerSpec], n_rollouts: int, rollout_order: RolloutOrder) -> None:
        self._keys = [len(spec.env_indices) if rollout_order == "arrival" else spec.index for spec in specs]
        #: For each worker, those that share a quota with it, itself included.
        self._sharers = [[index for index, other in enumerate(self._keys) if other == key] for key in self._keys]
        self._n_rollouts = n_rollouts
        self._taken = Memory(th.zeros(len(specs), dtype=th.int64, device="cpu"))
        self._lock: Lock = ThreadLock()

    def share_memory(self) -> FileLock:
        """
        Move the counts to memory that worker processes can see. To be called before these start.

        :return: The lock that they take
        """
        self._taken.share()
        self._lock = lock = FileLock()
        return lock

    def key(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: The same for all workers that share a quota
        """
        return self._keys[worker]

    def take(self, worker: int) -> bool:
        """
        :param worker: Index of a worker that is about to begin a rollout
        :return: Whether it may. If so, the rollout has been counted
        """
        if len(self._sharers[worker]) == 1:
            return self._take(worker)  # nobody else takes from it, and nobody gives back while the worker lives
        with self._lock:
            return self._take(worker)

    def is_exhausted(self, worker: int) -> bool:
        """
        :param worker: Index of a worker
        :return: Whether all rollouts that it may begin have been begun, by it or by others
        """
        sharers = self._sharers[worker]
        if len(sharers) == 1:
            return int(self._taken.array[worker]) >= self._n_rollouts
        return sum(self._taken.array[sharers].tolist()) >= self._n_rollouts * len(sharers)

    def taken(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: How many rollouts it has begun
        """
        return int(self._taken.array[worker])

    def give_back(self, worker: int, n_rollouts: int) -> None:
        """
        Allow rollouts that a worker began, and that never arrived, to be begun again.

        :param worker: Index of a worker that has no process now
        :param n_rollouts: How many of its rollouts have arrived
        """
        with self._lock:
            self._taken.array[worker] = n_rollouts

    def free(self) -> None:
        """Release the lock if the caller still holds it, see :meth:`~sb3_a3c.system.locks.Lock.free`."""
        self._lock.free()

    def _take(self, worker: int) -> bool:
        if self.is_exhausted(worker):
            return False
        self._taken.array[worker] += 1  # one store: a process that is killed has either taken one or not
        return True

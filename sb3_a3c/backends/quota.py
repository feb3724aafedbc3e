"""Who may begin how many rollouts, so that a run's length is a count and not a race."""

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
    The rollouts of one run, divided among the workers: in order "env" each has its own; in order "arrival" those with
    equally many environments share, so that the fast ones do more, and the sum of steps stays the same.

    :param specs: What the workers are made of
    :param n_rollouts: How many rollouts of all environments the run has
    :param rollout_order: "env" or "arrival"
    """

    def __init__(self, specs: Sequence[WorkerSpec], n_rollouts: int, rollout_order: RolloutOrder) -> None:
        self._keys = [len(spec.env_indices) if rollout_order == "arrival" else spec.index for spec in specs]
        #: Whose rollouts count as one.
        self._mates = [[mate for mate, other in enumerate(self._keys) if other == key] for key in self._keys]
        self._n_rollouts = n_rollouts
        self._taken = Memory(th.zeros(len(specs), dtype=th.int64))
        self._lock: Lock = ThreadLock()

    def share_memory(self) -> FileLock:
        """
        Move it to memory that worker processes see too. To be called before there are any.

        :return: The lock that they take
        """
        self._taken.share()
        self._lock = lock = FileLock()
        return lock

    def key(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: Whose rollouts stand in for its own: an equal key's
        """
        return self._keys[worker]

    def take(self, worker: int) -> bool:
        """
        :param worker: Index of a worker that would begin a rollout
        :return: Whether it may, and if so, it has been counted
        """
        with self._lock:
            if self.is_exhausted(worker):
                return False
            self._taken.array[worker] += 1  # one store, so whoever is killed has taken one or has not
            return True

    def is_exhausted(self, worker: int) -> bool:
        """
        :param worker: Index of a worker
        :return: Whether all rollouts that it may begin have been begun, by it or by others
        """
        mates = self._mates[worker]
        return sum(self._taken.array[mates].tolist()) >= self._n_rollouts * len(mates)

    def taken(self, worker: int) -> int:
        """
        :param worker: Index of a worker
        :return: Rollouts that it has begun
        """
        return int(self._taken.array[worker])

    def give_back(self, worker: int, n_rollouts: int) -> None:
        """
        Let those that a worker had begun, and that never came, be begun again.

        :param worker: Index of a worker that has no process now
        :param n_rollouts: Rollouts that have come from it
        """
        with self._lock:
            self._taken.array[worker] = n_rollouts

    def free(self) -> None:
        """Release the lock if the caller still holds it, see :meth:`~sb3_a3c.system.locks.Lock.free`."""
        self._lock.free()

"""Who may begin how many rollouts, so that a run's length is a count and not a race."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch as th

from sb3_a3c.file_lock import FileLock, Lock
from sb3_a3c.memory import Memory
from sb3_a3c.worker_spec import WorkerSpec

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
        self._keys = [spec.env.num_envs if rollout_order == "arrival" else spec.index for spec in specs]
        counts = Counter(self._keys)
        self._places = {key: place for place, key in enumerate(counts)}
        self._left = Memory(th.tensor([n_rollouts * n_workers for n_workers in counts.values()]))
        self._lock: Lock = threading.Lock()

    def share_memory(self) -> None:
        """Move it to memory that worker processes see too. To be called before there are any."""
        self._left.share()
        self._lock = FileLock()

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
        place = self._places[self._keys[worker]]
        self._lock.acquire()
        try:
            left = int(self._left.array[place])
            self._left.array[place] = max(left - 1, 0)
            return left > 0
        finally:
            self._lock.release()

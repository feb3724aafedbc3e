"""Who may begin how many rollouts, so that a run's length is a count and not a race."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from sb3_a3c.worker import Worker

RolloutOrder = Literal["env", "arrival"]


class Quota:
    """
    The rollouts of one run, divided among the workers: in order "env" each has its own; in order "arrival" those with
    equally many environments share, so that the fast ones do more, and the sum of steps stays the same.

    :param workers: The workers
    :param n_rollouts: How many rollouts of all environments the run has
    :param rollout_order: "env" or "arrival"
    """

    def __init__(self, workers: Sequence[Worker], n_rollouts: int, rollout_order: RolloutOrder) -> None:
        self._by_width = rollout_order == "arrival"
        self._left = Counter({key: n_rollouts * n for key, n in Counter(map(self.key, workers)).items()})
        self._lock = threading.Lock()

    def key(self, worker: Worker) -> int:
        """
        :param worker: A worker
        :return: Whose rollouts stand in for its own: an equal key's
        """
        return worker.env.num_envs if self._by_width else worker.index

    def take(self, worker: Worker) -> bool:
        """
        :param worker: A worker that would begin a rollout
        :return: Whether it may, and if so, it has been counted
        """
        key = self.key(worker)
        with self._lock:
            if self._left[key] == 0:
                return False
            self._left[key] -= 1
            return True

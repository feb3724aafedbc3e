"""How far workers may be ahead of the main thread: rollouts that wait for callbacks take memory."""

import sys
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import StackedObservations

from sb3_a3c.worker.rollout import Rollout, States, Steps


@dataclass(frozen=True)
class MaxLead:
    """
    How far one worker may be ahead. One rollout is always allowed.

    :param n_rollouts: In rollouts
    :param n_bytes: In bytes of rollouts
    """

    n_rollouts: int
    n_bytes: int

    def of(self, rollout: Rollout) -> int:
        """
        :param rollout: The first rollout of a worker
        :return: How many rollouts like this one the worker may be ahead, in addition to the one that is always allowed
        """
        return min(self.n_rollouts, max(0, self.n_bytes // n_bytes(rollout) - 1))


def n_bytes(rollout: Rollout) -> int:
    """
    :param rollout: A rollout as the main thread receives it
    :return: The approximate memory that it takes
    """
    return _n_bytes(rollout, set())


def _n_bytes(value: Any, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if hasattr(value, "nbytes"):  # an array or a tensor
        return int(value.nbytes)
    if isinstance(value, States | Steps | RolloutBuffer | StackedObservations):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    size = sys.getsizeof(value)
    return size + sum(_n_bytes(part, seen) for part in value) if isinstance(value, list | tuple) else size

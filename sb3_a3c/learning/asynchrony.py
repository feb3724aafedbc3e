"""Metrics of asynchrony: staleness of gradients and waiting times, averaged between two logs."""

from collections.abc import Sequence

from stable_baselines3.common.logger import Logger

from sb3_a3c.worker.rollout import Rollout


class Asynchrony:
    """Sums over rollouts. :meth:`record` records their means."""

    def __init__(self) -> None:
        self._n_rollouts = 0
        self._staleness = 0
        self._staleness_max = 0
        self._lock_fractions = 0.0
        self._idle_fractions = 0.0

    def count(self, rollouts: Sequence[Rollout]) -> None:
        """
        :param rollouts: Rollouts to count
        """
        for rollout in rollouts:
            seconds = rollout.idle_seconds + rollout.seconds
            self._n_rollouts += 1
            self._staleness += rollout.staleness
            self._staleness_max = max(self._staleness_max, rollout.staleness)
            if seconds > 0:  # it is 0 if the clock is frozen
                self._lock_fractions += rollout.lock_seconds / seconds
                self._idle_fractions += rollout.idle_seconds / seconds

    def record(self, logger: Logger) -> None:
        """
        :param logger: The logger that gets the means and the maximum staleness
        """
        logger.record("async/staleness_mean", self._staleness / self._n_rollouts)
        logger.record("async/staleness_max", self._staleness_max)
        logger.record("async/lock_wait_fraction", self._lock_fractions / self._n_rollouts)
        logger.record("async/main_wait_fraction", self._idle_fractions / self._n_rollouts)

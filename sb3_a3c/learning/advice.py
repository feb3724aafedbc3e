"""Advice on the number of workers, from times that the run itself has measured."""

import warnings
from collections.abc import Sequence

from stable_baselines3.common.logger import Logger

from sb3_a3c.system.cores import usable_cores
from sb3_a3c.worker.rollout import Rollout

#: Seconds of each worker that are left out, in which code is loaded and caches are filled, and seconds of each worker that are
#: then measured: about two seconds of a run, in which one rollout in eight is measured. Chosen arbitrarily.
_WARM_UP, _MEASURED = 1.0, 0.25
#: The share of the cores above which workers count as busy.
_BUSY = 0.8
#: Speed-ups that are worth a log line and a warning.
_WORTH_A_LINE, _WORTH_A_WARNING = 1.1, 1.5


class Advice:
    """
    If environments are fast, many workers on few cores only take turns. Fewer workers with more environments each compute the
    actions of all their environments together. What that would save is processor time outside of the environments, which is
    measured: with ``k`` times as many environments per worker, it is spent once where it was spent ``k`` times.

    :param n_workers: The number of workers
    :param n_cores: How many cores they can keep busy, None: it is not known, and there is no advice
    :param logger: Where a line of the log goes, None: nowhere
    """

    def __init__(self, n_workers: int, n_cores: int | None, logger: Logger | None) -> None:
        self._n_workers, self._n_fewer = n_workers, usable_cores()
        self._n_cores = n_cores or 0
        self._logger = logger
        self._seconds = self._env_seconds = self._cpu_seconds = 0.0
        self._left_out = 0.0
        #: Whether there is nothing more to measure.
        self.is_given = n_cores is None or n_workers <= self._n_fewer

    def count(self, rollouts: Sequence[Rollout]) -> None:
        """
        Measure rollouts. When there are enough, the advice is given, once.

        :param rollouts: Rollouts of several workers
        """
        if self.is_given:
            return
        for rollout in rollouts:
            if self._left_out < _WARM_UP * self._n_workers:
                self._left_out += rollout.idle_seconds + rollout.seconds
                continue
            if rollout.cpu_seconds > 0.0:  # it was measured
                self._seconds += rollout.idle_seconds + rollout.seconds
                self._env_seconds += rollout.env_seconds
                self._cpu_seconds += rollout.cpu_seconds
        if self._seconds >= _MEASURED * self._n_workers:
            self.is_given = True
            self._give()

    def _give(self) -> None:
        n_busy = self._n_workers * self._cpu_seconds / self._seconds
        if n_busy < _BUSY * self._n_cores:  # they wait for environments or for the main thread
            return
        outside = max(0.0, 1.0 - self._env_seconds / self._cpu_seconds)
        factor = 1.0 / (1.0 - outside + outside * self._n_fewer / self._n_workers)
        text = (
            f"n_workers={self._n_workers} is slow here: workers keep {n_busy:.1f} core(s) busy, {outside:.0%} of that time "
            f"outside of the environments. With n_workers={self._n_fewer}, whose workers compute the actions of several "
            f"environments together, this run would make about {factor:.1f} times as many steps per second"
        )
        if factor >= _WORTH_A_WARNING:
            warnings.warn(text, stacklevel=2)
        elif factor >= _WORTH_A_LINE and self._logger is not None:
            self._logger.info(text)

"""Callbacks that log and draw: the moving average of returns, the returns of each worker, the staleness of gradients."""

import time
import warnings
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_a3c.system.extras import require


class MovingAverageCallback(BaseCallback):
    """
    Log the moving average of episode returns as ``rollout/moving_average``, and draw it.

    :param path: The picture to write when learning ends. Its suffix determines the format. None: no picture
    :param smoothing: Weight of the old average, at least 0 and below 1. The weight of the new return is ``1 - smoothing``
    :param seconds: Seconds between two updates of the picture while the model learns, None: no updates
    :param verbose: 1: print one line per episode
    :raises ValueError: if an argument is not allowed
    :raises MissingExtra: if a picture is asked for and matplotlib is not installed
    """

    def __init__(
        self, path: str | Path | None = None, smoothing: float = 0.9, seconds: float | None = 10.0, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, but it is {smoothing!r}")
        if not (seconds is None or seconds > 0):
            raise ValueError(f"seconds must be None or above 0, but it is {seconds!r}")
        if path is not None:
            require("extra", "MovingAverageCallback with a path", "matplotlib")
        self.path = None if path is None else Path(path)
        self.smoothing = smoothing
        self.seconds = seconds
        #: The return of each episode.
        self.returns: list[float] = []
        #: The moving average after each episode.
        self.averages: list[float] = []

    def _on_training_start(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drawn = time.monotonic()

    def _on_step(self) -> bool:
        for worker, episode_return in _episode_returns(self):
            old = self.averages[-1] if self.averages else episode_return
            average = self.smoothing * old + (1 - self.smoothing) * episode_return
            self.returns.append(episode_return)
            self.averages.append(average)
            self.logger.record("rollout/moving_average", average)
            if self.verbose:
                print(
                    f"episode {len(self.returns)}, worker {worker}: return {episode_return:.0f}, moving average {average:.0f}"
                )
        return True

    def _on_rollout_end(self) -> None:
        if self.seconds is not None and time.monotonic() - self._drawn > self.seconds:
            self._draw()
            self._drawn = time.monotonic()

    def _on_training_end(self) -> None:
        self._draw()
        if not self.returns:
            warnings.warn("no episode has ended, or the environments have no Monitor that reports returns", stacklevel=2)

    def _draw(self) -> None:
        if self.path is None:
            return
        from matplotlib.figure import Figure  # slow to import

        figure = Figure(figsize=(7, 4), layout="constrained")
        axis = figure.subplots()
        episodes = np.arange(1, len(self.returns) + 1)
        axis.plot(episodes, self.returns, ".", markersize=3, alpha=0.5, label="episode")
        axis.plot(episodes, self.averages, label=f"moving average (smoothing {self.smoothing:g})")
        axis.set_xlabel("episodes")
        axis.set_ylabel("return")
        axis.legend(loc="best")
        axis.grid(alpha=0.3)
        figure.savefig(self.path, dpi=100)


class WorkerReturnsCallback(BaseCallback):
    """
    Log the mean return of each worker as ``worker_0/ep_rew_mean`` and so on.

    :param window_size: The number of a worker's last episodes to average
    """

    def __init__(self, window_size: int = 100) -> None:
        super().__init__()
        _check_window_size(window_size)
        #: The last returns of each worker.
        self.returns: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=window_size))

    def _on_step(self) -> bool:
        for worker, episode_return in _episode_returns(self):
            self.returns[worker].append(episode_return)
        return True

    def _on_rollout_end(self) -> None:
        for worker, returns in self.returns.items():
            self.logger.record(f"worker_{worker}/ep_rew_mean", sum(returns) / len(returns))


class StalenessCallback(BaseCallback):
    """
    Write a histogram of staleness, ``async/staleness``, to TensorBoard. The staleness of a rollout is the number of updates
    that other workers made between its pull and its push.

    :param window_size: The number of last rollouts in the histogram
    """

    def __init__(self, window_size: int = 1_000) -> None:
        super().__init__()
        _check_window_size(window_size)
        #: The staleness of each of the last rollouts.
        self.staleness: deque[int] = deque(maxlen=window_size)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.staleness.extend(self.locals.get("staleness", [0]))  # the gradients of other algorithms are never stale
        histogram = th.tensor(self.staleness, dtype=th.float32)
        self.logger.record("async/staleness", histogram, exclude=("stdout", "log", "json", "csv"))


def _check_window_size(window_size: int) -> None:
    if window_size < 1:
        raise ValueError(f"window_size must be at least 1, but it is {window_size!r}")


def _episode_returns(callback: BaseCallback) -> Iterator[tuple[int, float]]:
    """Workers whose episodes ended at this step, and the returns. Another algorithm counts as one worker."""
    infos = callback.locals["infos"]
    for worker, info in zip(callback.locals.get("worker_indices", [0] * len(infos)), infos, strict=True):
        if "episode" in info:
            yield int(worker), float(info["episode"]["r"])

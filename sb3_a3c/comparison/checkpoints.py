"""
Copies of a policy at set steps of its training, to be evaluated when training is over.

The clock is never stopped: A3C's workers continue during a callback, and would gain steps that took no time. So nothing is
evaluated during training. Parameters and normalization statistics are copied, which takes a fraction of a millisecond for
small networks and counts for every algorithm alike. Steps are counted in the environments, because callbacks see A3C's steps
later than its workers make them: by ``num_timesteps`` a policy would seem to have learned from fewer steps than it has.
"""

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_a3c.comparison.step_counts import StepCounts
from sb3_a3c.worker.callback_needs import register_callback

#: Seconds between two reports of progress. Chosen arbitrarily.
_REPORT_INTERVAL = 0.5


@dataclass(frozen=True)
class Checkpoint:
    """A policy's parameters and VecNormalize's statistics, after so many steps and seconds of ``learn()``."""

    timesteps: int
    seconds: float
    parameters: dict[str, th.Tensor]
    obs_rms: Any


class Checkpoints(BaseCallback):
    """
    Takes a checkpoint every so many steps, when the next rollout begins, because the policy is new then.

    :param interval: Steps between two checkpoints
    :param step_counts: The steps of the model's environments
    :param report: Called with the number of steps at least every half second
    """

    def __init__(self, interval: int, step_counts: StepCounts, report: Callable[[int], None]) -> None:
        super().__init__()
        self.taken: list[Checkpoint] = []
        #: Seconds spent copying.
        self.copying_seconds = 0.0
        self._interval = interval
        self._step_counts = step_counts
        self._report = report
        self._next = interval
        self._total_timesteps = 0
        self._started = self._reported = 0.0

    def learn(self, model: BaseAlgorithm, timesteps: int) -> None:
        """Let a model learn, and take checkpoints before, during and after it."""
        self._total_timesteps = timesteps
        self._take(model, seconds=0.0)
        self._started = self._reported = time.perf_counter()
        model.learn(timesteps, callback=self)
        # Positive even if a clock is frozen, because steps are divided by it.
        self._take(model, seconds=max(time.perf_counter() - self._started, sys.float_info.epsilon))

    def looks(self, n_steps: int) -> bool:
        """Return whether a checkpoint is taken when the next rollout begins; see :func:`register_callback`."""
        return self._next <= self.model.num_timesteps < self._total_timesteps

    def _on_rollout_start(self) -> None:
        if self.looks(0):
            self._take(self.model, seconds=time.perf_counter() - self._started)
            self._next += self._interval * ((self.model.num_timesteps - self._next) // self._interval + 1)

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now - self._reported > _REPORT_INTERVAL:
            self._reported = now
            self._report(self.num_timesteps)
        return True

    def _take(self, model: BaseAlgorithm, seconds: float) -> None:
        began = time.perf_counter()
        parameters = {name: tensor.detach().cpu().clone() for name, tensor in model.policy.state_dict().items()}
        obs_rms = deepcopy(getattr(model.get_vec_normalize_env(), "obs_rms", None))
        # Read after the parameters, so that every step that they have learned from is counted.
        timesteps = self._step_counts.total()
        if self.taken and self.taken[-1].timesteps == timesteps:
            del self.taken[-1]  # workers that have made all their steps wait; the newest policy of a step count is kept
        self.taken.append(Checkpoint(timesteps, seconds, parameters, obs_rms))
        self.copying_seconds += time.perf_counter() - began


register_callback(Checkpoints, Checkpoints.looks)

"""
What a policy was at set moments of its training, kept so that it can be evaluated when the training is over.

The clock never stands, for A3C's workers go on while a callback runs and would gain steps that took no time. Instead,
nothing is evaluated during training: parameters and normalization statistics are copied, and the copying, which takes a
fraction of a millisecond for small networks, counts for every algorithm alike. Steps are counted where they are made, in
the environments, for callbacks see A3C's steps later than its workers make them: by ``num_timesteps`` a policy would seem
to have learned from fewer steps than it has.
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

#: Seconds between two reports of progress. Chosen arbitrarily: often enough to look alive.
_REPORT_EVERY = 0.5


@dataclass(frozen=True)
class Checkpoint:
    """
    :param timesteps: Steps that all environments had made
    :param seconds: Seconds since the beginning of ``learn()``
    :param parameters: The policy's
    :param obs_rms: VecNormalize's statistics of observations, None: there are none
    """

    timesteps: int
    seconds: float
    parameters: dict[str, th.Tensor]
    obs_rms: Any


class Checkpoints(BaseCallback):
    """
    Takes a checkpoint each so many steps, when the next rollout begins and the policy is new.

    :param interval: Steps between two checkpoints
    :param step_counts: The steps of the environments that the model learns from
    :param report: Told how many steps have been made, now and then
    """

    def __init__(self, interval: int, step_counts: StepCounts, report: Callable[[int], None]) -> None:
        super().__init__()
        self.taken: list[Checkpoint] = []
        #: Seconds that the copying took.
        self.copying = 0.0
        self._interval = interval
        self._step_counts = step_counts
        self._report = report
        self._due = interval
        self._last = 0
        self._started = self._reported = 0.0

    def learn(self, model: BaseAlgorithm, timesteps: int) -> None:
        """
        Let a model learn, with a checkpoint before, some meanwhile, and one at the end.

        :param model: The model
        :param timesteps: Steps to learn from
        """
        self._last = timesteps
        self._take(model, seconds=0.0)
        self._started = self._reported = time.perf_counter()
        model.learn(timesteps, callback=self)
        # Above 0 with a frozen clock too: there are steps per second.
        self._take(model, seconds=max(time.perf_counter() - self._started, sys.float_info.epsilon))

    def looks(self, n_steps: int) -> bool:
        """
        :param n_steps: Steps of the rollout that begins now
        :return: Whether a checkpoint is taken, before the first of them
        """
        return self._due <= self.model.num_timesteps < self._last

    def _on_rollout_start(self) -> None:
        if self.looks(0):
            self._take(self.model, seconds=time.perf_counter() - self._started)
            self._due += self._interval * ((self.model.num_timesteps - self._due) // self._interval + 1)

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now - self._reported > _REPORT_EVERY:
            self._reported = now
            self._report(self.num_timesteps)
        return True

    def _take(self, model: BaseAlgorithm, seconds: float) -> None:
        begun = time.perf_counter()
        parameters = {name: tensor.detach().cpu().clone() for name, tensor in model.policy.state_dict().items()}
        obs_rms = deepcopy(getattr(model.get_vec_normalize_env(), "obs_rms", None))
        # Read after the parameters, so that these never know of a step that is not counted.
        timesteps = self._step_counts.total()
        if self.taken and self.taken[-1].timesteps == timesteps:
            del self.taken[-1]  # workers that are done wait for callbacks; one evaluation per step count, of the newest policy
        self.taken.append(Checkpoint(timesteps, seconds, parameters, obs_rms))
        self.copying += time.perf_counter() - begun


register_callback(Checkpoints, Checkpoints.looks)

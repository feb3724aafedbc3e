"""The hyperparameters of a worker, as one frozen message."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_a3c.envs.attributes import EnvAttributes
from sb3_a3c.policies.hooks import GradientRules

#: A number for all workers, or one per worker.
PerWorker = float | Sequence[float] | np.ndarray | th.Tensor


@dataclass(frozen=True)
class Hyperparameters:
    """
    The hyperparameters of one worker, with A2C's names and meanings.

    :param gamma: Discount factor
    :param ent_coef: Entropy coefficient of this worker
    :param log_std_offset: Added to the policy's ``log_std`` by this worker
    :param vf_coef: Value function coefficient
    :param max_grad_norm: The largest L2 norm of a gradient; a longer gradient is scaled down to it
    :param normalize_advantage: Whether to normalize the advantages of a rollout
    :param sde_sample_freq: Steps between two noise matrices of gSDE, -1: one matrix per rollout
    :param lr_schedule: Learning rate as a function of the progress remaining (1 to 0)
    :param vf_lr_schedule: The critic's own learning rate, None: ``lr_schedule``
    :param rules: Frozen parameters and hooks of parameters
    :param returns: ``gamma`` and ``gae_lambda`` of the model's rollout buffer. None: those of the worker's own buffer
    :param env_attributes: Attributes of the VecEnv's wrappers that the user has changed since the run began
    """

    gamma: float
    ent_coef: float
    log_std_offset: float
    vf_coef: float
    max_grad_norm: float
    normalize_advantage: bool
    sde_sample_freq: int
    lr_schedule: Schedule
    vf_lr_schedule: Schedule | None
    rules: GradientRules = field(default_factory=GradientRules)
    returns: tuple[float, float] | None = None
    env_attributes: EnvAttributes = field(default_factory=EnvAttributes)

    def learning_rates(self, progress_remaining: float) -> tuple[float, float]:
        """
        :param progress_remaining: From 1 (start) to 0 (end)
        :return: The learning rates of the actor and of the critic
        :raises ValueError: if one is not finite
        """
        learning_rate = _finite("learning_rate", self.lr_schedule, progress_remaining)
        if self.vf_lr_schedule is None:
            return learning_rate, learning_rate
        return learning_rate, _finite("vf_learning_rate", self.vf_lr_schedule, progress_remaining)


def of_worker(value: PerWorker, worker: int) -> float:
    """
    :param value: A number, or one per worker
    :param worker: Index of a worker
    :return: That worker's number
    """
    numbers = as_numbers(value)
    return float(numbers[worker] if isinstance(numbers, list) else numbers)


def as_numbers(value: Any) -> Any:
    """
    :param value: A number, or a sequence, an array or a tensor of them
    :return: A list if there is one number per worker, else the number. An array or a tensor of one element is a number
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_numbers(number) for number in value]
    return value


def _finite(name: str, schedule: Schedule, progress_remaining: float) -> float:
    """It may be below 0, as in A2C: a schedule that ends at 0 gets there in the last rollout, which ends after it."""
    rate = schedule(progress_remaining)
    if not math.isfinite(rate):
        raise ValueError(f"{name} must be finite, but it is {rate} when the progress remaining is {progress_remaining:g}")
    return rate

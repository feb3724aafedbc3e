"""What a worker hands to the main thread: one n-step rollout, with all that callbacks and logger may ask of it."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines.protocol import Action, Losses
from sb3_a3c.envs.normalization import Course
from sb3_a3c.envs.state import LayerState
from sb3_a3c.parameters.layout import Vector

#: Arrays of a rollout buffer that are filled step by step, and those that are there when all steps are.
ARRAYS_OF_STEPS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
ARRAYS_IN_THE_END = ("advantages", "returns")


#: The losses of a rollout of which nothing has been learned yet.
NOT_LEARNED = Losses(math.nan, math.nan, math.nan, True)


@dataclass(frozen=True)
class States:
    """
    What there is after each step of a rollout: what the model, and its VecEnv, show between two steps. Arrays are of shape
    ``(n_steps, n_envs, ...)``.

    :param new_obs: The observations
    :param dones: Whether episodes ended
    :param env_states: What the wrappers around the environments hold, see :func:`~sb3_a3c.envs.state.stack_states`
    :param moments: Of each of the worker's normalization statistics
    """

    new_obs: VecEnvObs
    dones: np.ndarray
    env_states: list[LayerState]
    moments: list[Course]


@dataclass(frozen=True)
class Steps:
    """
    The steps of a rollout themselves, as callbacks see them; arrays are of shape ``(n_steps, n_envs, ...)``.

    :param action: What the policy did
    :param rewards: As the environments gave them, before any bootstrapping
    :param bootstraps: What was added to a reward when its episode was truncated: first by step, then by environment
    :param infos: For each step, one a environment
    """

    action: Action
    rewards: np.ndarray
    bootstraps: dict[int, dict[int, th.Tensor | float]]
    infos: list[list[dict[str, Any]]]


class Ending(NamedTuple):
    """
    A step at which one of a worker's episodes has ended, or an environment has told of an episode (``info["episode"]``).

    :param n_steps: Steps of the rollout before this one
    :param infos: One a environment
    :param dones: Whether episodes ended, of shape ``(n_envs,)``
    """

    n_steps: int
    infos: list[dict[str, Any]]
    dones: np.ndarray


@dataclass(frozen=True)
class Rollout:
    """
    One rollout of one worker. Its gradient has been pushed, unless the worker waits for the callbacks that see the rollout.

    :param worker: Index of the worker
    :param env_indices: Which of the environments it stepped
    :param rollout_buffer: The segment, full, with returns and advantages; arrays of shape ``(n_steps, n_envs, ...)``
    :param states: What the model shows after each step; None where no callback looks at it
    :param steps: The steps themselves; None where no callback looks at them
    :param endings: The steps at which episodes ended, or environments told of one
    :param last_values: Values of the observations after the last step, of shape ``(n_envs, 1)``
    :param losses: What its gradient was computed from
    :param learning_rates: Of the actor and of the critic
    :param staleness: Updates that other workers made between this rollout's pull and its push
    :param seconds: How long the rollout took, from pull to push
    :param lock_seconds: How long of that was waiting for the lock of the shared parameters
    :param idle_seconds: How long its worker had waited for the main thread before
    :param gradient: The gradient, of shape ``(size,)``, if the worker waits for callbacks
    """

    worker: int
    env_indices: np.ndarray
    rollout_buffer: RolloutBuffer
    states: States | None
    steps: Steps | None
    endings: list[Ending]
    last_values: th.Tensor | np.ndarray
    losses: Losses
    learning_rates: tuple[float, float]
    staleness: int
    seconds: float
    lock_seconds: float
    idle_seconds: float
    gradient: Vector | None = None


def beside(parts: list[Any], axis: int = 0) -> Any:
    """
    Put side by side what workers have of their environments.

    :param parts: Arrays, tensors or dicts of them; one alone stays what it is
    :param axis: The axis of the environments
    :return: One of the same kind, of all environments
    """
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {key: beside([part[key] for part in parts], axis) for key in parts[0]}
    if isinstance(parts[0], th.Tensor):
        return th.cat(parts, dim=axis)
    return np.concatenate(parts, axis=axis)

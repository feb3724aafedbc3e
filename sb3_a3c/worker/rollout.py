"""What a worker hands to the main thread: one rollout of n steps, with everything that callbacks and logger need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines.protocol import Action, Losses
from sb3_a3c.envs.state import LayerState
from sb3_a3c.parameters.layout import Vector

#: Arrays of a rollout buffer that are filled step by step, and those that are computed after the last step.
ARRAYS_OF_STEPS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
ARRAYS_IN_THE_END = ("advantages", "returns")
_SHOWN_ARRAYS = (*ARRAYS_OF_STEPS, *ARRAYS_IN_THE_END)
#: What ``_update_info_buffer`` reads.
_LOGGED_INFOS = ("episode", "is_success")
_NO_VALUES = np.empty(0)

#: The losses of a rollout whose gradient has not been computed.
NOT_LEARNED = Losses(math.nan, math.nan, math.nan, True)


@dataclass(frozen=True)
class States:
    """
    The states after each step of a rollout, which the model and its VecEnv show between two steps. Arrays are of shape
    ``(n_steps, n_envs, ...)``.

    :param new_obs: The observations
    :param dones: Whether episodes ended
    :param env_states: What the wrappers around the environments hold, see :func:`~sb3_a3c.envs.state.stack_states`
    :param moments: The worker's normalization statistics, each of shape ``(n_steps, 2 * size + 1)``, see
        :func:`~sb3_a3c.envs.normalization.moments_of`
    """

    new_obs: VecEnvObs
    dones: np.ndarray
    env_states: list[LayerState]
    moments: list[np.ndarray]


@dataclass(frozen=True)
class Steps:
    """
    The steps of a rollout as callbacks see them. Arrays are ``(n_steps, n_envs, ...)``.

    :param action: What the policy computed
    :param rewards: The environments' rewards, before any bootstrapping
    :param bootstraps: What was added to the rewards of truncated episodes, by step and environment
    :param infos: For each step, one info per environment
    """

    action: Action
    rewards: np.ndarray
    bootstraps: dict[int, dict[int, th.Tensor | float]]
    infos: list[list[dict[str, Any]]]


class Ending(NamedTuple):
    """
    A step at which episodes ended, or environments reported the statistics of one (``info["episode"]``).

    :param n_steps: Index of the step in the rollout
    :param infos: One info per environment of which this is true
    :param dones: Whether their episodes ended
    """

    n_steps: int
    infos: list[dict[str, Any]]
    dones: np.ndarray

    @classmethod
    def of(cls, n_steps: int, infos: Sequence[dict[str, Any]], dones: np.ndarray, reports: bool) -> "Ending":
        """
        :param n_steps: Index of the step in the rollout
        :param infos: One info per environment
        :param dones: Whether episodes ended, ``(n_envs,)``
        :param reports: Whether an environment whose episode has not ended may report one, too
        :return: What is to be known of the step
        """
        reporting = [index for index, info in enumerate(infos) if "episode" in info] if reports else []
        indices = sorted({*np.flatnonzero(dones).tolist(), *reporting})
        return cls(n_steps, [dict(infos[i]) for i in indices], dones[indices])


class LoggedArrays(NamedTuple):
    """
    What the logger reads of a rollout buffer, for the explained variance. It is held as bytes, which are pickled faster than
    arrays.

    :param shape: ``(n_steps, n_envs)``
    :param dtype: The type of the numbers
    :param bytes_of_values: The values
    :param bytes_of_returns: The returns
    """

    shape: tuple[int, ...]
    dtype: str
    bytes_of_values: bytes
    bytes_of_returns: bytes

    @classmethod
    def of(cls, buffer: RolloutBuffer) -> "LoggedArrays":
        """
        :param buffer: A full buffer
        :return: Copies of its arrays
        """
        values, returns = buffer.values, buffer.returns
        return cls(values.shape, values.dtype.str, values.tobytes(), returns.astype(values.dtype, copy=False).tobytes())

    @property
    def values(self) -> np.ndarray:
        """The values, ``(n_steps, n_envs)``."""
        return np.frombuffer(self.bytes_of_values, self.dtype).reshape(self.shape)

    @property
    def returns(self) -> np.ndarray:
        """The returns, ``(n_steps, n_envs)``."""
        return np.frombuffer(self.bytes_of_returns, self.dtype).reshape(self.shape)


class Rollout(NamedTuple):
    """
    One rollout of one worker. Its gradient has been pushed, unless the worker waits for callbacks to see the rollout first.

    :param worker: Index of the worker
    :param env_indices: Indices of its environments
    :param rollout_buffer: The full buffer, with returns and advantages. Arrays are ``(n_steps, n_envs, ...)``. If no callback
        looks at the rollout, it may be reduced to what the logger reads
    :param states: The states after each step. None if no callback reads them
    :param steps: The steps themselves. None if no callback reads them
    :param endings: The steps at which episodes ended or were reported
    :param last_values: Values of the observations after the last step, ``(n_envs, 1)``
    :param losses: The losses
    :param learning_rates: Of the actor and of the critic
    :param staleness: Number of updates by other workers between this rollout's pull and its push
    :param seconds: Seconds from pull to push
    :param lock_seconds: Seconds of these spent waiting for the lock of the shared parameters
    :param idle_seconds: Seconds that the worker waited for the main thread before the rollout
    :param cpu_seconds: Seconds of processor time of the worker's thread from pull to push. 0: not measured
    :param env_seconds: Those of the environments' steps, estimated from one step
    :param gradient: The gradient, ``(size,)``, if the worker waits for callbacks
    """

    worker: int
    env_indices: np.ndarray
    rollout_buffer: RolloutBuffer | LoggedArrays
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
    cpu_seconds: float
    env_seconds: float
    gradient: Vector | None = None


def lighten(rollout: Rollout) -> Rollout:
    """
    Leave out what neither callbacks nor the logger will read, so that the rollout is small and quickly pickled.

    :param rollout: A rollout as its worker made it
    :return: A rollout with less in it
    """
    buffer = rollout.rollout_buffer
    assert isinstance(buffer, RolloutBuffer)
    if rollout.steps is not None:
        return rollout._replace(rollout_buffer=_with_arrays(buffer, _SHOWN_ARRAYS))
    endings = [
        ending._replace(infos=[{key: info[key] for key in _LOGGED_INFOS if key in info} for info in ending.infos])
        for ending in rollout.endings
    ]
    return rollout._replace(rollout_buffer=LoggedArrays.of(buffer), endings=endings, last_values=_NO_VALUES)


def arrays_of(rollout: Rollout) -> list[np.ndarray]:
    """
    :param rollout: A rollout
    :return: The arrays in it, without those in infos and in the states of wrappers, in an order that is the same for all
        rollouts of a worker
    """
    buffer, states, steps = rollout.rollout_buffer, rollout.states, rollout.steps
    values: list[Any] = []
    if isinstance(buffer, RolloutBuffer):
        values += vars(buffer).values()
        values.append(rollout.last_values)
    if states is not None:
        values += (states.new_obs, states.dones, *states.moments)
    if steps is not None:
        values += (*steps.action, steps.rewards)
    parts = chain.from_iterable(value.values() if isinstance(value, dict) else (value,) for value in values)
    return [part for part in parts if type(part) is np.ndarray]


def _with_arrays(buffer: RolloutBuffer, names: Sequence[str]) -> RolloutBuffer:
    """A buffer with these arrays alone. The main thread knows its spaces and the rest."""
    light = object.__new__(RolloutBuffer)
    light.__dict__.update({name: getattr(buffer, name) for name in names})
    return light

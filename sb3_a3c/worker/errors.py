"""Errors of a worker, with messages that name the worker, the environment and the cause."""

import math
import traceback
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines.protocol import Losses
from sb3_a3c.envs.declarations import layers_of
from sb3_a3c.parameters.finite import NonFiniteError as NonFiniteError
from sb3_a3c.system.notes import add_note


class WorkerStopped(Exception):
    """A worker was asked to stop. This is not an error, and callers of ``learn()`` never see it."""


class WorkerDied(RuntimeError):
    """The process of a worker ended or was killed without reporting an error."""


class Explaining:
    """
    A block whose errors are explained, and raised. (``contextlib.contextmanager`` takes four times as long, and a worker has
    four such blocks per rollout.)

    :param explain: Adds notes to an error
    """

    def __init__(self, explain: Callable[[BaseException], None]) -> None:
        self._explain = explain

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_type: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and not isinstance(error, WorkerStopped):
            self._explain(error)


def blame(error: BaseException, worker: int, env_indices: np.ndarray, env: VecEnv, last_obs: VecEnvObs) -> None:
    """
    Add a note to an error that names the worker and the environment.

    :param error: The error, as raised in the worker
    :param worker: Index of the worker
    :param env_indices: Indices of the worker's environments
    :param env: The worker's environments
    :param last_obs: Their last observations
    """
    note = f"raised in worker {worker} of A3C"
    failed = _failed_slot(error)
    suspect = _non_finite_slot(_raw(env, "old_obs", last_obs))
    if failed is not None:
        note += f", {name_environments(env_indices[[failed]])}"
    elif suspect is not None:
        note += f", where the last observation of {name_environments(env_indices[[suspect]])} has nan or inf in it"
    else:
        note += f", {name_environments(env_indices)}"
    add_note(error, note)


def is_of_first_use(error: BaseException, env: VecEnv, has_stepped: bool, has_reset: bool) -> bool:
    """
    :param error: An error, as raised in a worker
    :param env: The worker's environments
    :param has_stepped: Whether the worker has made a step
    :param has_reset: Whether an episode has ended in the worker
    :return: Whether an environment raised it in the worker's first step or first reset. Errors of environments in processes
        of their own do not count: these are used where they were made
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    in_env = isinstance(error, Exception) and any(frame.f_locals.get("self") is env for frame in frames)
    if not in_env or isinstance(env.unwrapped, SubprocVecEnv):
        return False
    return not has_stepped or (not has_reset and any(frame.f_code.co_name == "reset" for frame in frames))


def check_rewards(rewards: np.ndarray, env: VecEnv, env_indices: np.ndarray) -> None:
    """
    Check the rewards of a step before they are used.

    :param rewards: ``(n_envs,)``
    :param env: The environments that gave them
    :param env_indices: Indices of the environments
    :raises NonFiniteError: if a reward is NaN or infinite
    """
    numbers = rewards if rewards.ndim == 1 else rewards.ravel()  # a SubprocVecEnv may give a column
    # NumPy takes as long for 1 reward as for 256. Python is faster up to 64.
    finite = np.isfinite(numbers).all() if len(numbers) > 64 else all(map(math.isfinite, numbers.tolist()))
    if not finite:
        given = np.asarray(_raw(env, "old_reward", rewards))
        slot = _non_finite_slot(given)
        slot = int(np.argmin(np.isfinite(rewards))) if slot is None else slot
        raise NonFiniteError(f"{name_environments(env_indices[[slot]])} gave a reward of {given[slot]}")


def non_finite_observation(obs: VecEnvObs, env: VecEnv, env_indices: np.ndarray) -> NonFiniteError | None:
    """
    Find an observation that made a policy fail.

    :param obs: Observations, each ``(n_envs, ...)``
    :param env: The environments that gave them
    :param env_indices: Indices of the environments
    :return: The error. None if all observations are finite
    """
    given = _raw(env, "old_obs", obs)
    slot = _non_finite_slot(given)
    if slot is None:
        return None
    given = {key: array[slot] for key, array in given.items()} if isinstance(given, dict) else given[slot]
    return NonFiniteError(f"{name_environments(env_indices[[slot]])} gave an observation of {given}")


def non_finite_parts(rollout_buffer: RolloutBuffer, env_indices: np.ndarray, losses: Losses) -> str:
    """
    Find what is not finite in a rollout whose gradient is not finite.

    :param rollout_buffer: The rollout, with arrays ``(n_steps, n_envs, ...)``
    :param env_indices: Indices of the environments
    :param losses: The losses
    :return: A message for the user
    """
    observations = rollout_buffer.observations
    arrays = {f"observation '{key}'": obs for key, obs in observations.items()} if isinstance(observations, dict) else {}
    arrays = arrays or {"observation": observations}
    arrays |= {name: getattr(rollout_buffer, name + "s") for name in ("reward", "action", "value", "return")}
    for name, array in arrays.items():
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            step, column = bad[0][:2]
            return (
                f"the gradient is not finite and was not applied: {name} {array[tuple(bad[0])]} of "
                f"{name_environments(env_indices[[column]])} at step {step} of the rollout"
            )
    return (
        f"the gradient over {name_environments(env_indices)} is not finite and was not applied, though observations, rewards "
        f"and values are: policy_loss={losses.policy_loss}, value_loss={losses.value_loss}, "
        f"entropy_loss={losses.entropy_loss}. Rewards may be too large, or the learning rate too high."
    )


def _failed_slot(error: BaseException) -> int | None:
    """Index of the environment of a DummyVecEnv that raised the error, if one did."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(frame.f_locals.get("self"), DummyVecEnv) and "env_idx" in frame.f_locals:
            return frame.f_locals["env_idx"]
    return None


def _raw(env: VecEnv, name: str, normalized: VecEnvObs) -> VecEnvObs:
    """Values before normalization, since VecNormalize spreads one environment's NaN over all environments."""
    for layer in layers_of(env):
        if isinstance(layer, VecNormalize) and len(vars(layer).get(name, ())):
            normalized = vars(layer)[name]
    return normalized


def _non_finite_slot(values: VecEnvObs) -> int | None:
    """Index of the first environment with NaN or infinity in its values."""
    for array in values.values() if isinstance(values, dict) else [values]:
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            return int(bad[:, 0].min())
    return None


def name_environments(indices: np.ndarray) -> str:
    """
    :param indices: Indices of consecutive environments
    :return: Their name in a message
    """
    if len(indices) == 1:
        return f"environment {indices[0]}"
    return f"environments {indices[0]} to {indices[-1]}"

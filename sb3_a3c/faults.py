"""What can go wrong in a worker, told so that its cause can be found: which worker, which environment, what."""

import traceback

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_a3c.engines.protocol import Losses


class WorkerStopped(Exception):
    """A worker was asked to stop: no error, and never the caller's."""


class NonFiniteGradientError(ArithmeticError):
    """A gradient with NaN or infinity in it, which has not been applied."""


def blame(error: BaseException, worker: int, env_indices: np.ndarray) -> None:
    """
    Add a note to an error that says where it comes from.

    :param error: The error, as raised in the worker
    :param worker: Index of the worker
    :param env_indices: Which of the environments the worker steps
    """
    failed = _failed_slot(error)
    which = env_indices if failed is None else env_indices[failed : failed + 1]
    error.add_note(f"raised in worker {worker} of A3C, {_environments(which)}")


def non_finite_parts(rollout_buffer: RolloutBuffer, env_indices: np.ndarray, losses: Losses) -> str:
    """
    Say what is not finite in a rollout whose gradient is not.

    :param rollout_buffer: The rollout, with arrays of shape ``(n_steps, n_envs, ...)``
    :param env_indices: Which environments its columns are
    :param losses: The losses over it
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
            value = array[tuple(bad[0])]
            return (
                f"the gradient is not finite and was not applied: {name} {value} of {_environments(env_indices[[column]])} "
                f"at step {step} of the rollout"
            )
    return (
        f"the gradient over {_environments(env_indices)} is not finite and was not applied, though observations, rewards "
        f"and values are: policy_loss={losses.policy_loss}, value_loss={losses.value_loss}, "
        f"entropy_loss={losses.entropy_loss}. Rewards may be too large, or the learning rate too high."
    )


def _failed_slot(error: BaseException) -> int | None:
    """Which of a DummyVecEnv's environments was being stepped when the error was raised, if it was one."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(frame.f_locals.get("self"), DummyVecEnv) and "env_idx" in frame.f_locals:
            return frame.f_locals["env_idx"]
    return None


def _environments(indices: np.ndarray) -> str:
    if len(indices) == 1:
        return f"environment {indices[0]}"
    return f"environments {indices[0]} to {indices[-1]}"

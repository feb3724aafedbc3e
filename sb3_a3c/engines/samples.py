"""The samples of a rollout that a gradient is computed from."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_a3c.engines.protocol import Action, overrides_get


class Samples(NamedTuple):
    """
    Samples of all steps and environments. SB3's ``RolloutBufferSamples`` has the same attributes.

    :param observations: Each ``(n_steps * n_envs, ...)``
    :param actions: ``(n_steps * n_envs, action_dim)``
    :param advantages: ``(n_steps * n_envs,)``
    :param returns: ``(n_steps * n_envs,)``
    """

    observations: th.Tensor | dict[str, th.Tensor]
    actions: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor


def samples_of_buffer(rollout_buffer: RolloutBuffer, permutation: Callable[[int], np.ndarray]) -> Any:
    """
    The same as ``rollout_buffer.get()``, but of a copy, since callbacks see the buffer itself.

    :param rollout_buffer: A full buffer. It is not changed
    :param permutation: Draws the order of the samples
    :return: The samples
    :raises ValueError: if a buffer with its own ``get()`` returns several batches
    """
    flat = copy(rollout_buffer)
    if overrides_get(type(flat)):
        batches = list(flat.get(batch_size=None))
        if len(batches) != 1:
            raise ValueError(
                f"rollout_buffer_class.get() must give all samples as one batch, but {type(flat).__name__}.get() gave "
                f"{len(batches)} batches"
            )
        return batches[0]
    if flat.generator_ready:  # a callback has called get(), which flattens the arrays
        return flat._get_samples(permutation(flat.buffer_size * flat.n_envs))
    if isinstance(flat.observations, dict):
        flat.observations = {  # type: ignore[assignment]
            key: flat.swap_and_flatten(obs) for key, obs in flat.observations.items()
        }
    else:
        flat.observations = flat.swap_and_flatten(flat.observations)
    for name in ("actions", "values", "log_probs", "advantages", "returns"):
        setattr(flat, name, flat.swap_and_flatten(getattr(flat, name)))
    return flat._get_samples(permutation(flat.buffer_size * flat.n_envs))


def samples_of_actions(rollout_buffer: RolloutBuffer, actions: Sequence[Action]) -> Samples:
    """
    The samples in the order of ``swap_and_flatten``, with the observations as the policy has read them. They need no copies
    from the buffer, and images are in the memory format "channels last", in which torch's convolutions on a CPU compute the
    gradient up to twice as fast.

    :param rollout_buffer: A full buffer of SB3's own classes
    :param actions: The actions that it was filled with, one per step
    :return: The samples
    """
    flat = rollout_buffer.swap_and_flatten
    obs: list[Any] = [action.obs for action in actions]
    return Samples(
        {key: env_major([one[key] for one in obs]) for key in obs[0]} if isinstance(obs[0], dict) else env_major(obs),
        rollout_buffer.to_torch(flat(rollout_buffer.actions).astype(np.float32, copy=False)),
        rollout_buffer.to_torch(flat(rollout_buffer.advantages).flatten()),
        rollout_buffer.to_torch(flat(rollout_buffer.returns).flatten()),
    )


def env_major(steps: Sequence[th.Tensor]) -> th.Tensor:
    """
    Concatenate tensors of single steps in the order of ``RolloutBuffer.swap_and_flatten``: all steps of the first
    environment, then those of the next one.

    :param steps: One tensor per step, ``(n_envs, ...)``
    :return: ``(n_envs * n_steps, ...)``. Images are in the memory format "channels last"
    """
    if steps[0].ndim == 4:
        return th.stack([step.movedim(1, 3) for step in steps], dim=1).flatten(0, 1).movedim(3, 1)
    return th.stack(list(steps), dim=1).flatten(0, 1)

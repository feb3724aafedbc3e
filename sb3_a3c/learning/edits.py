"""Detection of what callbacks write into a rollout: into local variables in ``on_step()``, or into the rollout buffer."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_a3c.worker.rollout import Rollout

#: Local variables that A2C adds to the rollout buffer after ``on_step()``.
_LOCALS = ("actions", "values", "log_probs", "rewards")
#: Arrays of the rollout buffer that are compared after callbacks have seen it.
_COMPARED = ("actions", "rewards", "values", "log_probs", "advantages", "returns")


class Edits:
    """
    Finds values that callbacks have changed in place.

    :param columns: The local variables at all steps, by name. Callbacks get views of them
    :param segment: The arrays of the rollout buffer, by name
    """

    def __init__(self, columns: dict[str, Any], segment: dict[str, Any]) -> None:
        self._columns = {name: columns[name] for name in _LOCALS}
        # Comparing bytes is faster than comparing arrays, and NaN equals itself.
        self._originals = {name: _array(column).tobytes() for name, column in self._columns.items()}
        self._segment = {name: segment[name].tobytes() for name in _COMPARED}

    def write_to(self, rollout_buffer: RolloutBuffer, rollout: Rollout, last_values: th.Tensor) -> None:
        """
        Write changed local variables into the rollout buffer, as A2C does. Returns and advantages that depend on them are
        recomputed.

        :param rollout_buffer: The full buffer
        :param rollout: The rollout
        :param last_values: Values of the observations after the last step, of shape ``(n_envs, 1)``
        """
        written, cut = self._written(), _no_longer_truncated(rollout)
        if cut and "rewards" not in written:
            written.append("rewards")
        for name in written:
            array = getattr(rollout_buffer, name)
            array[...] = _array(self._columns[name]).reshape(array.shape)
        if "rewards" in written and rollout.steps is not None:
            for n_steps, bootstraps in rollout.steps.bootstraps.items():
                for env, value in bootstraps.items():
                    if (n_steps, env) not in cut:
                        rollout_buffer.rewards[n_steps][env] += value
        if {"rewards", "values"} & set(written) and rollout.states is not None:
            rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=rollout.states.dones[-1])

    def names(self, rollout_buffer: RolloutBuffer) -> list[str]:
        """
        :param rollout_buffer: The buffer, after callbacks have seen it
        :return: Names of everything that was changed
        """
        in_buffer = [name for name in _COMPARED if getattr(rollout_buffer, name).tobytes() != self._segment[name]]
        return [*(f"locals[{name!r}]" for name in self._written()), *(f"rollout_buffer.{name}" for name in in_buffer)]

    def _written(self) -> list[str]:
        return [name for name, column in self._columns.items() if _array(column).tobytes() != self._originals[name]]


def _no_longer_truncated(rollout: Rollout) -> set[tuple[int, int]]:
    """The steps and environments of truncated episodes whose info a callback has changed, so that A2C would not bootstrap."""
    if rollout.steps is None:
        return set()
    infos = rollout.steps.infos
    steps = [(n_steps, env) for n_steps, bootstraps in rollout.steps.bootstraps.items() for env in bootstraps]
    return {(n_steps, env) for n_steps, env in steps if not infos[n_steps][env].get("TimeLimit.truncated", False)}


def _array(values: Any) -> np.ndarray:
    """The present values: those of a GPU are copied."""
    return values.numpy(force=True) if isinstance(values, th.Tensor) else np.asarray(values)

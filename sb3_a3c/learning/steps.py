"""
Replay of finished rollouts to callbacks, step by step: SB3's ``collect_rollouts`` with steps that were made before.

The order within a step is SB3's: ``num_timesteps``, ``on_step()``, the episode statistics, the last observations. Only what
the callback reads is prepared.
"""

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines.protocol import Action
from sb3_a3c.envs.batches import concat
from sb3_a3c.envs.normalization import running_statistics, set_moments
from sb3_a3c.envs.state import changes_only_with_episodes, state_at, write_state
from sb3_a3c.learning.edits import Edits
from sb3_a3c.policies.recurrent_states import as_rnn_states
from sb3_a3c.system.memory import as_tensor
from sb3_a3c.worker.callback_needs import CallbackNeeds
from sb3_a3c.worker.rollout import ARRAYS_IN_THE_END, ARRAYS_OF_STEPS, Ending, Rollout


def report_steps(model: OnPolicyAlgorithm, callback: BaseCallback, needs: CallbackNeeds, rollouts: Sequence[Rollout]) -> bool:
    """
    :param model: The model that learns
    :param callback: The callback of this ``learn()``
    :param needs: What the callback reads. Nothing else is prepared for it
    :param rollouts: Rollouts of all environments, in the order of the environments
    :return: False if the callback stops training
    """
    if needs == CallbackNeeds.COUNT:
        return _count(model, callback, rollouts)
    if len(rollouts) > 1:
        start_rollout(model, callback, needs)
    return (_show_all if needs == CallbackNeeds.STEPS else _show_states)(model, callback, rollouts)


def start_rollout(model: OnPolicyAlgorithm, callback: BaseCallback, needs: CallbackNeeds) -> None:
    """
    What ``collect_rollouts`` does before the first step. A single worker waits for it. With several workers it is a part of
    the replay.

    :param model: The model that learns
    :param callback: The callback of this ``learn()``
    :param needs: What the callback reads
    """
    if model.policy.training:
        model.policy.set_training_mode(False)
    if needs == CallbackNeeds.STEPS:
        model.rollout_buffer.reset()
    callback.on_rollout_start()


def acts_at_rollout_start(callback: BaseCallback) -> bool:
    """
    :param callback: A callback
    :return: Whether it does anything when a rollout begins
    """
    if type(callback) is CallbackList:
        return any(map(acts_at_rollout_start, callback.callbacks))
    names = ("on_rollout_start", "_on_rollout_start")
    return any(getattr(getattr(callback, name), "__func__", None) is not getattr(BaseCallback, name) for name in names)


def catch_up(model: OnPolicyAlgorithm, rollouts: Sequence[Rollout]) -> None:
    """
    Bring the model and its VecEnv up to date after rollouts that no callback looked at.

    :param model: The model that learns
    :param rollouts: The last rollouts of all environments
    """
    for new_obs, dones in _states(model, rollouts):
        model._last_obs, model._last_episode_starts = new_obs, dones  # type: ignore[assignment]


def _count(model: OnPolicyAlgorithm, callback: BaseCallback, rollouts: Sequence[Rollout]) -> bool:
    endings = _endings(rollouts)
    for n_steps in range(model.n_steps):
        model.num_timesteps += model.n_envs
        if not callback.on_step():
            return False
        for ending in endings.get(n_steps, ()):
            model._update_info_buffer(ending.infos, ending.dones)
    return True


def _show_states(model: OnPolicyAlgorithm, callback: BaseCallback, rollouts: Sequence[Rollout]) -> bool:
    endings = _endings(rollouts)
    with closing(_states(model, rollouts)) as states:
        for n_steps, (new_obs, dones) in enumerate(states):
            model.num_timesteps += model.n_envs
            if not callback.on_step():
                return False
            for ending in endings.get(n_steps, ()):
                model._update_info_buffer(ending.infos, ending.dones)
            model._last_obs, model._last_episode_starts = new_obs, dones  # type: ignore[assignment]
    callback.on_rollout_end()
    return True


def _show_all(model: OnPolicyAlgorithm, callback: BaseCallback, rollouts: Sequence[Rollout]) -> bool:
    """The local variables that callbacks see have the names of SB3's."""
    buffers = [rollout.rollout_buffer for rollout in rollouts]
    segment = {
        name: concat([getattr(buffer, name) for buffer in buffers], axis=1) for name in (*ARRAYS_OF_STEPS, *ARRAYS_IN_THE_END)
    }
    columns = _columns(rollouts)
    edits = Edits(columns, segment)
    rollout_buffer = model.rollout_buffer
    shown: dict[str, Any] = {
        "self": model,
        "env": model.env,
        "callback": callback,
        "rollout_buffer": rollout_buffer,
        "n_rollout_steps": model.n_steps,
        "env_indices": np.concatenate([rollout.env_indices for rollout in rollouts]),
        "worker_indices": np.repeat(
            [rollout.worker for rollout in rollouts], [len(rollout.env_indices) for rollout in rollouts]
        ),
        "staleness": [rollout.staleness for rollout in rollouts],
    }
    with closing(_states(model, rollouts)) as states:
        for n_steps, ((new_obs, dones), step_locals) in enumerate(zip(states, _steps(rollouts, columns), strict=True)):
            shown |= {"n_steps": n_steps, "new_obs": new_obs, "dones": dones, **step_locals}
            model.num_timesteps += model.n_envs
            callback.update_locals(shown)
            if not callback.on_step():
                return False
            model._update_info_buffer(shown["infos"], dones)
            for name in ARRAYS_OF_STEPS:
                _copy_row(segment[name], getattr(rollout_buffer, name), n_steps)
            rollout_buffer.pos = n_steps + 1
            model._last_obs, model._last_episode_starts = new_obs, dones  # type: ignore[assignment]
            if "lstm_states" in columns:
                model._last_states = columns["lstm_states"][n_steps]  # type: ignore[attr-defined]
    rollout_buffer.full = True
    rollout_buffer.advantages, rollout_buffer.returns = segment["advantages"], segment["returns"]
    last_values = as_tensor(concat([rollout.last_values for rollout in rollouts]))
    if len(rollouts) == 1:
        edits.write_to(rollout_buffer, rollouts[0], last_values)
    shown |= {"n_steps": model.n_steps, "values": last_values}
    shown["rewards"] = rollout_buffer.rewards[-1]  # now with the bootstrapped values of truncated episodes
    callback.update_locals(shown)
    callback.on_rollout_end()
    if len(rollouts) > 1 and (names := edits.names(rollout_buffer)):
        warnings.warn(
            f"a callback has written to {', '.join(names)} of a rollout. With {len(rollouts)} workers this has no effect: "
            "they learn from a rollout before callbacks see it. With n_workers=1, the worker learns from the changed values",
            stacklevel=2,
        )
    return True


def _endings(rollouts: Sequence[Rollout]) -> dict[int, list[Ending]]:
    """For each step at which there are any: the endings, in the order of the environments."""
    endings: dict[int, list[Ending]] = {}
    for ending in chain.from_iterable(rollout.endings for rollout in rollouts):
        endings.setdefault(ending.n_steps, []).append(ending)
    return endings


def _states(model: OnPolicyAlgorithm, rollouts: Sequence[Rollout]) -> Generator[tuple[VecEnvObs, np.ndarray], None, None]:
    """For each step: the observations and dones after it. The VecEnv is brought to the state after that step, too."""
    venv = model.env
    assert venv is not None
    parts = [rollout.states for rollout in rollouts if rollout.states is not None]
    new_obs = _rows(concat([states.new_obs for states in parts], axis=1))
    dones = _rows(concat([states.dones for states in parts], axis=1))
    statistics = running_statistics(venv)
    is_still = changes_only_with_episodes(venv)

    def show(n_steps: int) -> None:
        write_state(venv, [state_at(states.env_states, n_steps) for states in parts])
        for rms, *of_workers in zip(statistics, *(states.moments for states in parts), strict=False):
            set_moments(rms, max((of_worker[n_steps] for of_worker in of_workers), key=itemgetter(-1)))  # the largest count

    is_last = False
    try:
        for n_steps, row in enumerate(zip(new_obs, dones, strict=True)):
            if n_steps == 0 or statistics or not is_still or True in row[1].tolist():
                show(n_steps)
            is_last = n_steps == len(dones) - 1
            yield row
    finally:  # the environments are in the state after the last step, and a VecEnv that was not sliced holds them
        if not is_last:
            show(len(dones) - 1)


def _columns(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """For each local variable of a step: its values at all steps, with a first axis of ``n_steps``."""
    parts = [rollout.steps for rollout in rollouts if rollout.steps is not None]
    fields: Any = zip(*(steps.action for steps in parts), strict=True)
    whole: list[Any] = [None if of_all[0] is None else concat(of_all, axis=1) for of_all in fields]
    action = Action(*whole).as_tensors()
    columns = {
        "obs_tensor": action.obs,
        "actions": action.actions,
        "values": action.values,
        "log_probs": action.log_probs,
        "clipped_actions": action.clipped_actions,
        "rewards": concat([steps.rewards for steps in parts], axis=1),
    }
    if action.state is not None:
        columns["lstm_states"] = action.state
    return columns


def _steps(rollouts: Sequence[Rollout], columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """For each step: its local variables."""
    parts = [rollout.steps for rollout in rollouts if rollout.steps is not None]
    for n_steps, row in enumerate(zip(*map(_rows, columns.values()), strict=True)):
        infos = (
            list(chain.from_iterable(steps.infos[n_steps] for steps in parts)) if len(parts) > 1 else parts[0].infos[n_steps]
        )
        step_locals = {**dict(zip(columns, row, strict=True)), "infos": infos}
        if "lstm_states" in step_locals:
            step_locals["lstm_states"] = as_rnn_states(step_locals["lstm_states"], step_locals["values"].device)
        yield step_locals


def _copy_row(source: VecEnvObs, target: VecEnvObs, row: int) -> None:
    if isinstance(source, dict) and isinstance(target, dict):
        for key, array in source.items():
            target[key][row] = array[row]
    else:
        target[row] = source[row]  # type: ignore[index]


def _rows(column: Any) -> Sequence[Any]:
    """The entries of each step."""
    if isinstance(column, dict):
        return [dict(zip(column, row, strict=True)) for row in zip(*map(_rows, column.values()), strict=True)]
    return column.unbind() if isinstance(column, th.Tensor) else list(column)

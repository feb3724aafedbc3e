"""
The main thread's half of learning: rollouts that workers have finished are shown to callbacks and logger, step by step,
as if SB3's own loop were collecting them now.

``model.policy`` and the VecEnv's statistics belong to this thread. They are brought up to date between two rollouts and
never within one, so what a callback evaluates is what it saves. Nothing here is called from a worker.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.asynchrony import Asynchrony
from sb3_a3c.env_slices import write_state
from sb3_a3c.hyperparameters import of_worker
from sb3_a3c.mirror import Mirror
from sb3_a3c.normalization import running_statistics, set_moments
from sb3_a3c.parameters import SharedParameters
from sb3_a3c.rollout import Rollout, beside

if TYPE_CHECKING:
    from sb3_a3c.a3c import A3C

_SEGMENT_ARRAYS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")


class Replay:
    """
    :param model: The model that learns
    :param callback: The callback of this ``learn()``
    :param watched: Whether it looks at anything; if not, nothing is built for it
    :param parameters: The shared parameters
    :param log_interval: Rollouts of all environments between two logs, None: no logs
    """

    def __init__(
        self,
        model: "A3C",
        callback: BaseCallback,
        watched: bool,
        parameters: SharedParameters,
        log_interval: int | None,
    ) -> None:
        self._model = model
        self._callback = callback
        self._watched = watched
        self._mirror = Mirror(model.policy, parameters)
        self._log_interval = log_interval
        self._iteration = 0
        self._asynchrony = Asynchrony()
        self._unrecorded: Sequence[Rollout] = ()
        self._learning_rate: float | None = None

    def show(self, rollouts: Sequence[Rollout]) -> bool:
        """
        Replay rollouts that are together of all environments, one beside the other.

        :param rollouts: The rollouts
        :return: False if a callback wants training to stop
        """
        self._learning_rate = rollouts[-1].learning_rates[0]
        if not (self._show_steps(rollouts) if self._watched else self._count_steps(rollouts)):
            return False
        self._iteration += 1
        model = self._model
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        if self._due(self._iteration):
            model.dump_logs(self._iteration)
            self._asynchrony.reset()
        model._n_updates += len(rollouts)
        self._asynchrony.count(rollouts)
        self._unrecorded = rollouts
        if self._watched or self._due(self._iteration + 1):
            self.refresh()
        return True

    def refresh(self) -> None:
        """Bring the model's policy and its logger up to date; nobody sees them in between."""
        self._mirror.refresh(self._learning_rate)
        if self._unrecorded:
            self._record_updates(self._unrecorded)
            self._asynchrony.record(self._model.logger)
            self._unrecorded = ()

    def close(self) -> None:
        """Bring them up to date for the last time."""
        try:
            self.refresh()
        finally:
            self._mirror.close()

    def _due(self, iteration: int) -> bool:
        return self._log_interval is not None and iteration % self._log_interval == 0

    def _count_steps(self, rollouts: Sequence[Rollout]) -> bool:
        """:meth:`_show_steps` for a callback that only counts them."""
        model, callback = self._model, self._callback
        endings = (ending for rollout in rollouts for ending in rollout.endings)
        for ending in sorted(endings, key=attrgetter("n_steps")):
            model._update_info_buffer(ending.infos, ending.dones)
        for _ in range(model.n_steps):
            model.num_timesteps += model.n_envs
            if not callback.on_step():
                return False
        return True

    def _show_steps(self, rollouts: Sequence[Rollout]) -> bool:
        """SB3's ``collect_rollouts`` with the steps already made; its local variables have its names."""
        model, callback = self._model, self._callback
        assert model.env is not None
        if model.policy.training:
            model.policy.set_training_mode(False)
        buffers = [rollout.rollout_buffer for rollout in rollouts]
        segment = {name: beside([getattr(buffer, name) for buffer in buffers], axis=1) for name in _SEGMENT_ARRAYS}
        rollout_buffer = model.rollout_buffer
        rollout_buffer.reset()
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
        callback.on_rollout_start()
        for n_steps, step_locals in enumerate(self._step_locals(rollouts)):
            shown |= step_locals
            model.num_timesteps += model.n_envs
            callback.update_locals(shown)
            if not callback.on_step():
                return False
            model._update_info_buffer(shown["infos"], shown["dones"])
            for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs"):
                _copy_row(segment[name], getattr(rollout_buffer, name), n_steps)
            rollout_buffer.pos = n_steps + 1
            model._last_obs = shown["new_obs"]
            model._last_episode_starts = shown["dones"]
        rollout_buffer.full = True
        rollout_buffer.advantages, rollout_buffer.returns = segment["advantages"], segment["returns"]
        shown |= {"n_steps": model.n_steps, "values": th.as_tensor(beside([rollout.last_values for rollout in rollouts]))}
        shown["rewards"] = segment["rewards"][-1]  # by now with the values of truncated episodes
        callback.update_locals(shown)
        callback.on_rollout_end()
        return True

    def _step_locals(self, rollouts: Sequence[Rollout]) -> Iterator[dict[str, Any]]:
        """For each step of all environments: its local variables. What the VecEnv itself shows is set to that step too."""
        venv = self._model.env
        assert venv is not None
        parts = [rollout.steps for rollout in rollouts if rollout.steps is not None]
        actions = [steps.action.as_tensors() for steps in parts]
        columns: dict[str, Any] = {
            "obs_tensor": beside([action.obs for action in actions], axis=1),
            "actions": beside([action.actions for action in actions], axis=1),
            "values": beside([action.values for action in actions], axis=1),
            "log_probs": beside([action.log_probs for action in actions], axis=1),
            "clipped_actions": beside([action.clipped_actions for action in actions], axis=1),
            "new_obs": beside([steps.new_obs for steps in parts], axis=1),
            "rewards": beside([steps.rewards for steps in parts], axis=1),
            "dones": beside([steps.dones for steps in parts], axis=1),
        }
        statistics = running_statistics(venv)
        rows = zip(*map(_rows, columns.values()), strict=True)
        written: list[Any] = [None] * len(parts)
        for n_steps, row in enumerate(rows):
            env_states = [steps.env_states[n_steps] for steps in parts]
            if not all(map(is_, env_states, written)):
                write_state(venv, env_states)
                written = env_states
            if parts[0].moments[n_steps]:
                for rms, *moments in zip(statistics, *(steps.moments[n_steps] for steps in parts), strict=False):
                    set_moments(rms, max(moments, key=lambda m: m.n_samples))
            infos = (
                list(chain.from_iterable(steps.infos[n_steps] for steps in parts))
                if len(parts) > 1
                else parts[0].infos[n_steps]
            )
            yield {"n_steps": n_steps, **dict(zip(columns, row, strict=True)), "infos": infos}

    def _record_updates(self, rollouts: Sequence[Rollout]) -> None:
        """What ``A2C.train`` logs, of the updates that came of these rollouts."""
        model, logger = self._model, self._model.logger
        buffers = [rollout.rollout_buffer for rollout in rollouts]
        values, returns = (
            np.concatenate([buffer.swap_and_flatten(getattr(buffer, name)) for buffer in buffers])
            for name in ("values", "returns")
        )
        losses = [rollout.losses for rollout in rollouts]
        logger.record("train/learning_rate", rollouts[-1].learning_rates[0])
        if model.vf_learning_rate is not None:
            logger.record("train/vf_learning_rate", rollouts[-1].learning_rates[1])
        logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        logger.record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))
        logger.record("train/entropy_loss", _mean([loss.entropy_loss for loss in losses]))
        logger.record("train/policy_loss", _mean([loss.policy_loss for loss in losses]))
        logger.record("train/value_loss", _mean([loss.value_loss for loss in losses]))
        std = th.exp(model.policy.log_std).mean().item() if hasattr(model.policy, "log_std") else None
        if std is not None:
            logger.record("train/std", std)
        if isinstance(model.ent_coef, Sequence) or isinstance(model.std_scale, Sequence):
            self._record_exploration(rollouts, std)

    def _record_exploration(self, rollouts: Sequence[Rollout], std: float | None) -> None:
        """How each worker explores, where they differ in that."""
        model = self._model
        for rollout in rollouts:
            key, worker = f"worker_{rollout.worker}", rollout.worker
            model.logger.record(f"{key}/entropy", -rollout.losses.entropy_loss)
            model.logger.record(f"{key}/ent_coef", of_worker(model.ent_coef, worker))
            if std is not None:
                model.logger.record(f"{key}/std", std * of_worker(model.std_scale, worker))


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _copy_row(source: VecEnvObs, target: VecEnvObs, row: int) -> None:
    if isinstance(source, dict) and isinstance(target, dict):
        for key, array in source.items():
            target[key][row] = array[row]
    else:
        target[row] = source[row]  # type: ignore[index]


def _rows(column: Any) -> Sequence[Any]:
    """What there is at each step."""
    if isinstance(column, dict):
        return [dict(zip(column, row, strict=True)) for row in zip(*map(_rows, column.values()), strict=True)]
    return column.unbind() if isinstance(column, th.Tensor) else list(column)

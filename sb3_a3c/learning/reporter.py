"""
Replay of finished rollouts to callbacks and logger in the main thread, as if SB3's own loop were collecting them now.

Guaranteed: what a callback evaluates is what it saves. Why: ``model.policy`` and the VecEnv's statistics belong to this
thread, and are brought up to date between two rollouts, never within one. Workers call nothing in this file.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import explained_variance

from sb3_a3c.engines.hyperparameters import as_numbers, of_worker
from sb3_a3c.learning.advice import Advice
from sb3_a3c.learning.arguments import Arguments
from sb3_a3c.learning.asynchrony import Asynchrony
from sb3_a3c.learning.policy_sync import PolicySync
from sb3_a3c.learning.steps import acts_at_rollout_start, catch_up, report_steps, start_rollout
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.worker.callback_needs import CallbackNeeds, looks_within
from sb3_a3c.worker.rollout import Rollout


class Reporter:
    """
    :param model: The model that learns
    :param callback: The callback of this ``learn()``
    :param needs: What the callback reads. Nothing else is prepared for it
    :param parameters: The shared parameters
    :param log_interval: Rollouts of all environments between two logs, None: no logs
    :param advice: Measures the rollouts
    :param resamples_noise: Whether the policy's noise matrices (gSDE) are drawn anew when callbacks see it. A single worker on
        the torch engine draws them
    """

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        callback: BaseCallback,
        needs: CallbackNeeds,
        parameters: SharedParameters,
        log_interval: int | None,
        advice: Advice,
        resamples_noise: bool,
    ) -> None:
        self._model = model
        self._callback = callback
        self._needs = needs
        self._sync = PolicySync(model.policy, parameters)
        self._log_interval = log_interval
        self._iteration = 0
        self._asynchrony = Asynchrony()
        self._advice = advice
        self._resamples_noise = resamples_noise
        self._unrecorded: Sequence[Rollout] = ()
        self._learning_rate: float | None = None
        self._acts_at_start = acts_at_rollout_start(callback)
        #: Whether callbacks may have changed the policy since the last :meth:`absorb`.
        self._written_to = False
        #: What the callback reads within the next rollout.
        self.needs = self._needs_in_next_rollout()

    def __enter__(self) -> None:
        self._sync.open()

    def __exit__(self, *exc_info: object) -> None:
        """Make the tensors of the model's policy separate again."""
        self._sync.close()

    def start_rollout(self) -> bool:
        """
        Let callbacks know that a rollout begins, if a single worker waits for what they change.

        :return: Whether they may have changed something
        """
        start_rollout(self._model, self._callback, self.needs)
        self._written_to |= self._acts_at_start
        return self._acts_at_start

    def report(self, rollouts: Sequence[Rollout]) -> bool:
        """
        Report one rollout per worker, concatenated along the environment axis.

        :param rollouts: The rollouts, in the order of the environments
        :return: False if a callback wants training to stop
        """
        self._written_to = self.needs >= CallbackNeeds.MODEL
        if not report_steps(self._model, self._callback, self.needs, rollouts):
            return False
        self._iteration += 1
        model = self._model
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        if self._due(self._iteration):
            model.dump_logs(self._iteration)
            self._asynchrony = Asynchrony()
        return True

    @property
    def written(self) -> RolloutBuffer | None:
        """The rollout buffer, if callbacks have seen it and may have written to it, else None."""
        return self._model.rollout_buffer if self.needs == CallbackNeeds.STEPS else None

    def absorb(self) -> None:
        """Add changes that callbacks have made to the policy to the shared parameters."""
        self._sync.absorb()
        self._written_to = False

    def count(self, rollouts: Sequence[Rollout]) -> None:
        """
        Count the updates of the rollouts that were replayed last, and bring up to date what callbacks read next.

        :param rollouts: The rollouts, now with their losses
        """
        model = self._model
        self._learning_rate = rollouts[-1].learning_rates[0]
        model._n_updates += len(rollouts)
        if rollouts[0].gradient is not None and self.needs >= CallbackNeeds.MODEL:
            self._sync.show_gradient(rollouts[0].gradient, rollouts[0].losses.without_gradient)
        self._asynchrony.count(rollouts)
        self._advice.count(rollouts)
        self._unrecorded = rollouts
        was, self.needs = self.needs, self._needs_in_next_rollout()
        if was < self.needs:
            catch_up(model, rollouts)
        if self.needs >= CallbackNeeds.MODEL or self._due(self._iteration + 1):
            self.refresh()

    def refresh(self) -> None:
        """Bring the model's policy and its logger up to date."""
        if self._written_to:
            self._written_to = False  # what can't be absorbed is dropped when this is called again
            self.absorb()
        self._sync.refresh(self._learning_rate)
        if self._resamples_noise:
            self._model.policy.reset_noise(self._model.n_envs)
        if self._unrecorded:
            self._record_updates(self._unrecorded)
            self._asynchrony.record(self._model.logger)
            self._unrecorded = ()

    def _needs_in_next_rollout(self) -> CallbackNeeds:
        if self._needs == CallbackNeeds.MODEL and not looks_within(self._callback, self._model.n_steps):
            return CallbackNeeds.COUNT
        return self._needs

    def _due(self, iteration: int) -> bool:
        return self._log_interval is not None and iteration % self._log_interval == 0

    def _record_updates(self, rollouts: Sequence[Rollout]) -> None:
        """Record what ``A2C.train`` records, for the updates of these rollouts."""
        model, logger, arguments = self._model, self._model.logger, Arguments.of(self._model)
        buffers = [rollout.rollout_buffer for rollout in rollouts]
        values, returns = (
            np.concatenate([RolloutBuffer.swap_and_flatten(getattr(buffer, name)) for buffer in buffers])
            for name in ("values", "returns")
        )
        losses = [rollout.losses for rollout in rollouts if not math.isnan(rollout.losses.policy_loss)]
        logger.record("train/learning_rate", rollouts[-1].learning_rates[0])
        if arguments.vf_learning_rate is not None:
            logger.record("train/vf_learning_rate", rollouts[-1].learning_rates[1])
        logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        logger.record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))
        if losses:  # rollouts of batches may have no transition, and then have no loss
            logger.record("train/entropy_loss", fmean(loss.entropy_loss for loss in losses))
            logger.record("train/policy_loss", fmean(loss.policy_loss for loss in losses))
            logger.record("train/value_loss", fmean(loss.value_loss for loss in losses))
        std = th.exp(model.policy.log_std).mean().item() if hasattr(model.policy, "log_std") else None
        if std is not None:
            logger.record("train/std", std)
        if isinstance(as_numbers(arguments.ent_coef), list) or isinstance(as_numbers(arguments.std_scale), list):
            self._record_exploration(rollouts, arguments, std)

    def _record_exploration(self, rollouts: Sequence[Rollout], arguments: Arguments, std: float | None) -> None:
        """Record how each worker explores, if they differ."""
        logger = self._model.logger
        for rollout in rollouts:
            key, worker = f"worker_{rollout.worker}", rollout.worker
            if not math.isnan(rollout.losses.entropy_loss):
                logger.record(f"{key}/entropy", -rollout.losses.entropy_loss)
            logger.record(f"{key}/ent_coef", of_worker(arguments.ent_coef, worker))
            if std is not None:
                logger.record(f"{key}/std", std * of_worker(arguments.std_scale, worker))

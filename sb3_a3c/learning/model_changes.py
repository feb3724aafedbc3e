"""Changes that callbacks make to a model while it learns, other than to its parameters, and how workers get them."""

import math
from collections.abc import Sequence

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.backends import SeenWorker
from sb3_a3c.engines.hyperparameters import Hyperparameters, of_worker
from sb3_a3c.envs.attributes import AttributesOfEnv, EnvAttributes
from sb3_a3c.learning.arguments import Arguments
from sb3_a3c.policies.copies import clone_policy
from sb3_a3c.policies.hooks import RulesOfPolicy, prepare_module_hooks


class ModelChanges:
    """
    Reads hyperparameters, frozen parameters, hooks and the switches of wrappers after callbacks may have changed them.

    :param model: The model that learns
    :param sliced: Whether workers step slices of its VecEnv, not the VecEnv itself
    :param is_remote: Whether workers are in other processes
    """

    def __init__(self, model: OnPolicyAlgorithm, sliced: bool, is_remote: bool) -> None:
        assert model.env is not None
        self._model = model
        self._rules = RulesOfPolicy(model.policy, is_remote)
        self._attributes = AttributesOfEnv(model.env) if sliced else None
        #: The policy that workers copy.
        self.policy: ActorCriticPolicy = model.policy
        if is_remote:
            self.policy = clone_policy(model.policy)
            prepare_module_hooks(self.policy)

    def hyperparameters(self, n_workers: int) -> list[Hyperparameters]:
        """
        :param n_workers: The number of workers
        :return: The present hyperparameters of each worker
        """
        return self._hyperparameters(Arguments.of(self._model), n_workers)

    def tell(self, workers: Sequence[SeenWorker]) -> None:
        """
        Send the present hyperparameters to the workers. They apply from the next rollout on. A single worker, which waits for
        callbacks, uses them to learn from the present rollout.

        :param workers: The workers
        :raises ValueError: if a callback has set a hyperparameter to a value that is not allowed
        """
        arguments = Arguments.of(self._model)
        arguments.check_hyperparameters()
        arguments.check_std_scale(self._model.policy)
        assert self._model.env is not None
        arguments.resolve_n_workers(self._model.env)  # raises an error unless there is one value per worker
        for worker, hyperparameters in zip(workers, self._hyperparameters(arguments, len(workers)), strict=True):
            worker.hyperparameters = hyperparameters

    def _hyperparameters(self, arguments: Arguments, n_workers: int) -> list[Hyperparameters]:
        model, rules = self._model, self._rules.read()
        attributes = EnvAttributes() if self._attributes is None else self._attributes.read()
        return [
            Hyperparameters(
                gamma=arguments.gamma,
                ent_coef=of_worker(arguments.ent_coef, worker),
                log_std_offset=math.log(of_worker(arguments.std_scale, worker)),
                vf_coef=arguments.vf_coef,
                max_grad_norm=arguments.max_grad_norm,
                normalize_advantage=arguments.normalize_advantage,
                sde_sample_freq=arguments.sde_sample_freq,
                lr_schedule=model.lr_schedule,
                vf_lr_schedule=arguments.vf_lr_schedule,
                rules=rules,
                returns=(model.rollout_buffer.gamma, model.rollout_buffer.gae_lambda),
                env_attributes=attributes,
            )
            for worker in range(n_workers)
        ]

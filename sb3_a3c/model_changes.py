"""What callbacks change in a model while it learns, apart from its parameters, and how the workers hear of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.arguments import check_hyperparameters, resolve_n_workers
from sb3_a3c.backends import SeenWorker
from sb3_a3c.env_attributes import AttributesOfEnv, EnvAttributes
from sb3_a3c.hyperparameters import Hyperparameters
from sb3_a3c.policy_copies import clone_policy
from sb3_a3c.policy_hooks import RulesOfPolicy, prepare_module_hooks

if TYPE_CHECKING:
    from sb3_a3c.a3c import A3C


class ModelChanges:
    """
    Reads hyperparameters, frozen parameters, hooks and the switches of wrappers, as often as a callback may have changed them.

    :param model: The model that learns
    :param sliced: Whether workers step slices of its VecEnv, and not the VecEnv itself
    :param elsewhere: Whether workers are in other processes
    """

    def __init__(self, model: "A3C", sliced: bool, elsewhere: bool) -> None:
        assert model.env is not None
        self._model = model
        self._rules = RulesOfPolicy(model.policy, elsewhere)
        self._attributes = AttributesOfEnv(model.env) if sliced else None
        #: The policy that workers make copies of.
        self.policy: ActorCriticPolicy = model.policy
        if elsewhere:
            self.policy = clone_policy(model.policy)
            prepare_module_hooks(self.policy)

    def hyperparameters(self, n_workers: int) -> list[Hyperparameters]:
        """
        :param n_workers: How many workers there are
        :return: What each of them is to compute with now
        """
        rules = self._rules.read()
        attributes = EnvAttributes() if self._attributes is None else self._attributes.read()
        return [Hyperparameters.of(self._model, worker, rules, attributes) for worker in range(n_workers)]

    def tell(self, workers: Sequence[SeenWorker]) -> None:
        """
        Tell the workers what has changed. They compute with it from their next rollout on; one worker that waits for callbacks
        learns with it from this one.

        :param workers: The workers
        :raises ValueError: if a callback has set a hyperparameter to a value that is not allowed
        """
        check_hyperparameters(self._model)
        resolve_n_workers(self._model, self._model.n_envs)  # as many values as there are workers
        for worker, hyperparameters in zip(workers, self.hyperparameters(len(workers)), strict=True):
            worker.hyperparameters = hyperparameters

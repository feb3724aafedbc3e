"""The policies that A3C learns with: those of A2C, BoundedMlpPolicy, and sb3_contrib's recurrent ones."""

from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_a3c.policies.bounded import BoundedMlpPolicy as BoundedMlpPolicy
from sb3_a3c.system.extras import require

MlpPolicy = ActorCriticPolicy
CnnPolicy = ActorCriticCnnPolicy
MultiInputPolicy = MultiInputActorCriticPolicy

#: Names of the policies in :mod:`sb3_a3c.policies.recurrent`, which is imported only if one of them is used.
RECURRENT_POLICIES = ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", "MlpGruPolicy")


def recurrent_policy(name: str) -> type[ActorCriticPolicy]:
    """
    :param name: One of ``RECURRENT_POLICIES``
    :return: The policy class
    :raises MissingExtra: if sb3_contrib is not installed
    """
    require("recurrent", f"The policy {name}", "sb3_contrib")
    from sb3_a3c.policies import recurrent

    return getattr(recurrent, name)

"""Names of recurrent policies, which are imported only if they are used, because they need an extra."""

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.system.extras import require

#: Names of the policies in :mod:`sb3_a3c.policies.recurrent`.
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

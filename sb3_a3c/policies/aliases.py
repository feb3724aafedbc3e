"""Names of policies. Recurrent policies are imported only if they are used, because they need an extra."""

from collections.abc import Mapping

from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from sb3_a3c.system.extras import require

#: Names of the policies in :mod:`sb3_a3c.policies.recurrent`.
RECURRENT_POLICIES = ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", "MlpGruPolicy")


def policy_of_name(name: str, others: Mapping[str, type[BasePolicy]]) -> type[BasePolicy]:
    """
    :param name: The name of a policy
    :param others: Policies that are not recurrent, by name
    :return: The policy class
    :raises MissingExtra: if the policy is recurrent and sb3_contrib is not installed
    :raises ValueError: if there is no policy of that name
    """
    if name in RECURRENT_POLICIES:
        return recurrent_policy(name)
    if name in others:
        return others[name]
    names = sorted([*others, *RECURRENT_POLICIES])
    raise ValueError(f"policy must be one of {names}, or a class of actor-critic policies, but it is {name!r}")


def recurrent_policy(name: str) -> type[ActorCriticPolicy]:
    """
    :param name: One of ``RECURRENT_POLICIES``
    :return: The policy class
    :raises MissingExtra: if sb3_contrib is not installed
    """
    require("recurrent", f"The policy {name}", "sb3_contrib")
    from sb3_a3c.policies import recurrent

    return getattr(recurrent, name)

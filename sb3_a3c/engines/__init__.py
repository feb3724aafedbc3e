"""The arithmetic of one worker's policy: the engines by name, and the choice among them."""

from typing import NamedTuple

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.engines.protocol import Action, Engine, Losses, State, stack
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.engines.turns import make_turn

#: The engines by name, in the order in which "auto" tries them.
ENGINES: dict[str, type[Engine]] = {"fused": FusedEngine, "torch": TorchEngine}


class Choice(NamedTuple):
    """
    The engine that computes a policy.

    :param name: Its key in ``ENGINES``
    :param reason: Why this one
    """

    name: str
    reason: str


def choose_engine(name: str, policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None = None) -> Choice:
    """
    :param name: A key of ``ENGINES``, or "auto"
    :param policy: The policy to compute
    :param rollout_buffer_class: The class of rollout buffers, None: SB3's
    :return: The engine of that name. "auto": the first that computes the policy and has no drawback
    :raises ValueError: if the engine can't compute the policy with such buffers
    """
    if name == "auto":
        reasons: list[str] = []
        for candidate, engine in ENGINES.items():
            why_not = engine.misfit(policy, rollout_buffer_class) or engine.drawback(policy)
            if why_not is None:
                return Choice(candidate, "; ".join(reasons) or "the policy fits it")
            reasons.append(f"not {candidate}: {why_not}")
        raise ValueError(f"no engine computes this policy: {'; '.join(reasons)}")
    misfit = ENGINES[name].misfit(policy, rollout_buffer_class)
    if misfit is None:
        return Choice(name, "as asked for")
    fitting = ["auto", *(other for other, engine in ENGINES.items() if engine.misfit(policy, rollout_buffer_class) is None)]
    raise ValueError(f"engine must be {' or '.join(map(repr, fitting))} for this policy, but it is {name!r}: {misfit}")


__all__ = ["ENGINES", "Action", "Choice", "Engine", "Losses", "State", "choose_engine", "make_turn", "stack"]

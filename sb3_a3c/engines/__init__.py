"""The seam between a worker and the arithmetic of its policy: which engines there are, and which one to take."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.engines.protocol import Action, Engine, Losses
from sb3_a3c.engines.reference import ReferenceEngine
from sb3_a3c.engines.turns import make_turn
from sb3_a3c.layout import Layout

#: The engines by the names that users type; "auto" takes the fastest that computes what the policy does.
ENGINES: dict[str, Callable[..., Engine]] = {"auto": ReferenceEngine, "torch": ReferenceEngine}


def make_engine(
    name: str,
    policy: ActorCriticPolicy,
    layout: Layout,
    action_space: spaces.Space,
    turn: AbstractContextManager,
    seed: np.random.SeedSequence | None,
) -> Engine:
    """
    :param name: A key of ``ENGINES``
    :param policy: The policy to compute; the engine works on a clone of it
    :param layout: Where each of its parameters lies in a vector
    :param action_space: The actions that the environments take
    :param turn: What the engines of one run hold while they compute
    :param seed: Seed of the engine's own random generators; None: it draws from torch's and NumPy's, as A2C does
    :return: A new engine, with the policy's parameters
    """
    return ENGINES[name](policy, layout, action_space, turn, seed)


__all__ = ["ENGINES", "Action", "Engine", "Losses", "make_engine", "make_turn"]

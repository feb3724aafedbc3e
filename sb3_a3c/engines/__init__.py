"""The seam between a worker and the arithmetic of its policy: which engines there are, and which one to take."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.engines.network import why_not_fused
from sb3_a3c.engines.protocol import Action, Engine, Losses, overrides_get, stack
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.engines.turns import LARGE, make_turn
from sb3_a3c.kernels.cache import KERNELS
from sb3_a3c.parameters.layout import Layout

#: The engines by the names that users type; "auto" takes the fastest that computes what the policy does.
ENGINES: dict[str, Callable[..., Engine] | None] = {"auto": None, "fused": FusedEngine, "torch": TorchEngine}


class Choice(NamedTuple):
    """
    Which engine will compute a policy.

    :param name: A key of ``ENGINES``, not "auto"
    :param reason: Why it is that one
    """

    name: str
    reason: str


def choose_engine(name: str, policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None = None) -> Choice:
    """
    :param name: A key of ``ENGINES``, as the user typed it
    :param policy: The policy to compute
    :param rollout_buffer_class: The class of the rollout buffers, None: SB3's
    :return: The engine to take
    :raises ValueError: if the policy or the buffer does not fit the engine that the user wants
    """
    misfit = None if name == "torch" else why_not_fused(policy)
    if misfit is None and name != "torch" and rollout_buffer_class is not None and overrides_get(rollout_buffer_class):
        misfit = f"{rollout_buffer_class.__name__} has its own get()"
    n_parameters = sum(param.numel() for param in policy.parameters())
    if name == "auto" and misfit is None and not KERNELS:
        misfit = "NUMBA_DISABLE_JIT is set, and without compilation torch is faster"
    if name == "auto" and misfit is None and n_parameters >= LARGE:
        misfit = f"with {n_parameters:,} parameters torch is as fast, and lets other workers compute meanwhile"
    if name == "auto":
        return Choice("fused", "the policy fits it") if misfit is None else Choice("torch", f"not fused: {misfit}")
    if misfit is not None:
        raise ValueError(f"engine must be 'auto' or 'torch' for this policy, but it is {name!r}: {misfit}")
    return Choice(name, "as asked for")


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
    :raises ValueError: if the policy does not fit the engine of that name
    """
    engine_class = ENGINES[choose_engine(name, policy).name]
    assert engine_class is not None
    return engine_class(policy, layout, action_space, turn, seed)


__all__ = ["ENGINES", "Action", "Choice", "Engine", "Losses", "choose_engine", "make_engine", "make_turn", "stack"]

"""Warnings about spaces whose values differ from those that SB3's policies use, and about action masks, which none uses."""

import warnings
from contextlib import suppress

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


def warn_of_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Warn if a policy reads or chooses values outside of a space. A2C does so without a warning.

    :param observation_space: The space of observations
    :param action_space: The space of actions
    """
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for space in parts:
        if _starts_elsewhere(space):
            _warn(
                f"observation_space has {space}, but SB3's policies read its values as whole numbers from 0 to n-1, and an "
                "observation outside of this range is an error: subtract 'start' in a wrapper"
            )
    if _starts_elsewhere(action_space):
        _warn(
            f"action_space is {action_space}, but SB3's policies choose whole numbers from 0 to n-1, and the environment gets "
            "these: add 'start' in a wrapper"
        )
    if isinstance(action_space, spaces.Box) and np.issubdtype(action_space.dtype, np.integer):
        _warn(
            f"action_space is {action_space}, but SB3's policies choose real numbers for a Box, and the environment gets "
            "these: round them in a wrapper, or use a MultiDiscrete space"
        )


def warn_of_action_masks(env: VecEnv | None, stacklevel: int) -> None:
    """
    Warn if environments have action masks.

    :param env: The environments, None: there are none yet
    :param stacklevel: Where the warning is shown, see :func:`warnings.warn`, seen from the caller
    """
    with suppress(NotImplementedError, AttributeError):  # a VecEnv may have no get_attr(), or no has_attr() (SuperSuit's)
        if env is not None and env.has_attr("action_masks"):
            warnings.warn(
                "the environments have action masks, but A3C does not use action masks: invalid actions will be chosen. Use "
                "MaskablePPO from sb3_contrib",
                stacklevel=stacklevel + 1,
            )


def _starts_elsewhere(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and bool(np.any(space.start != 0))


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=5)  # where the model is made

"""Converts observations and actions between the shapes and types of environments and those of the kernels."""

from typing import NoReturn

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape


class Conversions:
    """
    :param observation_space: The observations of the policy
    :param action_space: The actions that the environments take
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        assert action_space.shape is not None
        #: Numbers per observation.
        self.n_obs = int(np.prod(get_obs_shape(observation_space)))  # type: ignore[arg-type]
        #: Numbers per action.
        self.n_actions = get_action_dim(action_space)
        #: Whether environments get actions that are clipped.
        self.clips = isinstance(action_space, spaces.Box)
        self._observation_space = observation_space
        self._action_shape = action_space.shape
        self._flat_actions = self._action_shape == (self.n_actions,)
        self._whole_numbers = isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete)

    def flat(self, obs: np.ndarray) -> np.ndarray:
        """
        :param obs: Observations of a VecEnv, ``(n, ...)``
        :return: The same as ``(n, n_obs)`` in float32
        """
        return float32(obs, (len(obs), self.n_obs))

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: ``(..., n_actions)`` in float32
        :return: The same as the torch engine returns them
        """
        if self._whole_numbers:
            actions = actions.astype(np.int64)
        return actions if self._flat_actions else actions.reshape(*actions.shape[:-1], *self._action_shape)

    def explain(self, trouble: int, obs: np.ndarray) -> NoReturn:
        """
        Raise an error that says what is wrong with observations.

        :param trouble: What the kernel :func:`~sb3_a3c.kernels.acting.act` has returned
        :param obs: The observations that it was called with
        """
        observations = self.flat(obs)
        if trouble < len(observations):
            raise ValueError(f"the observation {observations[trouble]} is not in the space {self._observation_space}")
        observation = observations[trouble - len(observations)]
        raise ValueError(f"the policy's outputs for the observation {observation} contain nan or inf")


def float32(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """
    :param array: Numbers
    :param shape: A shape of the same size
    :return: The same in the kernels' only type: float32, contiguous and writable
    """
    if array.dtype != np.float32 or not array.flags.carray:
        array = np.require(array, dtype=np.float32, requirements=["C", "W", "A"])
    return array if array.shape == shape else array.reshape(shape)

"""
Tasks that need a memory, registered with Gymnasium when this file is imported, and algorithms to learn them.

``Cue20-v0`` and ``Cue50-v0`` show a cue at the first of 20 or 50 steps and ask for it at the last one. A policy that does not
remember it gets half of the returns of one that does. ``CartPoleNoVel-v1`` shows the two positions of CartPole only.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_a3c import A3C

TASKS = ["Cue20-v0", "Cue50-v0", "CartPoleNoVel-v1"]


class Cue(gym.Env):
    """
    A cue at the start of an episode has to be given back as the last action. All other actions have no effect.

    An observation has three numbers: the cue, -1 or 1 at the first step and 0 afterwards; 1 at the last step, 0 before; and
    the part of the episode that is left. The reward is 1 at the end if the last action is the cue's, and 0 otherwise.

    :param length: The number of steps of an episode
    """

    def __init__(self, length: int, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (3,))
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._length = length
        self._cue = self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue = int(self.np_random.integers(2))
        self._step = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._step += 1
        terminated = self._step == self._length
        return self._observation(), float(terminated and action == self._cue), terminated, False, {}

    def _observation(self) -> np.ndarray:
        cue = 2.0 * self._cue - 1.0 if self._step == 0 else 0.0
        return np.array([cue, self._step == self._length - 1, 1.0 - self._step / self._length], dtype=np.float32)


class WithoutVelocities(gym.ObservationWrapper):
    """
    Leaves out a part of the observations.

    :param env: The environment
    :param kept: Indices of the numbers to keep
    """

    def __init__(self, env: gym.Env, kept: list[int]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Box)
        self._kept = kept
        self.observation_space = spaces.Box(env.observation_space.low[kept], env.observation_space.high[kept])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: All of it
        :return: What is kept
        """
        return observation[self._kept]


def _make_cue(**kwargs: Any) -> gym.Env:
    return Cue(**kwargs)


def _make_cartpole(**kwargs: Any) -> gym.Env:
    return WithoutVelocities(gym.make("CartPole-v1", **kwargs), [0, 2])


gym.register("Cue20-v0", _make_cue, reward_threshold=0.95, kwargs=dict(length=20))
gym.register("Cue50-v0", _make_cue, reward_threshold=0.95, kwargs=dict(length=50))
gym.register("CartPoleNoVel-v1", _make_cartpole, reward_threshold=450.0)


def open_forget_gates(policy: BasePolicy, bias: float = 3.0) -> None:
    """
    Let LSTMs keep their cell states from the start (Jozefowicz et al. 2015), as they must to learn over tens of steps. With
    torch's initial values a forget gate is half open, so that a millionth of a state is left after 20 steps.

    :param policy: The policy
    :param bias: What to add to the biases of its forget gates
    """
    with th.no_grad():
        for lstm in policy.modules():
            if isinstance(lstm, nn.LSTM):
                size = lstm.hidden_size
                for layer in range(lstm.num_layers):
                    getattr(lstm, f"bias_hh_l{layer}")[size : 2 * size] += bias  # the gates are input, forget, cell, output


class A3CLstm(A3C):
    """A3C whose LSTMs begin with open forget gates."""

    def _setup_model(self) -> None:
        super()._setup_model()
        open_forget_gates(self.policy)


class RecurrentPPOLstm(RecurrentPPO):
    """RecurrentPPO whose LSTMs begin with open forget gates."""

    def _setup_model(self) -> None:
        super()._setup_model()
        open_forget_gates(self.policy)

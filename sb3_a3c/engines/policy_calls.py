"""How the torch engine calls a policy: a feed-forward one as A2C does, a recurrent one as RecurrentPPO does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.engines.protocol import State
from sb3_a3c.policies.recurrent_states import as_array, as_rnn_states, zero_states

Obs = Any
#: Values, log probabilities and entropies.
Evaluation = tuple[th.Tensor, th.Tensor, th.Tensor | None]


class FeedForwardCalls:
    """
    Calls of a policy without a hidden state.

    :param policy: The policy
    :param permutation: Draws a permutation of the samples of a rollout
    """

    def __init__(self, policy: ActorCriticPolicy, permutation: Callable[[int], np.ndarray]) -> None:
        self._policy: Any = policy
        #: The order in which samples are learned from.
        self.permutation = permutation
        self.state: State | None = None

    def start_rollout(self) -> None:
        """Begin a rollout with the present state."""

    def states(self) -> np.ndarray | None:
        """
        :return: The states after each step of this rollout, ``(n_steps, n_envs, ...)``. None: there are none
        """
        return None

    def forward(self, obs: Obs, episode_starts: np.ndarray) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: The observation of each environment
        :param episode_starts: Whether episodes start with the observations, ``(n_envs,)``
        :return: Actions, values and log probabilities
        """
        return self._policy(obs)

    def predict_values(self, obs: Obs, episode_starts: np.ndarray) -> th.Tensor:
        """
        :param obs: The observation of each environment
        :param episode_starts: Whether episodes start with the observations, ``(n_envs,)``
        :return: Their values, ``(n_envs, 1)``
        """
        return self._policy.predict_values(obs)

    def predict_terminal_value(self, obs: Obs, env_index: int) -> th.Tensor:
        """
        :param obs: The last observation of an episode, as a batch of one
        :param env_index: Index of its environment
        :return: Its value, ``(1,)``
        """
        return self._policy.predict_values(obs)[0]

    def evaluate(self, obs: Obs, actions: th.Tensor, rollout_buffer: RolloutBuffer) -> Evaluation:
        """
        :param obs: The observations of a rollout, ``(n_envs * n_steps, ...)``
        :param actions: The actions
        :param rollout_buffer: The rollout
        :return: Values, log probabilities and entropies
        """
        return self._policy.evaluate_actions(obs, actions)


class RecurrentCalls(FeedForwardCalls):
    """
    Calls of a recurrent policy of sb3_contrib. Hidden states are zeroed where episodes start. The gradient flows back through
    the steps of one rollout (truncated back-propagation through time).
    """

    def __init__(self, policy: ActorCriticPolicy, permutation: Callable[[int], np.ndarray]) -> None:
        super().__init__(policy, np.arange)  # sequences keep their order
        self._states: Any = None
        #: The states at the start of the rollout, and after each of its steps.
        self._states_of_rollout: list[Any] = []

    @property
    def state(self) -> State | None:
        """The states of each environment, see :mod:`~sb3_a3c.policies.recurrent_states`. None: they begin anew."""
        return None if self._states is None else as_array(self._states)

    @state.setter
    def state(self, state: State | None) -> None:
        self._states = None if state is None else as_rnn_states(state, self._policy.device)

    def start_rollout(self) -> None:
        """See :meth:`FeedForwardCalls.start_rollout`."""
        self._states_of_rollout = [self._states]

    def states(self) -> np.ndarray:
        """See :meth:`FeedForwardCalls.states`."""
        return np.stack([as_array(states) for states in self._states_of_rollout[1:]])

    def forward(self, obs: Obs, episode_starts: np.ndarray) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`FeedForwardCalls.forward`."""
        if self._states is None:
            self._states = zero_states(self._policy, len(episode_starts))
            self._states_of_rollout = [self._states]
        actions, values, log_probs, self._states = self._policy(obs, self._states, self._starts(episode_starts))
        self._states_of_rollout.append(self._states)
        return actions, values, log_probs

    def predict_values(self, obs: Obs, episode_starts: np.ndarray) -> th.Tensor:
        """See :meth:`FeedForwardCalls.predict_values`."""
        return self._policy.predict_values(obs, self._states.vf, self._starts(episode_starts))

    def predict_terminal_value(self, obs: Obs, env_index: int) -> th.Tensor:
        """See :meth:`FeedForwardCalls.predict_terminal_value`. The state is that after the episode's last step."""
        hidden, cell = self._states.vf
        one = slice(env_index, env_index + 1)
        state = hidden[:, one].contiguous(), cell[:, one].contiguous()
        return self._policy.predict_values(obs, state, self._starts(np.zeros(1)))[0]

    def evaluate(self, obs: Obs, actions: th.Tensor, rollout_buffer: RolloutBuffer) -> Evaluation:
        """See :meth:`FeedForwardCalls.evaluate`."""
        starts = rollout_buffer.swap_and_flatten(rollout_buffer.episode_starts).flatten()
        return self._policy.evaluate_actions(obs, actions, self._states_of_rollout[0], self._starts(starts))

    def _starts(self, episode_starts: np.ndarray) -> th.Tensor:
        return th.as_tensor(episode_starts, dtype=th.float32, device=self._policy.device)

"""What an engine does: the arithmetic of one worker's policy, seen from the worker."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.parameters.layout import Vector


class Action(NamedTuple):
    """
    What a policy does with one observation of each environment, or with some of each, one after another. Names and shapes
    are those of SB3's collector; of many steps, all have another first axis of ``n_steps``.

    An engine that computes without torch leaves arrays where SB3 has tensors: :meth:`as_tensors` makes them what they are
    to callbacks, when there are any.

    :param obs: The observations as the policy reads them, each of shape ``(n_envs, ...)``
    :param actions: As sampled, of shape ``(n_envs, *action_space.shape)``
    :param clipped_actions: As the environments take them, of the same shape
    :param values: Of shape ``(n_envs, 1)``, or ``(n_envs,)`` as an array
    :param log_probs: Of ``actions``, of shape ``(n_envs,)``
    """

    obs: th.Tensor | dict[str, th.Tensor] | np.ndarray
    actions: np.ndarray
    clipped_actions: np.ndarray
    values: th.Tensor | np.ndarray
    log_probs: th.Tensor | np.ndarray

    def as_tensors(self) -> "Action":
        """
        :return: The same with tensors for observations, values, of shape ``(n_envs, 1)``, and log probabilities
        """
        obs = self.obs if isinstance(self.obs, dict) else th.as_tensor(self.obs)
        values = self.values if isinstance(self.values, th.Tensor) else th.as_tensor(self.values)[..., None]
        return self._replace(obs=obs, values=values, log_probs=th.as_tensor(self.log_probs))

    @classmethod
    def stacked(cls, actions: Sequence["Action"]) -> "Action":
        """
        :param actions: Those of some steps
        :return: All of them in one
        """
        return cls(*(stack(column) for column in zip(*actions, strict=True)))


class Losses(NamedTuple):
    """
    What a gradient was computed from, each a mean over the rollout.

    :param policy_loss: ``-A log pi(a|s)``
    :param value_loss: ``(R - V(s))^2``
    :param entropy_loss: ``-H(pi(s))``
    :param finite: Whether every element of the gradient is a finite number
    :param without_gradient: Indices of the parameters that have no gradient, in the order of the layout
    """

    policy_loss: float
    value_loss: float
    entropy_loss: float
    finite: bool
    without_gradient: tuple[int, ...] = ()


class Engine(Protocol):
    """
    One worker's local parameters (the paper's theta') and all that is computed from them. It holds whatever state the
    policy has between steps, so that one collector serves every kind of policy.
    """

    #: The local parameters, of shape ``(size,)``; writing them changes the policy.
    vector: th.Tensor
    #: The policy's buffers (BatchNorm's running statistics).
    buffers: list[th.Tensor]

    def follow(self, hyperparameters: Hyperparameters) -> None:
        """
        Go on with other hyperparameters.

        :param hyperparameters: What is computed with from now on
        """

    def start_rollout(self, rollout_buffer: RolloutBuffer, hyperparameters: Hyperparameters) -> None:
        """
        Begin a rollout, with the parameters as they now are.

        :param rollout_buffer: The rollout, empty; the engine writes it until :meth:`compute_returns`
        :param hyperparameters: What this rollout is collected and learned with
        """

    def act(self, obs: VecEnvObs, n_steps: int) -> np.ndarray:
        """
        Sample an action for each environment.

        :param obs: Observations as a VecEnv gives them, each of shape ``(n_envs, ...)``
        :param n_steps: Steps of this rollout before this one
        :return: The actions as the environments take them, of shape ``(n_envs, *action_space.shape)``
        """

    def actions(self) -> Action:
        """
        :return: All that :meth:`act` has made in this rollout, step by step
        """

    def add(self, rewards: np.ndarray, episode_starts: np.ndarray) -> None:
        """
        Add the last :meth:`act` to the rollout.

        :param rewards: What came of it, of shape ``(n_envs,)``
        :param episode_starts: Whether an episode started with the observation, of shape ``(n_envs,)``
        """

    def compute_returns(self, last_obs: VecEnvObs, dones: np.ndarray) -> th.Tensor | np.ndarray:
        """
        Returns and advantages of the full rollout, as ``RolloutBuffer.compute_returns_and_advantage`` has them.

        :param last_obs: What was observed after its last step, each of shape ``(n_envs, ...)``
        :param dones: Whether episodes ended with it, of shape ``(n_envs,)``
        :return: The values of the last observations, of shape ``(n_envs, 1)``
        """

    def predict_terminal_value(self, obs: VecEnvObs) -> th.Tensor | float:
        """
        :param obs: The last observation of one episode, without an axis for environments
        :return: Its value
        """

    def gradient(self, rollout_buffer: RolloutBuffer, out: Vector) -> Losses:
        """
        The gradient of A2C's loss over a rollout, clipped to ``max_grad_norm``.

        :param rollout_buffer: A full buffer with its returns and advantages; it is left as it is
        :param out: Where the gradient is written, of shape ``(size,)``
        :return: The losses
        """


def stack(parts: Sequence[Any]) -> Any:
    """
    :param parts: What there was at each step: arrays, tensors or dicts of them
    :return: One of the same kind, with a first axis of ``n_steps``
    """
    first = parts[0]
    if isinstance(first, dict):
        return {key: stack([part[key] for part in parts]) for key in first}
    if isinstance(first, th.Tensor):
        return th.stack(list(parts))
    return np.concatenate(parts).reshape(len(parts), *first.shape)


def add_to_buffer(
    rollout_buffer: RolloutBuffer, obs: VecEnvObs, action: Action, rewards: np.ndarray, episode_starts: np.ndarray
) -> None:
    """See :meth:`Engine.add`: as SB3's collector does it, for any class of rollout buffers."""
    _, actions, _, values, log_probs = action.as_tensors()
    if isinstance(rollout_buffer.action_space, spaces.Discrete):
        actions = actions.reshape(-1, 1)
    rollout_buffer.add(obs, actions, rewards, episode_starts, values, log_probs)  # type: ignore[arg-type]


def overrides_get(rollout_buffer_class: type[RolloutBuffer]) -> bool:
    """
    :param rollout_buffer_class: A class of rollout buffers
    :return: Whether its samples come from a ``get()`` that is not SB3's
    """
    return rollout_buffer_class.get not in (RolloutBuffer.get, DictRolloutBuffer.get)

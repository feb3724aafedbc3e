"""What an engine does: the arithmetic of one worker's policy, seen from the worker."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.system.memory import as_tensor

#: The hidden state of a recurrent policy, ``(n_envs, ...)``. See :mod:`~sb3_a3c.policies.recurrent_states` for sb3_contrib's.
State = np.ndarray


class Action(NamedTuple):
    """
    The result of a policy for one observation of each environment. Names and shapes are those of SB3's collector. For
    several steps, all arrays have another first axis of ``n_steps``.

    An engine that computes without torch returns arrays where SB3 has tensors. :meth:`as_tensors` converts them, if there are
    callbacks to see them.

    :param obs: The observations as the policy reads them, each ``(n_envs, ...)``
    :param actions: As sampled, ``(n_envs, *action_space.shape)``
    :param clipped_actions: As given to the environments, of the same shape
    :param values: ``(n_envs, 1)``, or ``(n_envs,)`` as an array
    :param log_probs: Log probabilities of ``actions``, ``(n_envs,)``
    :param state: The hidden state of a recurrent policy after the step. None: there is none
    """

    obs: th.Tensor | dict[str, th.Tensor] | np.ndarray
    actions: np.ndarray
    clipped_actions: np.ndarray
    values: th.Tensor | np.ndarray
    log_probs: th.Tensor | np.ndarray
    state: State | None = None

    def as_tensors(self) -> "Action":
        """
        :return: The same with tensors for observations, values ``(n_envs, 1)`` and log probabilities
        """
        obs = self.obs if isinstance(self.obs, dict) else as_tensor(self.obs)
        values = self.values if isinstance(self.values, th.Tensor) else as_tensor(self.values)[..., None]
        return self._replace(obs=obs, values=values, log_probs=as_tensor(self.log_probs))


class Losses(NamedTuple):
    """
    The losses of a rollout, each a mean over its steps.

    :param policy_loss: ``-A log pi(a|s)``
    :param value_loss: ``(R - V(s))^2``
    :param entropy_loss: ``-H(pi(s))``
    :param finite: Whether every element of the gradient is finite
    :param without_gradient: Indices of the parameters that have no gradient, in the order of the layout
    """

    policy_loss: float
    value_loss: float
    entropy_loss: float
    finite: bool
    without_gradient: tuple[int, ...] = ()


class Engine(Protocol):
    """
    One worker's local parameters (the paper's theta') and everything that is computed from them.

    :param policy: The policy to compute. The engine works on a copy
    :param layout: Where each parameter is in a vector
    :param action_space: The actions that the environments take
    :param turn: A context manager that the engines of one run hold while they compute
    :param seed: Seed of the engine's own random generators. None: it draws from torch's and NumPy's, as A2C does
    """

    #: Whether it calls kernels, which have to be compiled before the run.
    compiled: ClassVar[bool]
    #: The local parameters, ``(size,)``. Writing to them changes the policy.
    vector: th.Tensor
    #: The policy's buffers (BatchNorm's running statistics).
    buffers: list[th.Tensor]
    #: The hidden state of a recurrent policy between two steps. It can be set. None: it begins anew, or there is none.
    state: State | None

    def __init__(
        self,
        policy: ActorCriticPolicy,
        layout: Layout,
        action_space: spaces.Space,
        turn: AbstractContextManager,
        seed: np.random.SeedSequence | None,
    ) -> None: ...

    @staticmethod
    def misfit(policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None = None) -> str | None:
        """
        :param policy: A policy
        :param rollout_buffer_class: The class of rollout buffers, None: SB3's
        :return: Why the engine can't compute the policy with such buffers. None: it can
        """

    @staticmethod
    def drawback(policy: ActorCriticPolicy) -> str | None:
        """
        :param policy: A policy that the engine can compute
        :return: Why another engine is a better choice. None: no reason
        """

    def follow(self, hyperparameters: Hyperparameters) -> None:
        """
        :param hyperparameters: Hyperparameters to compute with from now on
        """

    def start_rollout(self, rollout_buffer: RolloutBuffer, hyperparameters: Hyperparameters) -> None:
        """
        Begin a rollout with the current parameters.

        :param rollout_buffer: An empty buffer, which :meth:`add` fills
        :param hyperparameters: Hyperparameters to compute with from now on
        """

    def act(self, obs: VecEnvObs, episode_starts: np.ndarray, n_steps: int) -> np.ndarray:
        """
        Sample an action for each environment.

        :param obs: Observations as a VecEnv gives them, each ``(n_envs, ...)``
        :param episode_starts: Whether episodes start with the observations, ``(n_envs,)``
        :param n_steps: Index of the step in the rollout
        :return: The actions as the environments take them, ``(n_envs, *action_space.shape)``
        """

    def actions(self) -> Action:
        """
        :return: The results of all calls of :meth:`act` in this rollout
        """

    def add(self, rewards: np.ndarray) -> None:
        """
        Add the step of the last :meth:`act` to the rollout buffer.

        :param rewards: The rewards of its actions, ``(n_envs,)``
        """

    def predict_terminal_values(self, obs: Sequence[VecEnvObs], env_indices: Sequence[int]) -> Sequence[th.Tensor | float]:
        """
        Predict the values of the last observations of truncated episodes, which ended with the last :meth:`act`.

        :param obs: One observation per episode, without an axis for environments
        :param env_indices: The worker's environment of each, from 0
        :return: One value per episode
        """

    def predict_values(self, obs: VecEnvObs, episode_starts: np.ndarray) -> th.Tensor | np.ndarray:
        """
        :param obs: Observations as a VecEnv gives them, each ``(n_envs, ...)``
        :param episode_starts: Whether episodes start with the observations, ``(n_envs,)``
        :return: Their values, ``(n_envs, 1)``
        """

    def compute_returns(self, rollout_buffer: RolloutBuffer, last_values: th.Tensor | np.ndarray, dones: np.ndarray) -> None:
        """
        Compute returns and advantages as ``RolloutBuffer.compute_returns_and_advantage`` does.

        :param rollout_buffer: A full buffer
        :param last_values: Values of the observations after its last step, ``(n_envs, 1)``
        :param dones: Whether episodes ended with its last step, ``(n_envs,)``
        """

    def gradient(self, rollout_buffer: RolloutBuffer, out: Vector, valid: np.ndarray | None = None) -> Losses:
        """
        Compute the gradient of A2C's loss over a rollout, clipped to ``max_grad_norm``.

        :param rollout_buffer: A full buffer with returns and advantages. It is not changed
        :param out: Written: the gradient, ``(size,)``
        :param valid: Which steps the loss is a mean over, ``(n_steps, n_envs)``. None: all
        :return: The losses
        """


def stack(parts: Sequence[Any]) -> Any:
    """
    :param parts: One array, tensor, dict of them, or None per step
    :return: One of the same kind, with a first axis of ``n_steps``. None if there is nothing to stack
    """
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: stack([part[key] for part in parts]) for key in first}
    if isinstance(first, th.Tensor):
        return th.stack(list(parts))
    return np.concatenate(parts).reshape(len(parts), *first.shape)


def add_to_buffer(
    rollout_buffer: RolloutBuffer, obs: VecEnvObs, action: Action, rewards: np.ndarray, episode_starts: np.ndarray
) -> None:
    """
    Add a step to a rollout buffer of any class, as SB3's collector does.

    :param rollout_buffer: The buffer
    :param obs: The observations, each ``(n_envs, ...)``
    :param action: The policy's result for them
    :param rewards: ``(n_envs,)``
    :param episode_starts: Whether episodes start with the observations, ``(n_envs,)``
    """
    _, actions, _, values, log_probs, _ = action.as_tensors()
    if isinstance(rollout_buffer.action_space, spaces.Discrete):
        actions = actions.reshape(-1, 1)
    rollout_buffer.add(obs, actions, rewards, episode_starts, values, log_probs)  # type: ignore[arg-type]


def overrides_get(rollout_buffer_class: type[RolloutBuffer]) -> bool:
    """
    :param rollout_buffer_class: A class of rollout buffers
    :return: Whether it has its own ``get()``
    """
    return rollout_buffer_class.get not in (RolloutBuffer.get, DictRolloutBuffer.get)

"""
Hidden states of sb3_contrib's recurrent policies, as arrays.

sb3_contrib keeps them as ``RNNStates``: tensors ``(n_layers, n_envs, lstm_hidden_size)`` for the actor and for the critic. As
an array, they are ``(n_envs, 2, 2, n_layers, lstm_hidden_size)``: for each environment, the hidden state h (0) and the cell
state c (1) of the actor (0) and of the critic (1).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

if TYPE_CHECKING:
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

#: Arguments of a recurrent policy that ``_get_constructor_parameters()`` of sb3_contrib 2.9 leaves out, and its attributes.
_ARGUMENTS = {
    "lstm_hidden_size": "lstm_output_dim",
    "shared_lstm": "shared_lstm",
    "enable_critic_lstm": "enable_critic_lstm",
    "lstm_kwargs": "lstm_kwargs",
}


def is_recurrent(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: A policy
    :return: Whether it is a recurrent policy of sb3_contrib
    """
    return hasattr(policy, "lstm_hidden_state_shape")


def constructor_arguments(policy: Any) -> dict[str, Any]:
    """
    :param policy: A recurrent policy
    :return: The arguments of its constructor that describe its LSTMs
    """
    arguments = {name: getattr(policy, attribute) for name, attribute in _ARGUMENTS.items()}
    return {**arguments, "n_lstm_layers": policy.lstm_hidden_state_shape[0]}


def zero_states(policy: Any, n_envs: int) -> "RNNStates":
    """
    :param policy: A recurrent policy
    :param n_envs: Number of environments
    :return: Their states where episodes start
    """
    n_layers, _, size = policy.lstm_hidden_state_shape
    return as_rnn_states(np.zeros((n_envs, 2, 2, n_layers, size), dtype=np.float32), policy.device)


def as_rnn_states(states: np.ndarray, device: th.device | str = "cpu") -> "RNNStates":
    """
    :param states: States as an array, which is copied
    :param device: The device of the tensors
    :return: The same as sb3_contrib has them
    """
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    (pi_h, pi_c), (vf_h, vf_c) = th.tensor(states, dtype=th.float32, device=device).permute(1, 2, 3, 0, 4).contiguous()
    return RNNStates((pi_h, pi_c), (vf_h, vf_c))


def as_array(states: "RNNStates") -> np.ndarray:
    """
    :param states: States as sb3_contrib has them
    :return: The same as an array
    """
    tensors = th.stack([*states.pi, *states.vf]).numpy(force=True)
    return np.ascontiguousarray(tensors.reshape(2, 2, *tensors.shape[1:]).transpose(3, 0, 1, 2, 4))

"""Describes the LSTMs of a recurrent policy to the kernels of the fused engine, or says why they can't compute them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, get_obs_shape
from torch import nn

import sb3_a3c.kernels.network_table as network_fields
import sb3_a3c.kernels.recurrent_table as fields


class Encoders(NamedTuple):
    """
    What makes the inputs of actor and critic from observations.

    :param table: See :mod:`~sb3_a3c.kernels.recurrent_table`
    :param n_encoders: 1 if actor and critic share it, else 2
    :param n_lstms: How many of them are LSTMs
    :param n_layers: Layers of each LSTM
    :param n_hidden: Hidden units of each layer
    """

    table: np.ndarray
    n_encoders: int
    n_lstms: int
    n_layers: int
    n_hidden: int

    def workspace_size(self, n_steps: int, n_envs: int) -> int:
        """
        :param n_steps: Number of steps of a rollout
        :param n_envs: Number of environments
        :return: Number of elements of the workspace
        """
        features = int(self.table[network_fields.N_FEATURES]) * (self.table[network_fields.OBS_KIND] == network_fields.ONE_HOT)
        return n_steps * n_envs * (features + 5 * self.n_hidden) + (2 * n_envs + 4) * self.n_hidden


def why_not_encoders(policy: Any) -> str | None:
    """
    :param policy: A recurrent policy
    :return: Why the fused engine can't compute its LSTMs. None: it can
    """
    if policy.lstm_kwargs:
        return f"lstm_kwargs={policy.lstm_kwargs} needs torch"
    lstms = [policy.lstm_actor, *([] if policy.lstm_critic is None else [policy.lstm_critic])]
    if {type(lstm) for lstm in lstms} != {nn.LSTM} or len({(lstm.num_layers, lstm.hidden_size) for lstm in lstms}) > 1:
        return "the recurrent layers are not LSTMs of equal size"
    if policy.critic is not None and type(policy.critic) is not nn.Linear:
        return f"the critic's encoder is a {type(policy.critic).__name__}, not a linear layer"
    return None


def read_encoders(policy: Any, starts: Mapping[int, int]) -> Encoders:
    """
    :param policy: A recurrent policy that the fused engine can compute
    :param starts: Where each parameter begins in a vector, by its identity
    :return: The description of its LSTMs for the kernels
    """
    lstm, table = policy.lstm_actor, [0] * fields.N_FIELDS
    write_observations(table, policy.observation_space)
    table += sizes_of(policy.observation_space)
    table[fields.ACTOR_ENCODER] = table[fields.CRITIC_ENCODER] = len(table)
    table += _lstm_entries(lstm, starts)
    if policy.lstm_critic is not None:
        table[fields.CRITIC_ENCODER] = len(table)
        table += _lstm_entries(policy.lstm_critic, starts)
    elif policy.critic is not None:
        table[fields.CRITIC_ENCODER] = len(table)
        table += [0, policy.critic.in_features, starts[id(policy.critic.weight)], 0, starts[id(policy.critic.bias)], 0]
    n_encoders = 1 if table[fields.CRITIC_ENCODER] == table[fields.ACTOR_ENCODER] else 2
    n_lstms = 1 if policy.lstm_critic is None else 2
    return Encoders(np.array(table, dtype=np.int64), n_encoders, n_lstms, lstm.num_layers, lstm.hidden_size)


def write_observations(table: list[int], obs_space: spaces.Space) -> None:
    """
    :param table: A table of fields, whose entries for observations are written. Sizes of discrete observations follow its end
    :param obs_space: The observations
    """
    table[network_fields.OBS_KIND] = network_fields.ONE_HOT if sizes_of(obs_space) else network_fields.FLAT
    table[network_fields.N_OBS] = int(np.prod(get_obs_shape(obs_space)))  # type: ignore[arg-type]
    table[network_fields.N_FEATURES] = get_flattened_obs_dim(obs_space)
    table[network_fields.OBS_SIZES] = len(table)


def sizes_of(space: spaces.Space) -> list[int]:
    """
    :param space: A space
    :return: Number of values of each entry, if it is discrete
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [int(size) for size in space.nvec] if isinstance(space, spaces.MultiDiscrete) else []


def _lstm_entries(lstm: nn.LSTM, starts: Mapping[int, int]) -> list[int]:
    """Number of layers, and the fields of each."""
    entries = [lstm.num_layers]
    for layer in range(lstm.num_layers):
        names = (f"{kind}_{gate}_l{layer}" for kind in ("weight", "bias") for gate in ("ih", "hh"))
        entries += [lstm.input_size if layer == 0 else lstm.hidden_size, *(starts[id(getattr(lstm, name))] for name in names)]
    return entries

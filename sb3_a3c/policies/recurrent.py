"""Recurrent policies: sb3_contrib's with an LSTM, and the same with a GRU. They need the extra ``recurrent``."""

from typing import Any

import torch as th
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

MlpLstmPolicy = RecurrentActorCriticPolicy
CnnLstmPolicy = RecurrentActorCriticCnnPolicy
MultiInputLstmPolicy = RecurrentMultiInputActorCriticPolicy


class GRU(nn.GRU):
    """
    A GRU with an LSTM's interface. It has no cell state: it returns the one that it gets.

    :param features: ``(sequence length, batch size, features dim)``
    :param states: Hidden states and cell states, each ``(n_layers, batch size, hidden size)``
    """

    def forward(  # type: ignore[override]
        self, features: th.Tensor, states: tuple[th.Tensor, th.Tensor]
    ) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
        """
        :return: The outputs ``(sequence length, batch size, hidden size)``, and the new states
        """
        hidden, cell = states
        output, hidden = super().forward(features, hidden)
        return output, (hidden, cell)


class MlpGruPolicy(RecurrentActorCriticPolicy):
    """
    :class:`MlpLstmPolicy` with GRUs (Cho et al. 2014, arXiv 1406.1078) instead of LSTMs. A GRU has three quarters of the
    parameters. Arguments are those of ``MlpLstmPolicy``, with the same names.
    """

    def __init__(self, observation_space: Any, action_space: Any, lr_schedule: Schedule, *args: Any, **kwargs: Any) -> None:
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        n_layers, _, size = self.lstm_hidden_state_shape
        for name in ("lstm_actor", "lstm_critic"):
            if getattr(self, name) is not None:
                setattr(self, name, GRU(self.features_dim, size, num_layers=n_layers, **self.lstm_kwargs))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore

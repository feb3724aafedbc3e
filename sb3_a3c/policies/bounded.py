"""The network of a well-known A3C tutorial as a policy: a Gaussian with a bounded mean, and a separate critic."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional as F

_MIN_STD = 1e-4
_TUTORIAL_INIT = partial(nn.init.normal_, std=0.1)


class BoundedMlpPolicy(ActorCriticPolicy):
    """
    Policy class (with both actor and critic) for actions within finite bounds ``low`` and ``high``.

    The actor outputs the mean ``(high + low) / 2 + (high - low) / 2 tanh(x)`` and the standard deviation
    ``softplus(y) + 1e-4`` of a Gaussian. Both depend on the observation. The critic has a separate network.

    :param observation_space: Observation space
    :param action_space: Action space, a Box with finite bounds
    :param lr_schedule: Learning rate schedule (could be constant)
    :param net_arch: The hidden layers of the actor and of the critic, ``None``: ``dict(pi=[200], vf=[100])``
    :param activation_fn: Activation function
    :param weight_init_fn: Initializes the weights of a layer in place, by default from N(0, 0.1). Biases are initialized with
        0
    :param clip_actions: Whether sampled actions are clipped to the bounds, so that the log probability is that of the clipped
        action, as in the tutorial. ``False``: only the environment gets clipped actions, as everywhere in SB3
    :param use_sde: Must be ``False``, because the network outputs the standard deviation
    :param features_extractor_class: Features extractor to use. Actor and critic have one each
    :param features_extractor_kwargs: Keyword arguments to pass to the features extractors
    :param normalize_images: Whether to normalize images or not, dividing by 255.0 (True by default)
    :param optimizer_class: The optimizer to use, ``th.optim.Adam`` by default
    :param optimizer_kwargs: Additional keyword arguments, excluding the learning rate, to pass to the optimizer
    :raises ValueError: if actions are discrete or not bounded, or if ``use_sde`` is True
    """

    action_dist: "BoundedGaussianDistribution"

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU6,
        weight_init_fn: Callable[[th.Tensor], Any] = _TUTORIAL_INIT,
        clip_actions: bool = False,
        use_sde: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde must be False with BoundedMlpPolicy: its network outputs the standard deviation")
        if not isinstance(action_space, spaces.Box) or not action_space.is_bounded():
            raise ValueError(
                "action_space must be a Box with finite bounds for BoundedMlpPolicy (MlpPolicy supports others), "
                f"but it is {action_space}"
            )
        self.weight_init_fn = weight_init_fn
        self.clip_actions = clip_actions
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=dict(pi=[200], vf=[100]) if net_arch is None else net_arch,
            activation_fn=activation_fn,
            share_features_extractor=False,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Box)
        self.action_dist = BoundedGaussianDistribution(self.action_space, self.clip_actions)
        self._build_mlp_extractor()
        self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        for net in (self.mlp_extractor, self.action_net, self.value_net):
            for layer in net.modules():
                if isinstance(layer, nn.Linear):
                    self.weight_init_fn(layer.weight)
                    nn.init.zeros_(layer.bias)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> "BoundedGaussianDistribution":
        return self.action_dist.bounded(self.action_net(latent_pi))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in ("log_std_init", "squash_output", "full_std", "use_expln", "ortho_init"):
            del data[name]
        return data | dict(weight_init_fn=self.weight_init_fn, clip_actions=self.clip_actions)


class BoundedGaussianDistribution(DiagGaussianDistribution):
    """
    Gaussian distribution with diagonal covariance matrix, whose mean is within the bounds of the actions.

    :param action_space: The action space, a Box with finite bounds
    :param clip_actions: Whether samples are clipped to the bounds
    """

    def __init__(self, action_space: spaces.Box, clip_actions: bool) -> None:
        super().__init__(get_action_dim(action_space))
        self.clip_actions = clip_actions
        low, high = action_space.low.flatten().astype(np.float64), action_space.high.flatten().astype(np.float64)
        self._low, self._high, self._center, self._half_width = (
            th.as_tensor(bound.astype(np.float32)) for bound in (low, high, 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low)
        )

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> nn.Module:  # type: ignore[override]
        """
        :param latent_dim: Dimension of the last layer of the policy (before the action layer)
        :param log_std_init: Not used
        :return: The layer that outputs mean and standard deviation, see :meth:`bounded`
        """
        return nn.Linear(latent_dim, 2 * self.action_dim)

    def bounded(self, outputs: th.Tensor) -> Self:
        """
        Set the parameters of the distribution.

        :param outputs: The outputs of the action layer, of shape ``(n_batch, 2 * action_dim)``: first for the means, then for
            the standard deviations
        :return: self
        """
        mean, std = outputs.chunk(2, dim=1)
        mean = self._center.to(mean) + self._half_width.to(mean) * th.tanh(mean)
        return self.proba_distribution(mean, th.log(F.softplus(std) + _MIN_STD))

    def sample(self) -> th.Tensor:
        """
        :return: Actions, of shape ``(n_batch, action_dim)``
        """
        actions = super().sample()
        return th.clamp(actions, self._low.to(actions), self._high.to(actions)) if self.clip_actions else actions

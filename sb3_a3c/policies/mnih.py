"""The convolutional network of the A3C paper, as a features extractor."""

import gymnasium as gym
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class MnihCNN(BaseFeaturesExtractor):
    """
    The network of A3C on Atari (Mnih et al. 2016): 16 filters of 8 x 8 with stride 4, 32 filters of 4 x 4 with stride 2, and
    256 units, with rectifiers. It has about a third of the multiplications of SB3's ``NatureCNN``.

    :param observation_space: A Box of images, channels first, at least 20 x 20 pixels
    :param features_dim: Number of units of the last layer
    """

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        self.cnn = nn.Sequential(
            nn.Conv2d(observation_space.shape[0], 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        with th.no_grad():
            n_flatten = self.cnn(th.zeros(1, *observation_space.shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: ``(n, channels, height, width)``
        :return: ``(n, features_dim)``
        """
        return self.linear(self.cnn(observations))

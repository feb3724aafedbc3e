"""The small convolutional network of the A3C paper."""

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class MnihCNN(BaseFeaturesExtractor):
    """
    The network of Mnih et al. 2013 (arXiv 1312.5602), with which A3C learned Atari games (Mnih et al. 2016): 16 filters of
    8 x 8 with stride 4, 32 filters of 4 x 4 with stride 2, and 256 units. SB3's default, ``NatureCNN``, has one convolution
    more, and more filters. On a CPU this one is about twice as fast.

    :param observation_space: Images with channels first, at least 20 pixels wide and high
    :param features_dim: Number of units
    :param normalized_image: Whether images are floats that are not divided by 255, as with ``NatureCNN``
    :raises ValueError: if observations are not such images
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 256, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim)
        if not is_image_space(observation_space, check_channels=False, normalized_image=normalized_image):
            raise ValueError(f"observation_space must be of images for MnihCNN, but it is {observation_space}")
        assert isinstance(observation_space, spaces.Box)
        n_channels, *size = observation_space.shape
        if min(size) < 20:
            raise ValueError(f"images must be at least 20 pixels wide and high for MnihCNN, but they are {size}")
        self.cnn = nn.Sequential(
            nn.Conv2d(n_channels, 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        height, width = (((pixels - 8) // 4 + 1 - 4) // 2 + 1 for pixels in size)
        self.linear = nn.Sequential(nn.Linear(32 * height * width, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: ``(n, channels, height, width)``
        :return: ``(n, features_dim)``
        """
        return self.linear(self.cnn(observations))

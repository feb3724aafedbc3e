"""The A3C paper's network."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv

from sb3_a3c import A3C, MnihCNN


def images(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def test_it_is_the_network_of_the_paper() -> None:
    network = MnihCNN(images(4, 84, 84))
    shapes = [tuple(param.shape) for param in network.parameters()]
    assert shapes == [(16, 4, 8, 8), (16,), (32, 16, 4, 4), (32,), (256, 32 * 9 * 9), (256,)]
    assert network.features_dim == 256


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 20, 37), (3, 64, 48)])
def test_images_of_any_size(shape: tuple[int, ...]) -> None:
    network = MnihCNN(images(*shape), features_dim=7)
    assert network(th.rand(2, *shape)).shape == (2, 7)


def test_floats_that_are_not_divided_by_255() -> None:
    space = spaces.Box(-1, 1, (2, 30, 30))
    assert MnihCNN(space, normalized_image=True)(th.rand(1, 2, 30, 30)).shape == (1, 256)
    with pytest.raises(ValueError, match="observation_space must be of images for MnihCNN, but it is Box"):
        MnihCNN(space)


def test_too_small_images() -> None:
    with pytest.raises(ValueError, match=r"at least 20 pixels wide and high for MnihCNN, but they are \[19, 84\]"):
        MnihCNN(images(1, 19, 84))


def test_learns_with_it() -> None:
    env = make_vec_env(FakeImageEnv, 2, env_kwargs=dict(screen_height=40, screen_width=40))
    model = A3C("CnnPolicy", env, n_workers=2, policy_kwargs=dict(features_extractor_class=MnihCNN, net_arch=[8]))
    assert model.learn(40).num_timesteps == 40

"""Several workers compute the gradient from the outputs that large layers had while acting, where that is exact."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional as F

from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.policies.hooks import GradientRules

IMAGE = spaces.Box(0, 255, (4, 36, 36), np.uint8)
BOX, DISCRETE = spaces.Box(-1, 1, (3,)), spaces.Discrete(4)
DICT = spaces.Dict({"image": spaces.Box(0, 255, (1, 40, 36), np.uint8), "vector": BOX, "other": IMAGE})
WIDE = dict(net_arch=[400, 300])
N_STEPS = 4
HYPERPARAMETERS = Hyperparameters(0.99, 0.02, 0.0, 0.4, 0.5, False, 2, lambda _: 1e-3, None)


class SmallNet(BaseFeaturesExtractor):
    """Two layers that keep their outputs, with something between them."""

    def __init__(self, space: spaces.Box, between: Callable[[], nn.Module] = nn.ReLU, n_calls: int = 1) -> None:
        super().__init__(space, features_dim=8)
        self.first, self.between = nn.Conv2d(4, 4, 5, stride=4, padding=1), between()
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.n_calls = n_calls
        self.last = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9 * 9, 8), nn.Tanh())

    def forward(self, obs: th.Tensor) -> th.Tensor:
        x = self.between(self.first(obs))
        for _ in range(self.n_calls):
            x = self.again(x)
        return self.last(x)


class Augmentation(nn.Module):
    """Moves images while learning."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.roll(1, 2) if self.training else x


class Noise(nn.Module):
    """Noise that each call draws anew."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + 0.1 * th.rand_like(x)


class OwnRolloutBuffer(RolloutBuffer):
    """A class that may do anything, so observations are read from it."""


class OwnDictRolloutBuffer(DictRolloutBuffer):
    """The same for dicts."""


def make_policy(space: gym.Space, action_space: gym.Space = DISCRETE, **kwargs: Any) -> ActorCriticPolicy:
    th.manual_seed(3)
    policy_class: type[ActorCriticPolicy] = ActorCriticCnnPolicy if space is IMAGE else ActorCriticPolicy
    if space is DICT:
        policy_class = MultiInputActorCriticPolicy
    return policy_class(space, action_space, lambda _: 1e-3, **kwargs)


def make_engine(policy: ActorCriticPolicy, seed: int | None = 0) -> TorchEngine:
    sequence = None if seed is None else np.random.SeedSequence(seed)
    return TorchEngine(policy, Layout(policy), policy.action_space, nullcontext(), sequence)


def collect(engine: TorchEngine, policy: ActorCriticPolicy, buffer_class: Any, n_envs: int) -> RolloutBuffer:
    """A rollout of random observations and rewards. Its parameters differ from those of the last one."""
    space, rng = policy.observation_space, np.random.default_rng(5)
    space.seed(6)
    engine.vector += 0.01 * th.rand(engine.vector.shape, generator=th.Generator().manual_seed(7))
    buffer = buffer_class(N_STEPS, space, policy.action_space, "cpu", n_envs=n_envs)
    engine.start_rollout(buffer, HYPERPARAMETERS)
    for n in range(N_STEPS):
        samples = [space.sample() for _ in range(n_envs)]
        obs: Any = np.stack(samples) if space is not DICT else {key: np.stack([s[key] for s in samples]) for key in samples[0]}
        engine.act(obs, np.zeros(n_envs, bool), n)
        engine.add(rng.normal(size=n_envs).astype(np.float32))
    buffer.compute_returns_and_advantage(th.zeros(n_envs), np.zeros(n_envs))
    return buffer


def gradients(policy: ActorCriticPolicy, own_buffer: bool, n_envs: int, n_rollouts: int = 2) -> tuple[th.Tensor, list[float]]:
    """Of the last of some rollouts. The layers are compared in the first one."""
    engine = make_engine(policy)
    classes = ((RolloutBuffer, OwnRolloutBuffer), (DictRolloutBuffer, OwnDictRolloutBuffer))
    for _ in range(n_rollouts):
        buffer = collect(engine, policy, classes[policy.observation_space is DICT][own_buffer], n_envs)
        out = th.full_like(engine.vector, 7.0)
        losses = engine.gradient(buffer, out)
    return out, list(losses[:3])


def n_forwards(engine: TorchEngine, buffer: RolloutBuffer, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many convolutions a gradient computes forwards."""
    calls, conv2d = [], F.conv2d
    with monkeypatch.context() as patch:
        patch.setattr(F, "conv2d", lambda *args: calls.append(1) or conv2d(*args))  # type: ignore[func-returns-value]
        engine.gradient(buffer, th.zeros_like(engine.vector))
    return len(calls)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        dict(space=IMAGE),
        dict(space=IMAGE, action_space=BOX, share_features_extractor=False),
        dict(space=IMAGE, action_space=BOX, use_sde=True),
        dict(space=IMAGE, net_arch=dict(pi=[16], vf=[300, 400]), features_extractor_class=SmallNet),
        dict(space=DICT),
        dict(space=DICT, action_space=BOX, share_features_extractor=False),
        dict(space=BOX, **WIDE),
        dict(space=BOX, action_space=BOX, use_sde=True, **WIDE),
    ],
    ids=lambda arguments: ", ".join(key if key != "space" else str(type(value).__name__) for key, value in arguments.items()),
)
def test_the_gradient_is_that_of_a_second_forward_pass(arguments: dict[str, Any], n_envs: int) -> None:
    policy = make_policy(**arguments)
    (actual, losses), (expected, expected_losses) = (gradients(policy, own, n_envs) for own in (False, True))
    norm = float(expected.norm())
    assert norm > 0.01
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=2e-5 * norm)
    assert float((actual - expected).norm()) < 5e-5 * norm
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)


def test_no_convolution_is_computed_forwards_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first rollout, in which the outputs are compared."""
    policy = make_policy(IMAGE)
    engine = make_engine(policy)
    counts = [n_forwards(engine, collect(engine, policy, RolloutBuffer, 2), monkeypatch) for _ in range(3)]
    assert counts == [3, 0, 0]


def test_frozen_parameters_of_kept_layers() -> None:
    policy = make_policy(IMAGE)
    engine = make_engine(policy)
    names = [f"features_extractor.{name}" for name in ("cnn.0.weight", "cnn.2.bias", "linear.0.weight")]
    gradients = []
    for _ in range(3):  # compared, then reused without and with frozen parameters
        buffer = collect(engine, policy, RolloutBuffer, 2)
        if len(gradients) == 2:
            engine.follow(replace(HYPERPARAMETERS, rules=GradientRules(frozenset(names))))
        gradients.append(th.zeros_like(engine.vector))
        losses = engine.gradient(buffer, gradients[-1])
    indices = [engine._layout.names.index(name) for name in names]
    assert sorted(losses.without_gradient) == sorted(indices)
    for index, (free, frozen) in enumerate(zip(*map(engine._layout.views, gradients[1:]), strict=True)):
        assert bool(frozen.any()) == (index not in indices) and bool(free.any())


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(between=lambda: nn.Dropout(0.2)),
        dict(between=lambda: nn.BatchNorm2d(4)),
        dict(between=lambda: nn.ReLU(inplace=True)),
        dict(between=Augmentation),
        dict(between=Noise),
        dict(n_calls=2),
    ],
    ids=["dropout", "batch normalization", "in place", "augmentation", "noise", "called twice"],
)
def test_other_policies_are_computed_in_the_plain_way(kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(IMAGE, features_extractor_class=SmallNet, features_extractor_kwargs=kwargs)
    engine = make_engine(policy)
    n_calls = 1 + kwargs.get("n_calls", 1)
    for _ in range(3):
        buffer = collect(engine, policy, RolloutBuffer, 2)
        assert n_forwards(engine, buffer, monkeypatch) == n_calls
    th.manual_seed(1)
    actual = th.zeros_like(engine.vector)
    engine.gradient(buffer, actual)

    clone = make_policy(IMAGE, features_extractor_class=SmallNet, features_extractor_kwargs=kwargs)
    Layout(clone).bind(clone, engine.vector)
    clone.set_training_mode(True)
    th.manual_seed(1)
    obs, actions, advantages, returns = (
        th.as_tensor(buffer.swap_and_flatten(array))
        for array in (buffer.observations, buffer.actions, buffer.advantages, buffer.returns)
    )
    obs = obs.contiguous(memory_format=th.channels_last)  # noise is drawn in the order of memory
    values, log_probs, entropy = clone.evaluate_actions(obs, actions.flatten())
    assert entropy is not None
    loss = -(advantages.flatten() * log_probs).mean() - 0.02 * entropy.mean() + 0.4 * F.mse_loss(returns, values)
    loss.backward()
    nn.utils.clip_grad_norm_(clone.parameters(), 0.5)
    expected = Layout(clone).flatten([param.grad for param in Layout(clone).parameters(clone)])  # type: ignore[misc]
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4 * float(expected.norm()))


def test_one_worker_and_small_layers_are_left_alone() -> None:
    for policy, seed in ((make_policy(IMAGE), None), (make_policy(BOX), 0)):
        assert not any("forward" in vars(module) for module in make_engine(policy, seed)._policy.modules())

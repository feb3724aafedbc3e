"""The fused engine equals the torch engine up to float32 rounding, samples correctly, and is chosen for policies that fit."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from math import erf, sqrt
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from allpairspy import AllPairs
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvBox, IdentityEnvMultiBinary, IdentityEnvMultiDiscrete
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from torch import nn

from sb3_a3c import A3C
from sb3_a3c.engines import choose_engine
from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.network import why_not_fused
from sb3_a3c.engines.protocol import Action
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.kernels import optimizers as kernels
from sb3_a3c.kernels.cache import KERNELS
from sb3_a3c.kernels.compilation import compile_kernels
from sb3_a3c.kernels.examples import EXAMPLES
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.parameters.optimizers import make_optimizer
from sb3_a3c.policies.hooks import GradientRules, ParameterHook


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(n_threads)


BOX = spaces.Box(-1, 1, (3,))
OBS_SPACES: dict[str, spaces.Space] = {
    "box": BOX,
    "box of doubles, two axes": spaces.Box(-5, 5, (2, 5), np.float64),
    "box of bytes": spaces.Box(0, 255, (7,), np.uint8),
    "discrete": spaces.Discrete(6),
    "multi-discrete": spaces.MultiDiscrete([3, 2, 5]),
    "multi-binary": spaces.MultiBinary(9),
}
ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-0.5, 0.5, (1,)),
    "box, two axes": spaces.Box(np.array([[-1, -2], [-0.1, 0]], np.float32), np.array([[1, 0.3], [0.2, 5]], np.float32)),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([2, 4, 3]),
    "multi-binary": spaces.MultiBinary(4),
}
NET_ARCHS: list[Any] = [[64, 64], [], [5], dict(pi=[33, 16, 7], vf=[18]), dict(vf=[4, 4]), dict(pi=[20])]
ACTIVATIONS: dict[str, Any] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky relu": nn.LeakyReLU,
    "leaky relu 0.3": partial(nn.LeakyReLU, negative_slope=0.3),
    "elu": nn.ELU,
    "elu 0.4": partial(nn.ELU, alpha=0.4),
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def pairwise(**parameters: dict[str, Any] | list[Any]) -> pytest.MarkDecorator:
    """Parametrize a test with few cases in which every two values of two parameters occur together."""
    named = {
        name: values if isinstance(values, dict) else {str(value): value for value in values}
        for name, values in parameters.items()
    }
    cases = [dict(zip(named, case, strict=True)) for case in AllPairs([list(values) for values in named.values()])]
    return pytest.mark.parametrize(
        list(named),
        [[named[name][key] for name, key in case.items()] for case in cases],
        ids=[", ".join(case.values()) for case in cases],
    )


def make_policy(obs_space: spaces.Space = BOX, action_space: spaces.Space = BOX, **kwargs: Any) -> ActorCriticPolicy:
    """A policy with noise in its parameters, since a new policy treats all actions almost equally."""
    th.manual_seed(1)
    policy = ActorCriticPolicy(obs_space, action_space, lambda _: 7e-4, ortho_init=False, **kwargs)
    with th.no_grad():
        for param in policy.parameters():
            param += 0.3 * th.randn_like(param)
    return policy


def make(
    engine_class: Callable[..., Any], policy: ActorCriticPolicy, seed: int | None = 0, n_envs: int = 1, **kwargs: Any
) -> Any:
    """An engine at the start of a rollout."""
    sequence = None if seed is None else np.random.SeedSequence(seed)
    engine = engine_class(policy, Layout(policy), policy.action_space, nullcontext(), sequence)
    engine.start_rollout(empty_buffer(policy, 50, n_envs), hyperparameters(**kwargs))
    return engine


def empty_buffer(policy: ActorCriticPolicy, n_steps: int, n_envs: int) -> RolloutBuffer:
    return RolloutBuffer(
        n_steps, policy.observation_space, policy.action_space, "cpu", gae_lambda=0.9, gamma=0.97, n_envs=n_envs
    )


def act(engine: Any, obs: np.ndarray, n_steps: int = 0) -> np.ndarray:
    """An engine's actions in the middle of episodes."""
    return engine.act(obs, np.zeros(len(obs), bool), n_steps)


def sample(engine: Any, obs: np.ndarray, n_steps: int) -> Action:
    """All results of a step of an engine."""
    clipped_actions = act(engine, obs, n_steps)
    action = Action(*(None if column is None else column[-1] for column in engine.actions()))
    np.testing.assert_array_equal(clipped_actions, action.clipped_actions)
    return action


def hyperparameters(
    ent_coef: float = 0.01,
    vf_coef: float = 0.5,
    max_grad_norm: float = 0.5,
    normalize_advantage: bool = False,
    sde_sample_freq: int = -1,
) -> Hyperparameters:
    return Hyperparameters(
        0.97, ent_coef, 0.0, vf_coef, max_grad_norm, normalize_advantage, sde_sample_freq, lambda _: 7e-4, None
    )


def evaluate_actions(policy: ActorCriticPolicy, obs: np.ndarray, actions: np.ndarray) -> Any:
    """As A2C calls it, with actions from a buffer: flat and float32."""
    flat = actions if actions.ndim == 1 else actions.reshape(len(actions), -1).astype(np.float32)
    return policy.evaluate_actions(th.as_tensor(obs), th.as_tensor(flat))


def make_buffer(policy: ActorCriticPolicy, n_steps: int = 5, n_envs: int = 1, seed: int = 0) -> RolloutBuffer:
    """A rollout of random observations and actions, with the policy's values and log probabilities."""
    obs_space, action_space = policy.observation_space, policy.action_space
    buffer = empty_buffer(policy, n_steps, n_envs)
    rng = np.random.default_rng(seed)
    obs_space.seed(seed)
    action_space.seed(seed)
    samples = [[(obs_space.sample(), action_space.sample()) for _ in range(n_envs)] for _ in range(n_steps + 1)]
    dones = np.zeros(n_envs)
    for row in samples[:-1]:
        obs, actions = (np.stack(part) for part in zip(*row, strict=True))
        with th.no_grad():
            values, log_probs, _ = evaluate_actions(policy, obs, actions)
        buffer.add(obs, actions, rng.normal(size=n_envs), dones, values, log_probs)
        dones = rng.random(n_envs) < 0.2
    last_obs = np.stack([obs for obs, _ in samples[-1]])
    with th.no_grad():
        buffer.compute_returns_and_advantage(policy.predict_values(th.as_tensor(last_obs)), dones)
    return buffer


def assert_same_gradient(
    policy: ActorCriticPolicy, buffer: RolloutBuffer, valid: np.ndarray | None = None, **kwargs: Any
) -> None:
    """Up to 5e-5 of the gradient's norm; each element up to 2e-5 of the norm plus 1e-4 of its own value."""
    gradients, losses = [], []
    for engine_class in (TorchEngine, FusedEngine):
        engine = make(engine_class, policy, n_envs=buffer.n_envs, **kwargs)
        gradients.append(th.full_like(engine.vector, 7.0))
        losses.append(engine.gradient(buffer, gradients[-1], valid))
    expected, actual = gradients
    norm = float(expected.norm())
    assert norm > 0 and float((expected - actual).norm()) < 5e-5 * norm
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=2e-5 * norm)
    np.testing.assert_allclose(losses[1][:4], losses[0][:4], rtol=1e-5, atol=1e-6)
    assert losses[1].without_gradient == losses[0].without_gradient == ()


@pytest.mark.parametrize("max_grad_norm", [0.01, 100.0])
def test_frozen_parameters_and_hooks(max_grad_norm: float) -> None:
    """They act before the gradient is clipped, as in torch."""

    def halve(param: nn.Parameter) -> None:
        assert param.grad is not None
        param.grad *= 0.5

    rules = GradientRules(
        frozenset({"value_net.weight", "mlp_extractor.policy_net.0.bias"}),
        (
            ParameterHook("action_net.weight", lambda grad: 3 * grad, False),
            ParameterHook("action_net.weight", lambda grad: None, False),
            ParameterHook("log_std", halve, True),
        ),
    )
    policy = make_policy()
    buffer, gradients, losses = make_buffer(policy), [], []
    for engine_class in (TorchEngine, FusedEngine):
        for imposed in (GradientRules(), rules):
            engine = make(engine_class, policy)
            engine.follow(replace(hyperparameters(max_grad_norm=max_grad_norm), rules=imposed))
            gradients.append(th.full_like(engine.vector, 7.0))
            losses.append(engine.gradient(buffer, gradients[-1]))
    plain, expected, _, actual = gradients
    assert not th.allclose(plain, expected, rtol=0.1)
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=2e-5 * float(expected.norm()))
    assert losses[1].without_gradient == losses[3].without_gradient != ()


@pairwise(net_arch=NET_ARCHS, activation_fn=ACTIVATIONS, action_space=ACTION_SPACES)
def test_gradient_of_networks(net_arch: Any, activation_fn: Any, action_space: spaces.Space) -> None:
    policy = make_policy(BOX, action_space, net_arch=net_arch, activation_fn=activation_fn)
    assert_same_gradient(policy, make_buffer(policy, n_steps=8))


#: Steps and environments of a rollout.
SHAPES = [(1, 1), (2, 1), (3, 3), (5, 4), (20, 2)]


@pairwise(obs_space=OBS_SPACES, action_space=ACTION_SPACES, shape=SHAPES)
def test_gradient_of_spaces_and_shapes(obs_space: spaces.Space, action_space: spaces.Space, shape: tuple[int, int]) -> None:
    policy = make_policy(obs_space, action_space, net_arch=[32, 9])
    assert_same_gradient(policy, make_buffer(policy, *shape))


@pairwise(
    action_space=ACTION_SPACES,
    ent_coef=[0, 0.3],
    vf_coef=[0.0, 0.5, 2],
    max_grad_norm=[0.05, 10],
    normalize_advantage=[False, True],
)
def test_gradient_of_coefficients(
    action_space: spaces.Space, ent_coef: float, vf_coef: float, max_grad_norm: float, normalize_advantage: bool
) -> None:
    coefficients = dict(
        ent_coef=ent_coef, vf_coef=vf_coef, max_grad_norm=max_grad_norm, normalize_advantage=normalize_advantage
    )
    policy = make_policy(BOX, action_space)
    assert_same_gradient(policy, make_buffer(policy, 6, 2), **coefficients)


@pytest.mark.parametrize("n_rows", [7, 8, 11, 16])
@pytest.mark.parametrize("n_inputs", [1, 8, 9, 24, 25])
def test_gradient_of_first_layers_with_few_inputs(n_inputs: int, n_rows: int) -> None:
    policy = make_policy(spaces.Box(-1, 1, (n_inputs,)), net_arch=[27])
    assert_same_gradient(policy, make_buffer(policy, n_rows))


@pairwise(
    action_space=ACTION_SPACES, use_sde=[False, True], normalize_advantage=[False, True], shape=[(3, 3), (6, 2), (40, 1)]
)
def test_gradient_of_some_steps(
    action_space: spaces.Space, use_sde: bool, normalize_advantage: bool, shape: tuple[int, int]
) -> None:
    """Of those that are transitions, whatever the others hold."""
    policy = make_policy(BOX, action_space, use_sde=use_sde and isinstance(action_space, spaces.Box))
    buffer, valid = make_buffer(policy, *shape), np.random.default_rng(0).random(shape) < 0.7
    assert 2 < valid.sum() < valid.size
    buffer.advantages[~valid], buffer.returns[~valid] = np.nan, np.inf
    assert_same_gradient(policy, buffer, valid, normalize_advantage=normalize_advantage)


def test_gradient_with_a_layout_of_two_parts_and_a_critic_with_features_of_its_own() -> None:
    policy = make_policy(share_features_extractor=False)
    layout, buffer = Layout(policy, separate_critic=True), make_buffer(policy)
    gradients = []
    for engine_class in (TorchEngine, FusedEngine):
        engine = engine_class(policy, layout, policy.action_space, nullcontext(), np.random.SeedSequence(0))
        engine.start_rollout(empty_buffer(policy, 5, 1), hyperparameters())
        gradients.append(th.empty_like(engine.vector))
        engine.gradient(buffer, gradients[-1])
    np.testing.assert_allclose(gradients[1].numpy(), gradients[0].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "policy",
    [
        lambda: make_policy(),
        lambda: make_policy(OBS_SPACES["multi-discrete"], spaces.Discrete(3), net_arch=dict(pi=[33, 16, 7], vf=[18])),
        lambda: make_policy(BOX, spaces.Box(-1, 1, (2,)), net_arch=[]),
        lambda: make_policy(BOX, spaces.Box(-1, 1, (2,)), use_sde=True, log_std_init=-1),
    ],
    ids=["two layers", "one-hot", "no hidden layer", "gSDE"],
)
@pytest.mark.parametrize("n_envs", [1, 5])
@pytest.mark.parametrize("of_all", [True, False])
def test_gradient_from_the_outputs_that_acting_has_kept(
    policy: Callable[[], ActorCriticPolicy], n_envs: int, of_all: bool
) -> None:
    """Of one of several workers: it is the gradient that is computed from the rollout alone, to rounding."""
    policy, rng = policy(), np.random.default_rng(0)
    engine, buffer = make(FusedEngine, policy), empty_buffer(policy, 6, n_envs)
    engine.start_rollout(buffer, hyperparameters())
    policy.observation_space.seed(0)
    for n_steps in range(7):
        obs = np.stack([policy.observation_space.sample() for _ in range(n_envs)])
        if n_steps < 6:
            act(engine, obs, n_steps)
            engine.add(rng.normal(size=n_envs).astype(np.float32))
    dones = np.zeros(n_envs, bool)
    engine.compute_returns(buffer, engine.predict_values(obs, dones), dones)
    gradients = [th.empty_like(engine.vector) for _ in range(3)]
    valid = None if of_all else np.arange(6 * n_envs).reshape(6, n_envs) % 3 > 0
    losses = [engine.gradient(buffer, gradients[0], valid)]
    losses.append(make(FusedEngine, policy, n_envs=n_envs).gradient(buffer, gradients[1], valid))
    norm = float(gradients[1].norm())
    np.testing.assert_allclose(gradients[0].numpy(), gradients[1].numpy(), rtol=1e-5, atol=1e-6 * norm)
    np.testing.assert_allclose(losses[0][:4], losses[1][:4], rtol=1e-5, atol=1e-6)
    engine._kept[:] = 0
    engine.gradient(buffer, gradients[2], valid)
    assert float((gradients[2] - gradients[1]).norm()) > 0.01 * norm  # it is computed from what was kept


SDE_POLICIES: list[dict[str, Any]] = [
    {},
    dict(net_arch=[]),
    dict(net_arch=[8]),
    dict(net_arch=dict(pi=[5, 7], vf=[3])),
    dict(full_std=False),
]


@pairwise(kwargs=SDE_POLICIES, n_actions=[1, 3], shape=[(1, 1), (6, 3)])
def test_gradient_of_gsde(kwargs: dict[str, Any], n_actions: int, shape: tuple[int, int]) -> None:
    policy = make_policy(BOX, spaces.Box(-1, 1, (n_actions,)), use_sde=True, log_std_init=-1, **kwargs)
    assert_same_gradient(policy, make_buffer(policy, *shape), ent_coef=0.3)


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.Adam])
def test_parameters_after_many_updates(optimizer_class: type[th.optim.Optimizer]) -> None:
    """Both engines learn from the same 100 rollouts and end with the same parameters."""
    policy = make_policy(BOX, spaces.Discrete(4), optimizer_class=optimizer_class, optimizer_kwargs=dict(eps=1e-5))
    layout = Layout(policy)
    buffers = [make_buffer(policy, 5, 2, seed) for seed in range(100)]
    ends = []
    for engine_class in (TorchEngine, FusedEngine):
        engine = make(engine_class, policy)
        optimizer = make_optimizer(policy, engine.vector, layout)
        state = optimizer.new_state(engine.vector)
        gradient = th.empty_like(engine.vector)
        for buffer in buffers:
            engine.gradient(buffer, gradient)
            optimizer.step(optimizer.plan(state, state), state, state, gradient, [7e-4])
        ends.append(engine.vector.clone())
    start = layout.gather(policy)
    moved = float((ends[0] - start).norm())
    assert moved > 0.5 and float((ends[1] - ends[0]).norm()) < 1e-3 * moved


@pairwise(obs_space=OBS_SPACES, action_space=ACTION_SPACES, n_envs=[1, 3, 8])
def test_act_is_the_torch_engines(obs_space: spaces.Space, action_space: spaces.Space, n_envs: int) -> None:
    """Except for the noise: the same types of arrays, and torch's values and log probabilities of these actions."""
    policy = make_policy(obs_space, action_space)
    expected, actual = make(TorchEngine, policy, n_envs=n_envs), make(FusedEngine, policy, n_envs=n_envs)
    obs_space.seed(0)
    for step in range(5):
        obs = np.stack([obs_space.sample() for _ in range(n_envs)])
        theirs, ours = sample(expected, obs, step), sample(actual, obs, step)
        assert th.equal(ours.as_tensors().obs, theirs.as_tensors().obs)
        for mine, other in zip(ours.as_tensors()[:5], theirs.as_tensors()[:5], strict=True):
            assert (type(mine), mine.dtype, mine.shape) == (type(other), other.dtype, other.shape)
        assert all(action in action_space for action in ours.clipped_actions.astype(action_space.dtype))
        if isinstance(action_space, spaces.Box):
            np.testing.assert_array_equal(ours.clipped_actions, np.clip(ours.actions, action_space.low, action_space.high))
        with th.no_grad():
            values, log_probs, _ = evaluate_actions(policy, obs, ours.actions)
        np.testing.assert_allclose(ours.values, values.flatten(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.log_probs, log_probs, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(actual.predict_values(obs, np.zeros(n_envs, bool)), values, rtol=1e-5, atol=1e-5)
        slots = range(n_envs)
        terminal = [value.item() for value in expected.predict_terminal_values(list(obs), slots)]
        np.testing.assert_allclose(actual.predict_terminal_values(list(obs), slots), terminal, rtol=1e-5, atol=1e-5)


class OwnBuffer(RolloutBuffer):
    """A user's buffer, which gets what SB3's collector would add."""


@pairwise(obs_space=OBS_SPACES, action_space=ACTION_SPACES, gae_lambda=[1.0, 0.9])
def test_a_rollout_is_written_as_sb3_writes_it(obs_space: spaces.Space, action_space: spaces.Space, gae_lambda: float) -> None:
    """Including returns and advantages, to the last bit."""
    n_steps, n_envs = 6, 3
    policy = make_policy(obs_space, action_space)
    engines = [make(FusedEngine, policy) for _ in range(2)]
    buffers = [
        cls(n_steps, obs_space, action_space, "cpu", gae_lambda, gamma=0.97, n_envs=n_envs)
        for cls in (RolloutBuffer, OwnBuffer)
    ]
    for engine, buffer in zip(engines, buffers, strict=True):
        engine.start_rollout(buffer, hyperparameters())
    rng = np.random.default_rng(0)
    obs_space.seed(0)
    episode_starts = np.ones(n_envs, dtype=bool)
    for step in range(n_steps):
        obs = np.stack([obs_space.sample() for _ in range(n_envs)])
        rewards = rng.normal(size=n_envs).astype(np.float32)
        for engine in engines:
            engine.act(obs, episode_starts, step)
            engine.add(rewards)
        episode_starts = rng.random(n_envs) < 0.2
    last_obs = np.stack([obs_space.sample() for _ in range(n_envs)])
    for engine in engines:
        last_values = engine.predict_values(last_obs, episode_starts)
        engine.compute_returns(engine._rollout_buffer, last_values, episode_starts)
    ours, theirs = (vars(buffer) for buffer in buffers)
    assert ours["full"] and ours["pos"] == theirs["pos"] == n_steps
    for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns"):
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def spoilt(array: np.ndarray, number: float) -> None:
    array.reshape(-1)[-1] = number


@pairwise(
    activation_fn=ACTIVATIONS,
    where=["observations", "advantages", "returns", "every parameter"],
    number=[np.nan, np.inf, -np.inf],
)
def test_a_gradient_that_is_not_finite_is_reported(where: str, activation_fn: Any, number: float) -> None:
    for action_space in (ACTION_SPACES["box"], ACTION_SPACES["discrete"], ACTION_SPACES["multi-binary"]):
        policy = make_policy(BOX, action_space, net_arch=[6, 17], activation_fn=activation_fn)
        engine, buffer = make(FusedEngine, policy), make_buffer(policy)
        out = th.empty_like(engine.vector)
        assert engine.gradient(buffer, out).finite and out.isfinite().all()
        if where != "every parameter":
            # With bounded activations and clipped gradients, an infinite observation may have no effect.
            spoilt(getattr(buffer, where), number)
            assert engine.gradient(buffer, out).finite == bool(out.isfinite().all())
            reference = make(TorchEngine, policy)
            if where != "observations" or np.isnan(number):
                assert not out.isfinite().all()
            if not np.isnan(number) or where != "observations":
                expected = reference.gradient(buffer, th.empty_like(out)) if where != "observations" else None
                assert expected is None or not expected.finite
            continue
        for part in Layout(policy).slices:
            kept = engine.vector[part.start].item()
            engine.vector[part.start] = np.nan
            assert not engine.gradient(buffer, out).finite
            engine.vector[part.start] = kept
        assert engine.gradient(buffer, out).finite


def test_a_norm_that_overflows_is_clipped_as_torch_does() -> None:
    policy = make_policy()
    buffer = make_buffer(policy)
    buffer.returns[:] = 1e30
    for engine_class in (TorchEngine, FusedEngine):
        engine = make(engine_class, policy)
        out = th.empty_like(engine.vector)
        assert engine.gradient(buffer, out).finite
        assert not out.any()


def test_observations_that_cannot_be_acted_on_are_an_error() -> None:
    engine = make(FusedEngine, make_policy(spaces.Discrete(3), spaces.Discrete(2)), n_envs=2)
    with pytest.raises(ValueError, match=r"the observation \[3.\] is not in the space Discrete\(3\)"):
        act(engine, np.array([0, 3]))
    with pytest.raises(ValueError, match="is not in the space"):
        engine.predict_values(np.array([-1]), np.zeros(1, bool))
    for action_space in ACTION_SPACES.values():
        engine = make(FusedEngine, make_policy(BOX, action_space), n_envs=2)
        with pytest.raises(ValueError, match="contain nan or inf"):
            act(engine, np.array([[0, 0, 0], [0, np.nan, 0]], dtype=np.float32))


# Sampling. Each statistic exceeds its bound by chance once in a million times. The seeds are fixed.

#: Quantiles of the chi-square distribution by its degrees of freedom.
CHI_SQUARE = {1: 23.93, 2: 27.63, 3: 30.66, 4: 33.38}
#: Quantile of Kolmogorov's distribution.
KOLMOGOROV = 2.694


def draw(action_space: spaces.Space, n_draws: int = 40_000) -> tuple[np.ndarray, Any]:
    policy = make_policy(BOX, action_space)
    with th.no_grad():
        policy.action_net.weight *= 0.2  # so that every action is drawn many times
    obs = np.tile(np.array([[0.3, -0.8, 0.5]], dtype=np.float32), (n_draws // 8, 1))
    engine = make(FusedEngine, policy, n_envs=len(obs))
    actions = np.concatenate([sample(engine, obs, step).actions for step in range(8)])
    return actions, policy.get_distribution(th.as_tensor(obs[:1])).distribution


def assert_drawn_from(probs: np.ndarray, counts: np.ndarray) -> None:
    expected = probs * counts.sum()
    assert expected.min() > 50
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE[len(probs) - 1]


def test_categories_are_drawn_with_their_probabilities() -> None:
    actions, distribution = draw(spaces.Discrete(5))
    assert_drawn_from(distribution.probs[0].detach().numpy(), np.bincount(actions, minlength=5))
    actions, distributions = draw(spaces.MultiDiscrete([2, 4, 3]))
    for column, distribution in zip(actions.T, distributions, strict=True):
        probs = distribution.probs[0].detach().numpy()
        assert_drawn_from(probs, np.bincount(column, minlength=len(probs)))


def test_bits_are_drawn_with_their_probabilities() -> None:
    actions, distribution = draw(spaces.MultiBinary(4))
    for column, prob in zip(actions.T, distribution.probs[0].detach().numpy(), strict=True):
        assert_drawn_from(np.array([1 - prob, prob]), np.bincount(column.astype(int), minlength=2))


def test_normal_actions_are_normal_and_independent() -> None:
    actions, distribution = draw(spaces.Box(-1, 1, (2,)))
    noise = (actions - distribution.loc.detach().numpy()) / distribution.scale.detach().numpy()
    n_draws = len(noise)
    for column in noise.T:
        cumulative = np.array([0.5 * (1 + erf(z / sqrt(2))) for z in np.sort(column)])
        ranks = np.arange(n_draws + 1) / n_draws
        distance = max(np.abs(cumulative - ranks[:-1]).max(), np.abs(cumulative - ranks[1:]).max())
        assert sqrt(n_draws) * distance < KOLMOGOROV
    # A normal variable exceeds 4.9 standard deviations once in a million times.
    pairs = [noise.T[0] * noise.T[1], *(column[1:] * column[:-1] for column in noise.T)]
    assert all(abs(products.mean()) * sqrt(n_draws) < 4.9 for products in pairs)


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("kwargs", SDE_POLICIES, ids=str)
def test_each_environment_has_its_own_noise_matrix_of_gsde(kwargs: dict[str, Any], n_envs: int) -> None:
    """The noise is linear in the last layer's inputs, and its matrix is drawn again when torch would do so."""
    policy = make_policy(BOX, spaces.Box(-1, 1, (2,)), use_sde=True, log_std_init=-1, **kwargs)
    engine = make(FusedEngine, policy, n_envs=n_envs, sde_sample_freq=20)
    rng = np.random.default_rng(0)
    matrices, n_latent = [], policy.action_net.in_features
    for n_steps in range(40):
        obs = rng.normal(size=(n_envs, 3)).astype(np.float32)
        action = sample(engine, obs, n_steps)
        with th.no_grad():
            distribution = policy.get_distribution(th.as_tensor(obs))
            noise = action.actions - distribution.distribution.mean.numpy()
            log_probs = distribution.log_prob(th.as_tensor(action.actions))
            latent = policy.mlp_extractor.forward_actor(policy.extract_features(th.as_tensor(obs))).numpy()
        np.testing.assert_allclose(action.log_probs, log_probs, rtol=1e-5, atol=2e-5)
        if n_steps % 20 == 0:
            matrices.append(engine._noise[n_latent * 2 :].reshape(n_envs, n_latent, 2).copy())
        np.testing.assert_allclose(noise, np.einsum("ek,ekj->ej", latent, matrices[-1]), rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.concatenate(matrices))) == 2 * n_envs * n_latent * 2


def test_matrices_of_gsde_are_normal() -> None:
    policy = make_policy(BOX, spaces.Box(-1, 1, (2,)), use_sde=True, net_arch=[5])
    engine = make(FusedEngine, policy, n_envs=4000)
    noise = engine._noise[10:].reshape(-1, 10) / policy.log_std.detach().exp().numpy().flatten()
    cumulative = np.array([0.5 * (1 + erf(z / sqrt(2))) for z in np.sort(noise.flatten())])
    assert sqrt(noise.size) * np.abs(cumulative - (np.arange(noise.size) + 0.5) / noise.size).max() < KOLMOGOROV
    assert all(abs((noise[:, i] * noise[:, j]).mean()) * sqrt(len(noise)) < 4.9 for i in range(10) for j in range(i))


def test_a_category_with_probability_0_is_never_drawn() -> None:
    policy = make_policy(BOX, spaces.Discrete(3))
    with th.no_grad():
        policy.action_net.bias.copy_(th.tensor([-200.0, 0.0, -200.0]))
    actions = act(make(FusedEngine, policy, n_envs=1000), np.zeros((1000, 3), dtype=np.float32))
    assert (actions == 1).all()


def noise_of(seed: int | None, n_draws: int = 50) -> np.ndarray:
    engine = make(FusedEngine, make_policy(), seed)
    return np.concatenate([sample(engine, np.zeros((1, 3), dtype=np.float32), step).actions for step in range(n_draws)])


def test_noise_repeats_with_a_seed_and_differs_without() -> None:
    np.testing.assert_array_equal(noise_of(3), noise_of(3))
    everything = np.concatenate([noise_of(3), noise_of(4)]).flatten()
    assert len(np.unique(everything)) == len(everything)
    np.random.seed(5)
    first, second = noise_of(None), noise_of(None)
    assert not np.isin(first, second).any()
    np.random.seed(5)
    np.testing.assert_array_equal(noise_of(None), first)


def test_noise_continues_from_a_state() -> None:
    first, second = (make(FusedEngine, make_policy(), seed, n_envs=4) for seed in (1, 2))
    obs = np.zeros((4, 3), dtype=np.float32)
    act(first, obs)
    act(second, obs)
    second.rng_state[:] = first.rng_state
    np.testing.assert_array_equal(sample(first, obs, 1).actions, sample(second, obs, 1).actions)


def test_the_random_generator_is_xoshiro256_plus_plus() -> None:
    """Compared with a second implementation in Python's integers."""
    mask = 2**64 - 1
    state = np.random.SeedSequence(0).generate_state(4, np.uint64)
    s = [int(number) for number in state]
    engine = make(FusedEngine, make_policy(BOX, spaces.MultiBinary(1)), 0, n_envs=10)
    np.testing.assert_array_equal(engine.rng_state, state)
    act(engine, np.zeros((10, 3), dtype=np.float32))  # each bit draws one number
    for _ in range(10):
        shifted = (s[1] << 17) & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = ((s[3] << 45) | (s[3] >> 19)) & mask
    assert engine.rng_state.tolist() == s


# Which policies fit


class OwnPolicy(ActorCriticPolicy):
    pass


class OwnExtractor(FlattenExtractor):
    pass


class OwnMlp(MlpExtractor):
    pass


def changed(change: Callable[[ActorCriticPolicy], Any], **kwargs: Any) -> ActorCriticPolicy:
    policy = make_policy(**kwargs)
    change(policy)
    return policy


def set_mlp(policy: ActorCriticPolicy) -> None:
    policy.mlp_extractor = OwnMlp(3, [4], nn.Tanh, "cpu")


MISFITS: dict[str, Callable[[], ActorCriticPolicy]] = {
    "is a OwnPolicy, not an ActorCriticPolicy, BoundedMlpPolicy or Recurrent": lambda: OwnPolicy(BOX, BOX, lambda _: 1e-3),
    "observations of Dict spaces need torch": lambda: changed(
        lambda policy: setattr(policy, "observation_space", spaces.Dict({"a": BOX}))
    ),
    "observations look like images": lambda: make_policy(spaces.Box(0, 255, (36, 36, 1), np.uint8)),
    "MultiDiscrete space with more than one axis": lambda: changed(
        lambda policy: setattr(policy, "observation_space", spaces.MultiDiscrete([[2, 3], [4, 5]]))
    ),
    "Discrete observations do not start at 0": lambda: make_policy(spaces.Discrete(3, start=1)),
    "gSDE with use_expln, squash_output": lambda: make_policy(use_sde=True, use_expln=True),
    "gSDE with .* or another epsilon": lambda: changed(
        lambda policy: setattr(policy, "action_dist", StateDependentNoiseDistribution(1, learn_features=True))
    ),
    "actions are float64, not float32": lambda: make_policy(BOX, spaces.Box(-1, 1, (2,), np.float64)),
    "the features extractor is a OwnExtractor": lambda: make_policy(features_extractor_class=OwnExtractor),
    "the mlp_extractor is a OwnMlp": lambda: changed(set_mlp),
    "modules of the policy have hooks": lambda: changed(
        lambda policy: policy.action_net.register_forward_hook(lambda *_: None)
    ),
    "modules of the policy have": lambda: changed(
        lambda policy: policy.action_net.register_full_backward_pre_hook(lambda *_: None)
    ),
    "of the policy have hooks": lambda: changed(lambda policy: policy.action_net.register_full_backward_hook(lambda *_: None)),
    "not linear layers with activations between them": lambda: changed(
        lambda policy: policy.mlp_extractor.policy_net.append(nn.LayerNorm(64))
    ),
    "activations differ from layer to layer": lambda: changed(
        lambda policy: policy.mlp_extractor.policy_net.__setitem__(1, nn.ReLU())
    ),
    r"the activation GELU\(.*\) needs torch": lambda: make_policy(activation_fn=nn.GELU),
    r"the activation LeakyReLU\(negative_slope=-0.1\) needs torch": lambda: make_policy(
        activation_fn=partial(nn.LeakyReLU, negative_slope=-0.1)
    ),
    "parameters or buffers of its own": lambda: changed(lambda policy: policy.register_buffer("mean", th.zeros(3))),
    "modules that share theirs": lambda: changed(
        lambda policy: setattr(policy.mlp_extractor.value_net[0], "weight", policy.mlp_extractor.policy_net[0].weight)
    ),
    "parameters are torch.float64, not float32": lambda: make_policy().double(),
    "parameters are on meta, not on the CPU": lambda: make_policy().to("meta"),
}


@pytest.mark.parametrize(("reason", "build"), MISFITS.items(), ids=list(MISFITS))
def test_what_does_not_fit(reason: str, build: Callable[[], ActorCriticPolicy]) -> None:
    policy = build()
    assert choose_engine("torch", policy).name == choose_engine("auto", policy).name == "torch"
    with pytest.raises(ValueError, match=f"engine must be 'auto' or 'torch' for this policy, but it is 'fused': .*{reason}"):
        choose_engine("fused", policy)


def test_what_fits() -> None:
    for obs_space, action_space in product(OBS_SPACES.values(), ACTION_SPACES.values()):
        assert why_not_fused(make_policy(obs_space, action_space, net_arch=[4])) is None
    assert choose_engine("auto", make_policy()).name == choose_engine("fused", make_policy()).name == "fused"
    assert choose_engine("torch", make_policy()).name == "torch"


def test_a_policy_that_does_not_fit_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match=r"engine must be .* but it is 'fused': gSDE with use_expln"):
        A3C("MlpPolicy", "Pendulum-v1", engine="fused", use_sde=True, policy_kwargs=dict(use_expln=True))


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        (dict(engine="auto"), "engine fused (the policy fits it)"),
        (dict(engine="auto", use_sde=True), "engine fused (the policy fits it)"),
        (dict(policy_kwargs=dict(activation_fn=nn.GELU)), "engine torch (not fused: the activation GELU"),
        (dict(engine="torch"), "engine torch (as asked for)"),
        (
            dict(engine="auto", policy_kwargs=dict(net_arch=[512, 512])),
            "engine torch (not fused: with 530,435 parameters torch is as fast",
        ),
    ],
)
def test_the_user_is_told_which_engine_it_is(kwargs: dict[str, Any], line: str, capsys: pytest.CaptureFixture) -> None:
    A3C("MlpPolicy", make_vec_env("Pendulum-v1"), verbose=1, **kwargs).learn(5)
    assert line in capsys.readouterr().out


# Kernels


def test_tanh_is_accurate() -> None:
    """Up to two units in the last place, and 1 where that is nearest."""
    policy = make_policy(spaces.Box(-np.inf, np.inf, (1,)), BOX, net_arch=dict(pi=[], vf=[1]))
    with th.no_grad():
        for param in (*policy.mlp_extractor.value_net[0].parameters(), *policy.value_net.parameters()):
            param.fill_(1.0 if param.ndim == 2 else 0.0)
    magnitudes = np.concatenate([np.geomspace(1e-30, 1e38, 200_001), np.linspace(0, 10, 200_001), [np.inf]])
    x = np.concatenate([magnitudes, -magnitudes]).astype(np.float32)
    engine = make(FusedEngine, policy)
    actual = engine.predict_values(x[:, None], np.zeros(len(x), bool))[:, 0]
    expected = np.tanh(x.astype(np.float64))
    assert (np.abs(actual - expected) <= 2 * np.spacing(np.abs(expected).astype(np.float32))).all()
    assert np.isnan(engine.predict_values(np.array([[np.nan]]), np.zeros(1, bool)).item())


OPTIMIZERS: dict[str, tuple[Callable[..., th.optim.Optimizer], Callable[..., None], list[str], float]] = {
    "rmsprop": (
        partial(th.optim.RMSprop, alpha=0.95, eps=1e-5),
        lambda x, g, v, n, *new: kernels.rmsprop_step(x, g, v, 7e-4, 0.95, 1e-5, *new),
        ["square_avg"],
        0.0,
    ),
    "rmsprop as in tensorflow": (
        partial(RMSpropTFLike, alpha=0.95, eps=1e-5),
        lambda x, g, v, n, *new: kernels.rmsprop_tf_step(x, g, v, 7e-4, 0.95, 1e-5, *new),
        ["square_avg"],
        1.0,
    ),
    "adam": (
        partial(th.optim.Adam, betas=(0.8, 0.99), eps=1e-5),
        lambda x, g, m, v, n, *new: kernels.adam_step(x, g, m, v, 7e-4, 0.8, 0.99, 1e-5, n, *new),
        ["exp_avg", "exp_avg_sq"],
        0.0,
    ),
    "adam without momentum": (
        partial(th.optim.Adam, betas=(0.0, 0.99), eps=1e-5),
        lambda x, g, m, v, n, *new: kernels.adam_step(x, g, m, v, 7e-4, 0.0, 0.99, 1e-5, n, *new),
        ["exp_avg", "exp_avg_sq"],
        0.0,
    ),
}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("case", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizer_steps_are_torchs(case: tuple, in_place: bool) -> None:
    build, step, names, initial = case
    rng = np.random.default_rng(0)
    start = rng.normal(size=1003).astype(np.float32)
    param = nn.Parameter(th.as_tensor(start.copy()))
    optimizer = build([param], lr=7e-4)
    vector, statistics = start.copy(), [np.full_like(start, initial) for _ in names]
    for n_steps in range(1, 51):
        gradient = (rng.normal(size=1003) * 10.0 ** rng.uniform(-6, 1, size=1003)).astype(np.float32)
        param.grad = th.as_tensor(gradient)
        optimizer.step()
        if in_place:
            step(vector, gradient, *statistics, n_steps)
        else:
            old, new = [vector, *statistics], [np.full_like(start, np.nan) for _ in range(1 + len(names))]
            before = [array.copy() for array in old]
            step(vector, gradient, *statistics, n_steps, *new)
            np.testing.assert_array_equal(old, before)
            vector, *statistics = new
    for name, statistic in zip(names, statistics, strict=True):
        np.testing.assert_allclose(statistic, optimizer.state[param][name], rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(vector, param.detach(), rtol=1e-6, atol=1e-6)
    assert np.abs(vector - start).max() > 1e-3


def test_adam_without_momentum_keeps_small_gradients() -> None:
    """torch's ``lerp`` has another formula for large weights, which loses nothing."""
    arrays = [np.zeros(1, np.float32) for _ in range(3)]
    for n_steps, gradient in enumerate((0.4, 1e-9), start=1):
        kernels.adam_step(arrays[0], np.full(1, gradient, np.float32), *arrays[1:], 7e-4, 0.0, 0.99, 1e-5, n_steps)
    assert arrays[1][0] == np.float32(1e-9)


def test_kernels_are_compiled_once() -> None:
    """
    Whatever the network, the spaces, the environments and their types of numbers; before a run, in a process where nothing
    else ran: workers never compile.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        prepared, used = fresh.submit(compilations).result()
    assert prepared == used
    twice = {"rmsprop_step", "rmsprop_tf_step", "adam_step"}  # in place, and to other arrays
    twice |= {"step_obs", "count_journal"}  # in two precisions
    assert used == {name: 2 if name in twice else 1 for name in used}
    assert {"act", "predict_values", "gradient", "encode", "encoders_gradient", "step_obs", "step_rewards"} <= used.keys()


def compilations() -> tuple[dict[str, int], dict[str, int]]:
    """
    :return: How often each kernel has been compiled before a run, and after runs of many kinds
    """
    compile_kernels(list(EXAMPLES))
    prepared = n_signatures()
    for obs_space, action_space in product(OBS_SPACES.values(), ACTION_SPACES.values()):
        policy = make_policy(obs_space, action_space, net_arch=[3])
        engine, buffer = make(FusedEngine, policy, n_envs=2, ent_coef=0, normalize_advantage=True), make_buffer(policy, 4, 2)
        act(engine, buffer.observations[0].reshape(2, *obs_space.shape))
        buffer.observations.flags.writeable = False  # as a callback may do
        engine.gradient(buffer, th.empty_like(engine.vector))
    A3C("MlpLstmPolicy", "Pendulum-v1", n_workers=1, engine="fused", policy_kwargs=dict(lstm_hidden_size=4)).learn(250)
    for venv in (make_vec_env("Pendulum-v1", 2), DummyVecEnv([FloatEnv]), SubprocVecEnv([FloatEnv])):
        whole_numbers: dict[str, Any] = dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0, eps=1))
        model = A3C("MlpPolicy", VecNormalize(venv), n_workers=1, learning_rate=1, policy_kwargs=whole_numbers)
        model.learn(10)
        venv.close()
    return prepared, n_signatures()


class FloatEnv(gym.Env):
    """Observations and rewards in float64, and observations with a stride."""

    observation_space = spaces.Box(-1, 1, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(4)[::2], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.ones(4)[::2], np.float64(1), bool(self.np_random.random() < 0.5), False, {}


def n_signatures() -> dict[str, int]:
    return {name: len(kernel.signatures) for name, kernel in KERNELS.items() if kernel.signatures}


# Learning


IDENTITIES: dict[str, Callable[[], gym.Env]] = {
    "discrete": lambda: IdentityEnv(10),
    "multi-discrete": lambda: IdentityEnvMultiDiscrete(4),
    "multi-binary": lambda: IdentityEnvMultiBinary(4),
    "box": lambda: IdentityEnvBox(eps=0.5),
}


@pytest.mark.parametrize(("identity", "backend"), [*zip(IDENTITIES, ["serial", "thread"] * 2, strict=True)])
def test_it_learns(identity: str, backend: str) -> None:
    env = DummyVecEnv([lambda: Monitor(IDENTITIES[identity]()) for _ in range(4)])  # type: ignore[list-item, return-value]
    kwargs = dict(n_steps=5, learning_rate=2e-3, gamma=0.4, ent_coef=0.01, seed=0)
    model = A3C("MlpPolicy", env, engine="fused", backend=backend, **kwargs)  # type: ignore[arg-type]
    before, _ = evaluate_policy(model, env, n_eval_episodes=4)
    model.learn(24_000)  # after 12,000, one of 20 runs had not converged
    after, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert after > 90 > before  # of 100 per episode


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_serial_run_repeats_to_the_last_bit(n_workers: int) -> None:
    ends = []
    for _ in range(2):
        env = make_vec_env("CartPole-v1", n_envs=3, seed=0)
        model = A3C("MlpPolicy", env, n_workers=n_workers, engine="fused", backend="serial", seed=4).learn(600)
        ends.append(th.cat([param.detach().flatten() for param in model.policy.parameters()]))
    assert th.equal(*ends)

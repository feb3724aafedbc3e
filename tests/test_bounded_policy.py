"""BoundedMlpPolicy equals its formulas, on every engine and backend, and is a policy like any other."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from test_fused import (
    ACTIVATIONS,
    BOX,
    NET_ARCHS,
    OBS_SPACES,
    SHAPES,
    OwnExtractor,
    act,
    assert_same_gradient,
    evaluate_actions,
    make,
    make_buffer,
    pairwise,
    sample,
)
from torch import nn

from sb3_a3c import A3C, BoundedMlpPolicy
from sb3_a3c.engines import choose_engine
from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.engines.network import why_not_fused
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.kernels.acting import act as act_kernel
from sb3_a3c.kernels.gradient import gradient

LOW, HIGH = np.array([[-1, -2], [-0.1, 0]], np.float32), np.array([[1, 0.3], [0.2, 5]], np.float32)
ACTION_SPACES: dict[str, spaces.Box] = {
    "one": spaces.Box(-2, 2, (1,)),
    "asymmetric, two axes": spaces.Box(LOW, HIGH),
    "huge": spaces.Box(-3e38, 3e38, (2,)),
}
#: Spaces in which the noise is larger than the rounding of the means.
WITHIN_REACH = {name: space for name, space in ACTION_SPACES.items() if name != "huge"}
ENGINES = {"torch": TorchEngine, "fused": FusedEngine}


def make_policy(
    obs_space: spaces.Space = BOX, action_space: spaces.Space = ACTION_SPACES["asymmetric, two axes"], **kwargs: Any
) -> BoundedMlpPolicy:
    """With biases, which are 0 in a new policy."""
    th.manual_seed(1)
    policy = BoundedMlpPolicy(obs_space, action_space, lambda _: 7e-4, **kwargs)
    with th.no_grad():
        for param in policy.parameters():
            param += 0.2 * th.randn_like(param)
    return policy


# The network


def by_hand(policy: BoundedMlpPolicy, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, standard deviations and values in double precision, computed from the weights."""
    state = {name: param.numpy().astype(np.float64) for name, param in policy.state_dict().items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    outputs = dense(np.clip(dense(obs, "mlp_extractor.policy_net.0"), 0, 6), "action_net")
    x, y = outputs[:, : outputs.shape[1] // 2], outputs[:, outputs.shape[1] // 2 :]
    assert isinstance(policy.action_space, spaces.Box)
    low, high = (bound.flatten().astype(np.float64) for bound in (policy.action_space.low, policy.action_space.high))
    means, stds = low + (np.tanh(x) + 1) * (high / 2 - low / 2), np.log1p(np.exp(y)) + 1e-4
    return means, stds, dense(np.clip(dense(obs, "mlp_extractor.value_net.0"), 0, 6), "value_net")[:, 0]


@pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES)
def test_it_is_what_its_formulas_say(action_space: spaces.Box) -> None:
    policy = make_policy(BOX, action_space)
    shapes = {name: tuple(param.shape) for name, param in policy.named_parameters()}
    n_actions = int(np.prod(action_space.shape))
    assert shapes == {
        "mlp_extractor.policy_net.0.weight": (200, 3),
        "mlp_extractor.policy_net.0.bias": (200,),
        "mlp_extractor.value_net.0.weight": (100, 3),
        "mlp_extractor.value_net.0.bias": (100,),
        "action_net.weight": (2 * n_actions, 200),
        "action_net.bias": (2 * n_actions,),
        "value_net.weight": (1, 100),
        "value_net.bias": (1,),
    }
    obs = np.random.default_rng(0).uniform(-1, 1, size=(50, 3)).astype(np.float32)
    obs[-1] *= 1000  # means at both bounds, and the smallest standard deviations
    means, stds, values = by_hand(policy, obs)
    with th.no_grad():
        distribution = policy.get_distribution(th.as_tensor(obs)).distribution
        predicted = policy.predict_values(th.as_tensor(obs))[:, 0]
    scale = float(np.abs(action_space.high).max())
    np.testing.assert_allclose(distribution.mean, means, rtol=1e-5, atol=2e-6 * scale)
    np.testing.assert_allclose(distribution.stddev, stds, rtol=1e-5)
    np.testing.assert_allclose(predicted, values, rtol=1e-5, atol=1e-5)
    actions, _ = policy.predict(obs, deterministic=True)
    assert all(action in action_space for action in actions)
    np.testing.assert_allclose(actions.reshape(50, -1), means, rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("clip_actions", [False, True])
def test_actions_are_evaluated_by_the_density_of_a_gaussian(clip_actions: bool) -> None:
    policy = make_policy(clip_actions=clip_actions)
    rng = np.random.default_rng(0)
    obs, actions = rng.uniform(-1, 1, size=(20, 3)).astype(np.float32), rng.uniform(-3, 6, size=(20, 4)).astype(np.float32)
    means, stds, values = by_hand(policy, obs)
    log_probs = -0.5 * ((actions - means) / stds) ** 2 - np.log(stds) - 0.5 * np.log(2 * np.pi)
    entropies = 0.5 + 0.5 * np.log(2 * np.pi) + np.log(stds)
    with th.no_grad():
        evaluated = [tensor.flatten() for tensor in policy.evaluate_actions(th.as_tensor(obs), th.as_tensor(actions))]
    np.testing.assert_allclose(evaluated[0], values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(evaluated[1], log_probs.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(evaluated[2], entropies.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_actor_and_critic_share_nothing() -> None:
    policy = make_policy(features_extractor_class=LearnedExtractor)
    obs = th.ones(1, 3)
    reached = []
    for output in (policy.predict_values(obs), policy.get_distribution(obs).distribution.mean):
        policy.zero_grad()
        output.sum().backward()
        reached.append({name for name, param in policy.named_parameters() if param.grad is not None and param.grad.any()})
    assert all(reached) and not reached[0] & reached[1]


class LearnedExtractor(OwnExtractor):
    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(super().forward(observations))


def test_weights_are_drawn_as_in_the_tutorial_or_as_asked_for() -> None:
    policy = BoundedMlpPolicy(spaces.Box(-1, 1, (300,)), BOX, lambda _: 1e-3)
    for name, param in policy.named_parameters():
        if name.endswith("bias"):
            assert not param.any(), name
    for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
        weights = net[0].weight.detach()
        # A mean or a standard deviation exceeds these bounds once in a million times.
        assert abs(float(weights.mean())) < 0.1 * 4.9 / weights.numel() ** 0.5
        assert abs(float(weights.std()) - 0.1) < 0.1 * 4.9 / (2 * weights.numel()) ** 0.5
    own = BoundedMlpPolicy(BOX, BOX, lambda _: 1e-3, [7, 6], nn.Tanh, lambda weight: nn.init.constant_(weight, 0.5))
    assert [type(layer) for layer in own.mlp_extractor.policy_net] == [nn.Linear, nn.Tanh] * 2
    assert own.mlp_extractor.value_net[2].weight.shape == (6, 7) and bool((own.action_net.weight == 0.5).all())


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3),
        spaces.MultiBinary(2),
        spaces.Box(-np.inf, np.inf, (1,)),
        spaces.Box(np.array([0, -np.inf], np.float32), np.ones(2, np.float32)),
    ],
    ids=str,
)
def test_actions_without_bounds_are_an_error_at_once(action_space: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"action_space must be a Box with finite bounds for BoundedMlpPolicy .*, but it is"):
        BoundedMlpPolicy(BOX, action_space, lambda _: 1e-3)


def test_discrete_actions_and_gsde_are_errors_of_the_algorithm() -> None:
    with pytest.raises(ValueError, match=r"Box with finite bounds .*MlpPolicy supports others.*, but it is Discrete\(2\)"):
        A3C("BoundedMlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="use_sde must be False with BoundedMlpPolicy"):
        A3C("BoundedMlpPolicy", "Pendulum-v1", use_sde=True)


# Clipped actions


@pytest.mark.parametrize("engine_class", ENGINES.values(), ids=ENGINES)
def test_clipped_actions_are_what_is_stored_and_valued(engine_class: Any) -> None:
    """With ``clip_actions=False`` only the environments' actions are clipped, as everywhere in SB3."""
    obs = np.tile(np.array([[0.3, -0.8, 0.5]], np.float32), (500, 1))
    stored = {}
    for clip_actions in (False, True):
        policy = make_policy(clip_actions=clip_actions)
        action = sample(make(engine_class, policy, n_envs=len(obs)), obs, 0)
        stored[clip_actions] = action.actions
        np.testing.assert_array_equal(action.clipped_actions, np.clip(action.actions, LOW, HIGH))
        with th.no_grad():
            _, log_probs, _ = evaluate_actions(policy, obs, action.actions)
        np.testing.assert_allclose(action.log_probs, log_probs, rtol=1e-5, atol=2e-5)
    outside = (stored[False] < LOW) | (stored[False] > HIGH)
    assert outside.any(axis=0).all() and not outside.all()
    np.testing.assert_array_equal(stored[True], np.clip(stored[False], LOW, HIGH))  # the noise is the same


# Engines


@pairwise(net_arch=[None, *NET_ARCHS], activation_fn=ACTIVATIONS, clip_actions=[False, True])
def test_gradient_of_networks(net_arch: Any, activation_fn: Any, clip_actions: bool) -> None:
    policy = make_policy(net_arch=net_arch, activation_fn=activation_fn, clip_actions=clip_actions)
    assert_same_gradient(policy, make_buffer(policy, n_steps=8))


@pairwise(obs_space=OBS_SPACES, action_space=WITHIN_REACH, shape=SHAPES)
def test_gradient_of_spaces_and_shapes(obs_space: spaces.Space, action_space: spaces.Box, shape: tuple[int, int]) -> None:
    policy = make_policy(obs_space, action_space, net_arch=[32, 9])
    assert_same_gradient(policy, make_buffer(policy, *shape))


@pairwise(ent_coef=[0, 0.3], vf_coef=[0.0, 1.0], max_grad_norm=[0.05, float("inf")], normalize_advantage=[False, True])
def test_gradient_of_coefficients(ent_coef: float, vf_coef: float, max_grad_norm: float, normalize_advantage: bool) -> None:
    coefficients = dict(
        ent_coef=ent_coef, vf_coef=vf_coef, max_grad_norm=max_grad_norm, normalize_advantage=normalize_advantage
    )
    policy = make_policy()
    assert_same_gradient(policy, make_buffer(policy, 6, 2), **coefficients)


@pytest.mark.parametrize("shift", [-30.0, -5.0, 5.0, 30.0])
def test_gradient_at_extreme_means_and_standard_deviations(shift: float) -> None:
    policy = make_policy()
    with th.no_grad():
        policy.action_net.bias += shift * th.tensor([0.1] * 4 + [1.0] * 4)
    assert_same_gradient(policy, make_buffer(policy, 6))


@pytest.mark.parametrize("n_envs", [1, 5])
@pytest.mark.parametrize("action_space", WITHIN_REACH.values(), ids=WITHIN_REACH)
def test_act_is_the_torch_engines(action_space: spaces.Box, n_envs: int) -> None:
    policy = make_policy(BOX, action_space)
    expected, actual = make(TorchEngine, policy, n_envs=n_envs), make(FusedEngine, policy, n_envs=n_envs)
    obs = np.random.default_rng(0).uniform(-1, 1, size=(n_envs, 3)).astype(np.float32)
    theirs, ours = sample(expected, obs, 0), sample(actual, obs, 0)
    for mine, other in zip(ours.as_tensors()[:5], theirs.as_tensors()[:5], strict=True):
        assert (type(mine), mine.dtype, mine.shape) == (type(other), other.dtype, other.shape)
    with th.no_grad():
        values, log_probs, _ = evaluate_actions(policy, obs, ours.actions)
    np.testing.assert_allclose(ours.values, values.flatten(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.log_probs, log_probs, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(actual.predict_values(obs, np.zeros(n_envs, bool)), values, rtol=1e-5, atol=1e-5)


def test_actions_are_drawn_with_the_networks_mean_and_standard_deviation() -> None:
    n_draws = 40_000
    policy = make_policy()
    obs = np.tile(np.array([[0.3, -0.8, 0.5]], np.float32), (n_draws, 1))
    means, stds, _ = by_hand(policy, obs[:1])
    noise = (sample(make(FusedEngine, policy, n_envs=n_draws), obs, 0).actions.reshape(n_draws, -1) - means) / stds
    # A normal variable exceeds 4.9 standard deviations once in a million times.
    assert (np.abs(noise.mean(axis=0)) * n_draws**0.5 < 4.9).all()
    assert (np.abs((noise**2).mean(axis=0) - 1) * (n_draws / 2) ** 0.5 < 4.9).all()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_reported(number: float) -> None:
    policy = make_policy()
    engine, buffer = make(FusedEngine, policy), make_buffer(policy)
    out = th.empty_like(engine.vector)
    assert engine.gradient(buffer, out).finite
    buffer.advantages[-1] = number
    assert not engine.gradient(buffer, out).finite
    with pytest.raises(ValueError, match="contain nan or inf"):
        act(engine, np.full((1, 3), np.nan, np.float32))


def test_what_fits() -> None:
    assert choose_engine("auto", make_policy()).name == "fused"
    assert choose_engine("auto", make_policy(activation_fn=nn.GELU)).name == "torch"
    assert why_not_fused(make_policy(BOX, spaces.Box(-1, 1, (2,), np.float64))) == "actions are float64, not float32"
    engine, buffer = make(FusedEngine, make_policy(), n_envs=2), make_buffer(make_policy())
    act(engine, np.zeros((2, 3), np.float32))
    engine.gradient(buffer, th.empty_like(engine.vector))
    assert len(act_kernel.signatures) == len(gradient.signatures) == 1


# As a policy of an algorithm


@pytest.mark.parametrize("clip_actions", [False, True])
def test_it_learns(clip_actions: bool) -> None:
    env = make_vec_env(lambda: IdentityEnvBox(eps=0.5), n_envs=4)
    kwargs: dict[str, Any] = dict(learning_rate=2e-3, gamma=0.4, ent_coef=0.01, seed=0, engine="fused", backend="serial")
    model = A3C("BoundedMlpPolicy", env, policy_kwargs=dict(clip_actions=clip_actions), **kwargs)
    before, _ = evaluate_policy(model, env, n_eval_episodes=4)
    model.learn(4_000)
    after, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert after > 90 > before  # of 100 an episode


@pytest.mark.parametrize("backend", ["serial", "thread", pytest.param("process", marks=pytest.mark.slow)])
@pytest.mark.parametrize("engine", ENGINES)
def test_round_trip(engine: str, backend: str, tmp_path: Any) -> None:
    env = make_vec_env("Pendulum-v1", n_envs=2)
    policy_kwargs = dict(net_arch=[16], clip_actions=True, activation_fn=nn.Tanh)
    model = A3C("BoundedMlpPolicy", env, engine=engine, backend=backend, policy_kwargs=policy_kwargs, seed=0).learn(80)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    obs = env.observation_space.sample()
    expected, _ = model.predict(obs, deterministic=True)
    loaded, policy = A3C.load(tmp_path / "model", env=env), BoundedMlpPolicy.load(tmp_path / "policy")
    for other in (loaded.policy, policy):
        assert other.clip_actions and other.mlp_extractor.policy_net[0].out_features == 16
        np.testing.assert_array_equal(other.predict(obs, deterministic=True)[0], expected)
    assert loaded.learn(40, reset_num_timesteps=False).num_timesteps == 120


@pytest.mark.parametrize("engine", ENGINES)
def test_actor_and_critic_have_learning_rates_of_their_own(engine: str) -> None:
    env = make_vec_env("Pendulum-v1", n_envs=2)
    model = A3C("BoundedMlpPolicy", env, learning_rate=0.0, vf_learning_rate=1e-3, engine=engine, backend="serial")
    before = {name: param.detach().clone() for name, param in model.policy.named_parameters()}
    model.learn(40)
    for name, param in model.policy.named_parameters():
        assert th.equal(param, before[name]) == ("value" not in name), name


@pytest.mark.parametrize(("algorithm", "kwargs"), [(A2C, {}), (PPO, dict(batch_size=8, n_epochs=1))])
def test_algorithms_of_sb3_learn_with_it(algorithm: Any, kwargs: dict[str, Any]) -> None:
    """test_identity.py shows that A2C and A3C learn the same with it, to the last bit."""
    model = algorithm(BoundedMlpPolicy, "Pendulum-v1", n_steps=8, device="cpu", seed=0, **kwargs)
    before = model.policy.action_net.weight.detach().clone()
    model.learn(64)
    assert not th.equal(model.policy.action_net.weight, before)

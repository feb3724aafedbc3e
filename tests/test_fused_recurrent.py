"""The fused engine computes recurrent policies as the torch engine does, up to float32 rounding."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from allpairspy import AllPairs
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_a3c import A3C
from sb3_a3c.engines import choose_engine
from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.network import read_network
from sb3_a3c.engines.recurrence import Recurrence
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.kernels.compilation import needed
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.policies.hooks import GradientRules, ParameterHook
from sb3_a3c.policies.recurrent import CnnLstmPolicy, MlpGruPolicy, MlpLstmPolicy
from sb3_a3c.policies.recurrent_states import as_rnn_states

BOX = spaces.Box(-1, 1, (3,))
#: sb3_contrib makes no LSTM for MultiDiscrete observations.
OBS_SPACES: dict[str, spaces.Space] = {
    "box": BOX,
    "box of doubles, two axes": spaces.Box(-5, 5, (2, 3), np.float64),
    "discrete": spaces.Discrete(4),
    "multi-binary": spaces.MultiBinary(4),
}
ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-0.5, 0.5, (2,)),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([2, 4]),
    "multi-binary": spaces.MultiBinary(3),
}
#: Separate LSTMs, one for both, and none for the critic.
CRITICS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared": dict(enable_critic_lstm=False, shared_lstm=True),
    "none": dict(enable_critic_lstm=False),
}
N_STEPS = 7


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(n_threads)


def pairwise(**parameters: Any) -> pytest.MarkDecorator:
    """Few cases in which every two values of two parameters occur together."""
    return pytest.mark.parametrize(list(parameters), [list(case) for case in AllPairs([[*p] for p in parameters.values()])])


def make_policy(
    obs: str = "box", action: str = "box", critic: str = "separate", n_layers: int = 1, size: int = 8, **kwargs: Any
) -> RecurrentActorCriticPolicy:
    """A policy with noise in its parameters, since a new policy treats all actions almost equally."""
    th.manual_seed(1)
    policy = RecurrentActorCriticPolicy(
        OBS_SPACES[obs],
        ACTION_SPACES[action],
        lambda _: 7e-4,
        n_lstm_layers=n_layers,
        lstm_hidden_size=size,
        **{**dict(net_arch=[9]), **CRITICS[critic], **kwargs},
    )
    with th.no_grad():
        for param in policy.parameters():
            param += 0.3 * th.randn_like(param)
    return policy


def hyperparameters(**changes: Any) -> Hyperparameters:
    return replace(Hyperparameters(0.97, 0.05, 0.0, 0.5, 0.5, False, -1, lambda _: 7e-4, None), **changes)


class Rollout:
    """
    The same rollout of random observations, episodes and rewards in both engines, with the fused engine's actions.

    :param policy: The policy
    :param n_envs: Number of environments
    :param several_workers: Whether the engines are those of one of several workers
    :param changes: Of hyperparameters
    """

    def __init__(
        self, policy: RecurrentActorCriticPolicy, n_envs: int = 3, several_workers: bool = True, **changes: Any
    ) -> None:
        self.n_envs = n_envs
        self.layout = Layout(policy)
        seed = np.random.SeedSequence(0) if several_workers else None
        arguments = policy, self.layout, policy.action_space, nullcontext(), seed
        self.torch, self.fused = self.engines = TorchEngine(*arguments), FusedEngine(*arguments)
        self.changes = changes
        self.rng = np.random.default_rng(0)
        policy.observation_space.seed(0)
        n_layers, _, size = policy.lstm_hidden_state_shape
        state = self.rng.normal(size=(n_envs, 2, 2, n_layers, size)).astype(np.float32)
        if policy.lstm_critic is None:
            state[:, 1] = state[:, 0]
        for engine in self.engines:
            engine.state = state
        self.make = lambda: RolloutBuffer(N_STEPS, policy.observation_space, policy.action_space, "cpu", n_envs=n_envs)
        self.space = policy.observation_space

    def collect(self) -> RolloutBuffer:
        """
        :return: The fused engine's buffer
        """
        buffers = [self.make() for _ in self.engines]
        for engine, buffer in zip(self.engines, buffers, strict=True):
            engine.start_rollout(buffer, hyperparameters(**self.changes))
        for step in range(N_STEPS):
            obs, starts = self.observe()
            rewards = self.rng.normal(size=self.n_envs).astype(np.float32)
            for engine in self.engines:
                engine.act(obs, starts, step)
                engine.add(rewards)
        obs, dones = self.observe()
        for engine, buffer in zip(self.engines, buffers, strict=True):
            engine.compute_returns(buffer, engine.predict_values(obs, dones), dones)
        return buffers[1]

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: Observations, and whether episodes start with them
        """
        return np.stack([self.space.sample() for _ in range(self.n_envs)]), self.rng.random(self.n_envs) < 0.3

    def assert_same_gradient(self, buffer: RolloutBuffer, valid: np.ndarray | None = None) -> None:
        """Up to 5e-5 of the gradient's norm; each element up to 2e-5 of the norm plus 1e-4 of its own value."""
        expected, actual = (th.full_like(engine.vector, 7.0) for engine in self.engines)
        losses = self.torch.gradient(buffer, expected, valid)
        mine = self.fused.gradient(buffer, actual, valid)
        norm = float(expected.norm())
        assert norm > 0 and float((expected - actual).norm()) < 5e-5 * norm
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=2e-5 * norm)
        np.testing.assert_allclose(mine[:4], losses[:4], rtol=1e-4, atol=1e-6)
        assert mine.without_gradient == losses.without_gradient


@pairwise(critic=CRITICS, n_layers=[1, 2, 3], n_envs=[1, 2, 8], size=[1, 8, 21])
def test_an_lstm_is_torchs(critic: str, n_layers: int, n_envs: int, size: int) -> None:
    """Outputs, states and gradients of LSTMs are those of a loop over steps with autograd."""
    policy = make_policy(critic=critic, n_layers=n_layers, size=size)
    layout, rng = Layout(policy), np.random.default_rng(0)
    vector = layout.gather(policy)
    encoders = read_network(policy, layout).encoders
    assert encoders is not None
    recurrence = Recurrence(encoders, vector.numpy())
    recurrence.state = state = rng.normal(size=(n_envs, 2, 2, n_layers, size)).astype(np.float32)
    recurrence.start_rollout(N_STEPS, n_envs)
    obs = rng.normal(size=(N_STEPS, n_envs, 3)).astype(np.float32)
    starts = (rng.random((N_STEPS, n_envs)) < 0.3).astype(np.float32)
    recurrence.evaluate(obs, starts)
    actual = recurrence.inputs()
    delta = rng.normal(size=actual.shape).astype(np.float32)

    outputs = [encoded(policy.lstm_actor, obs, starts, state[:, 0])]
    if critic == "separate":
        outputs.append(encoded(policy.lstm_critic, obs, starts, state[:, 1]))
    elif critic == "none":
        assert policy.critic is not None
        outputs.append(policy.critic(th.as_tensor(obs)))
    np.testing.assert_allclose(actual, np.stack([output.detach() for output in outputs]), rtol=1e-4, atol=1e-6)
    sum((output * th.as_tensor(d)).sum() for output, d in zip(outputs, delta, strict=True)).backward()  # type: ignore[union-attr]
    gradient = np.zeros(layout.size, np.float32)
    assert recurrence.gradient(delta.ravel(), gradient, np.inf)
    for name, mine, param in zip(layout.names, layout.views(th.as_tensor(gradient)), layout.parameters(policy), strict=True):
        expected = th.zeros_like(param) if param.grad is None else param.grad
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def encoded(lstm: Any, obs: np.ndarray, starts: np.ndarray, state: np.ndarray) -> th.Tensor:
    """The outputs of an LSTM from the states ``(n_envs, 2, n_layers, n_hidden)``."""
    hidden, cell = th.as_tensor(np.ascontiguousarray(state.transpose(1, 2, 0, 3)))
    outputs = []
    for row, start in zip(th.as_tensor(obs), th.as_tensor(starts), strict=True):
        goes_on = 1 - start[None, :, None]
        output, (hidden, cell) = lstm(row[None], (goes_on * hidden, goes_on * cell))
        outputs.append(output[0])
    return th.stack(outputs)


@pairwise(obs=OBS_SPACES, action=ACTION_SPACES, critic=CRITICS, n_layers=[1, 2], n_envs=[1, 3], use_sde=[False, True])
def test_a_rollout_is_the_torch_engines(obs: str, action: str, critic: str, n_layers: int, n_envs: int, use_sde: bool) -> None:
    """Values, log probabilities, states and gradients, in two rollouts one after another."""
    policy = make_policy(obs, action, critic, n_layers, use_sde=use_sde and action == "box")
    rollout = Rollout(policy, n_envs)
    for _ in range(2):
        state_before = np.array(rollout.fused.state)
        buffer = rollout.collect()
        np.testing.assert_allclose(rollout.fused.state, rollout.torch.state, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
        mine, theirs = (engine.actions().as_tensors() for engine in rollout.engines)
        np.testing.assert_allclose(mine.state, theirs.state, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
        np.testing.assert_allclose(mine.values, theirs.values, rtol=1e-4, atol=1e-5)
        assert_log_probs(policy, buffer, state_before)
        np.testing.assert_allclose(*predictions(rollout), rtol=1e-4, atol=1e-5)
        rollout.assert_same_gradient(buffer)
        for engine, state in zip(rollout.engines, (mine.state, theirs.state), strict=True):  # neither has changed it
            np.testing.assert_array_equal(engine.state, state[-1])  # type: ignore[index, arg-type]


def assert_log_probs(policy: RecurrentActorCriticPolicy, buffer: RolloutBuffer, state: np.ndarray) -> None:
    """The log probabilities in a buffer are the policy's for its actions."""
    names = "observations", "actions", "episode_starts", "log_probs"
    obs, actions, starts, log_probs = (th.as_tensor(buffer.swap_and_flatten(getattr(buffer, name))) for name in names)
    actions = actions.long().flatten() if isinstance(buffer.action_space, spaces.Discrete) else actions.float()
    with th.no_grad():
        _, expected, _ = policy.evaluate_actions(obs, actions, as_rnn_states(state), starts.flatten())
    np.testing.assert_allclose(log_probs.flatten(), expected, rtol=1e-4, atol=2e-5)


def predictions(rollout: Rollout) -> list[np.ndarray]:
    """Values after a rollout, and of the last observations of truncated episodes, for each engine."""
    obs, starts = rollout.observe()
    found = []
    for engine in rollout.engines:
        values = np.asarray(engine.predict_values(obs, starts)).ravel()
        truncated = [float(value) for value in engine.predict_terminal_values(list(obs[::-2]), range(len(obs))[::-2])]
        found.append(np.concatenate([values, truncated]))
    return found


@pairwise(
    critic=CRITICS,
    net_arch=[[], [6], dict(pi=[7, 5], vf=[4]), dict(vf=[3])],
    activation_fn=[nn.Tanh, nn.ReLU],
    normalize_advantage=[False, True],
    max_grad_norm=[0.01, 100.0],
)
def test_gradient_of_networks(
    critic: str, net_arch: Any, activation_fn: Any, normalize_advantage: bool, max_grad_norm: float
) -> None:
    policy = make_policy(critic=critic, net_arch=net_arch, activation_fn=activation_fn)
    rollout = Rollout(policy, normalize_advantage=normalize_advantage, max_grad_norm=max_grad_norm)
    rollout.assert_same_gradient(rollout.collect())


@pytest.mark.parametrize("critic", CRITICS)
def test_steps_that_nothing_is_learned_from(critic: str) -> None:
    """The LSTMs go through them, as in torch."""
    rollout = Rollout(make_policy(critic=critic))
    buffer, valid = rollout.collect(), np.ones((N_STEPS, 3), dtype=bool)
    valid[[0, 2, 2, 5], [0, 1, 2, 0]] = False
    rollout.assert_same_gradient(buffer, valid)


def test_the_gradient_is_of_the_present_parameters() -> None:
    """
    A single worker's callbacks may have written to parameters, observations and episode starts. The states stay as they were.
    """
    rollout = Rollout(make_policy(), several_workers=False)
    buffer = rollout.collect()
    states = [np.array(engine.state) for engine in rollout.engines]
    buffer.observations = buffer.observations * 0.9
    buffer.episode_starts = 1 - buffer.episode_starts
    for engine in rollout.engines:
        engine.vector *= 0.8
    rollout.assert_same_gradient(buffer)
    for engine, state in zip(rollout.engines, states, strict=True):
        np.testing.assert_array_equal(engine.state, state)


@pytest.mark.parametrize("critic", CRITICS)
def test_what_several_workers_keep_is_what_a_single_one_computes_again(critic: str) -> None:
    """To rounding: sums over one row are computed in another order than those over four."""
    rollout = Rollout(make_policy(critic=critic, n_layers=2))
    for _ in range(2):
        buffer = rollout.collect()
        kept, computed = (th.empty_like(rollout.fused.vector) for _ in range(2))
        rollout.fused.gradient(buffer, kept)
        rollout.fused.gradient(copy(buffer), computed)
        np.testing.assert_allclose(kept, computed, rtol=1e-5, atol=1e-6 * float(computed.norm()))


def test_states_that_begin_anew_are_zeros() -> None:
    rollout = Rollout(make_policy())
    for engine in rollout.engines:
        engine.state = None
    assert rollout.fused.state is None
    rollout.assert_same_gradient(rollout.collect())
    np.testing.assert_allclose(rollout.fused.state, rollout.torch.state, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("max_grad_norm", [0.01, 100.0])
def test_frozen_parameters_and_hooks(max_grad_norm: float) -> None:
    """They act before the gradient is clipped, as in torch."""
    frozen = frozenset({"lstm_actor.weight_hh_l0", "value_net.bias"})
    rules = GradientRules(frozen, (ParameterHook("lstm_critic.weight_ih_l0", lambda grad: 3 * grad, False),))
    rollout = Rollout(make_policy(), max_grad_norm=max_grad_norm, rules=rules)
    rollout.assert_same_gradient(rollout.collect())


@pytest.mark.parametrize("critic", CRITICS)
def test_numbers_that_are_not_finite_are_noticed(critic: str) -> None:
    rollout = Rollout(make_policy(critic=critic, n_layers=2), several_workers=False)
    buffer, engine = rollout.collect(), rollout.fused
    out = th.empty_like(engine.vector)
    for part in rollout.layout.slices:
        kept = engine.vector[part.start].item()
        engine.vector[part.start] = np.nan
        assert not engine.gradient(buffer, out).finite
        engine.vector[part.start] = kept
    assert engine.gradient(buffer, out).finite and bool(out.isfinite().all())
    obs, starts = rollout.observe()
    engine.start_rollout(rollout.make(), hyperparameters())
    obs[1, 0] = np.nan
    with pytest.raises(ValueError, match="contain nan or inf"):
        engine.act(obs, starts, 0)


def test_an_observation_outside_of_its_space_is_an_error() -> None:
    rollout = Rollout(make_policy("discrete"), n_envs=2)
    rollout.fused.start_rollout(rollout.make(), hyperparameters())
    with pytest.raises(ValueError, match=r"the observation \[4.\] is not in the space Discrete\(4\)"):
        rollout.fused.act(np.array([1, 4]), np.zeros(2, bool), 0)
    with pytest.raises(ValueError, match="is not in the space"):
        rollout.fused.predict_values(np.array([-1, 0]), np.zeros(2, bool))


IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
MISFITS: dict[str, Callable[[], ActorCriticPolicy]] = {
    r"lstm_kwargs=\{'dropout': 0.5\} needs torch": lambda: make_policy(n_layers=2, lstm_kwargs=dict(dropout=0.5)),
    "is a MlpGruPolicy, not an": lambda: MlpGruPolicy(BOX, BOX, lambda _: 1e-3),
    "is a RecurrentActorCriticCnnPolicy, not an": lambda: CnnLstmPolicy(IMAGE, BOX, lambda _: 1e-3),  # type: ignore[dict-item]
    "gSDE with use_expln": lambda: make_policy(use_sde=True, use_expln=True),
    "not LSTMs of equal size": lambda: changed("lstm_critic", nn.LSTM(3, 8, num_layers=2)),
    "are not LSTMs of equal": lambda: changed("lstm_actor", nn.LSTM(3, 9)),
    "encoder is a Sequential, not a linear layer": lambda: changed("critic", nn.Sequential(nn.Linear(3, 8))),
}


def changed(name: str, module: nn.Module) -> RecurrentActorCriticPolicy:
    policy = make_policy(critic="none" if name == "critic" else "separate")
    setattr(policy, name, module)
    return policy


@pytest.mark.parametrize("reason", MISFITS)
def test_what_does_not_fit(reason: str) -> None:
    policy = MISFITS[reason]()
    assert choose_engine("auto", policy).name == "torch"
    with pytest.raises(ValueError, match=f"engine must be 'auto' or 'torch' for this policy, but it is 'fused': .*{reason}"):
        choose_engine("fused", policy)


def test_what_fits() -> None:
    for critic in CRITICS:
        assert choose_engine("auto", make_policy(critic=critic)).name == "fused"
    assert choose_engine("auto", make_policy(size=256)).name == "fused"
    assert choose_engine("auto", make_policy(size=1024)).reason.startswith("not fused: with 8,")
    assert choose_engine("fused", make_policy(size=1024)).name == "fused"


def test_kernels_of_lstms_are_compiled_for_recurrent_policies_only() -> None:
    venv = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    recurrent = {"encode", "encoders_gradient"}
    assert recurrent <= set(needed(True, False, make_policy(), True, venv))
    assert not recurrent & set(needed(True, False, ActorCriticPolicy(BOX, BOX, lambda _: 1e-3), True, venv))


# Learning


class Recall(gym.Env):
    """The third action is to name the first observation. Without a memory, it is right half of the time."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._bit, self._n_steps = int(self.np_random.integers(2)), 0
        return np.array([2 * self._bit - 1, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._n_steps += 1
        at_end = self._n_steps == 3
        return np.array([0, self._n_steps == 2], np.float32), float(at_end and action == self._bit), at_end, False, {}


@pytest.mark.slow
@pytest.mark.parametrize(("critic", "backend"), [("separate", "serial"), ("shared", "thread"), ("none", "process")])
def test_it_learns_what_needs_a_memory(critic: str, backend: str) -> None:
    env = DummyVecEnv([lambda: Monitor(Recall()) for _ in range(8)])  # type: ignore[list-item, return-value]
    kwargs: dict[str, Any] = dict(n_steps=12, learning_rate=5e-3, ent_coef=0.01, seed=0, engine="fused", n_workers=2)
    policy_kwargs = dict(lstm_hidden_size=16, net_arch=[], **CRITICS[critic])
    model = A3C("MlpLstmPolicy", env, backend=backend, policy_kwargs=policy_kwargs, **kwargs).learn(40_000)
    assert evaluate_policy(model, env, n_eval_episodes=40)[0] > 0.9


def test_a_serial_run_repeats_to_the_last_bit() -> None:
    ends = []
    for _ in range(2):
        env = DummyVecEnv([Recall] * 3)
        model = A3C("MlpLstmPolicy", env, n_workers=2, n_steps=5, engine="fused", backend="serial", seed=4).learn(300)
        ends.append(th.cat([param.detach().flatten() for param in model.policy.parameters()]))
    assert th.equal(*ends)
    assert isinstance(model.policy, MlpLstmPolicy)

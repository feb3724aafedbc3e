"""Recurrent policies: hidden states go on, are zeroed and travel as RecurrentPPO's do, and one worker is a synchronous A2C."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from allpairspy import AllPairs
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_a3c import A3C, record, replay
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.policies.copies import _build_from, _dump, _plan_of
from sb3_a3c.policies.recurrent import GRU, MlpGruPolicy, MlpLstmPolicy
from sb3_a3c.policies.recurrent_states import as_array, as_rnn_states
from sb3_a3c.system.extras import MissingExtra

BACKENDS = ["serial", "thread", "process"]
#: Separate LSTMs, one for both, and none for the critic.
CRITICS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared": dict(enable_critic_lstm=False, shared_lstm=True),
    "none": dict(enable_critic_lstm=False),
}
SMALL = dict(lstm_hidden_size=8, net_arch=[8])


def pairs(*columns: list[Any]) -> list[list[Any]]:
    """Cases in which each two values of different columns occur together."""
    return [list(case) for case in AllPairs(columns)]


class Walk(gym.Env):
    """Episodes of random lengths, half of them truncated, with a Box or Discrete action that changes the rewards."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (3,))

    def __init__(self, discrete: bool = False) -> None:
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        end = self.np_random.random()
        return self._obs(), float(np.sum(action)), end < 0.15, 0.15 <= end < 0.3, {}

    def _obs(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Pictures(Walk):
    """Observes a picture and a number."""

    observation_space = spaces.Dict({"image": spaces.Box(0, 255, (36, 36, 1), np.uint8), "number": spaces.Box(-1, 1, (1,))})

    def _obs(self) -> Any:
        number = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return {"image": self.np_random.integers(0, 255, (36, 36, 1), np.uint8), "number": number}


class SeenStates(BaseCallback):
    """Keeps what it sees of hidden states."""

    def _on_training_start(self) -> None:
        self.states: list[RNNStates] = []

    def _on_step(self) -> bool:
        self.states.append(self.locals["lstm_states"])
        return True


def make_env(n_envs: int = 4, **env_kwargs: Any) -> VecEnv:
    return make_vec_env(Walk, n_envs, seed=3, env_kwargs=env_kwargs)


def parameters_of(model: BaseAlgorithm) -> np.ndarray:
    return np.concatenate([param.numpy(force=True).ravel() for param in model.policy.parameters()])


def make(
    backend: str = "serial", n_workers: int = 2, env: VecEnv | None = None, policy: str = "MlpLstmPolicy", **more: Any
) -> A3C:
    kwargs: dict[str, Any] = dict(n_steps=6, seed=1, policy_kwargs=dict(SMALL))
    return A3C(policy, env or make_env(), n_workers=n_workers, backend=backend, **{**kwargs, **more})


@pytest.mark.parametrize("case", pairs([*CRITICS], [1, 2], [1, 3], [False, True], ["rms", "adam"]), ids=str)
def test_one_worker_is_a_synchronous_recurrent_a2c(case: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """RecurrentPPO with one epoch of one batch, nothing clipped, is one: to rounding, for what callbacks see as well."""
    critic, n_layers, n_envs, discrete, optimizer = case
    policy_kwargs = dict(
        **SMALL,
        **CRITICS[critic],
        n_lstm_layers=n_layers,
        optimizer_class=th.optim.RMSprop if optimizer == "rms" else th.optim.Adam,
        optimizer_kwargs=dict(eps=1e-5),
    )
    shared: dict[str, Any] = dict(n_steps=7, seed=1, policy_kwargs=policy_kwargs, learning_rate=1e-3, ent_coef=0.01)
    model = A3C("MlpLstmPolicy", make_env(n_envs, discrete=discrete), n_workers=1, engine="torch", **shared)
    seen, seen_by_oracle = SeenStates(), SeenStates()
    model.learn(n_envs * 7 * 15, seen)
    monkeypatch.setattr(np.random, "randint", lambda *args, **kwargs: 0)  # where its buffer splits sequences
    oracle = RecurrentPPO(
        "MlpLstmPolicy",
        make_env(n_envs, discrete=discrete),
        n_epochs=1,
        batch_size=7 * n_envs,
        normalize_advantage=False,
        clip_range=1e9,
        gae_lambda=1.0,
        **shared,
    )
    oracle.learn(n_envs * 7 * 15, seen_by_oracle)
    np.testing.assert_allclose(parameters_of(model), parameters_of(oracle), rtol=1e-4, atol=2e-6)
    assert len(seen.states) == len(seen_by_oracle.states) == 7 * 15
    for mine, theirs in zip(seen.states, seen_by_oracle.states, strict=True):
        np.testing.assert_allclose(as_array(mine), as_array(theirs), rtol=1e-3, atol=2e-6)
    assert model._last_states is not None
    np.testing.assert_allclose(model._last_states, as_array(oracle._last_lstm_states), rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("case", pairs([*CRITICS], [1, 2], [1, 3], ["lstm", "gru"], [False, True]), ids=str)
def test_gradient_of_random_episodes(case: list[Any]) -> None:
    """The engine's gradient is autograd's through a policy that is called step by step, with states zeroed by hand."""
    critic, n_layers, n_envs, cell, use_sde = case
    policy_class = MlpLstmPolicy if cell == "lstm" else MlpGruPolicy
    env = make_env(n_envs)
    n_steps, rng = 9, np.random.default_rng(7)
    policy = policy_class(
        env.observation_space,
        env.action_space,
        lambda _: 1e-3,
        use_sde=use_sde,
        n_lstm_layers=n_layers,
        **SMALL,
        **CRITICS[critic],
    )
    layout = Layout(policy, separate_critic=False)
    engine = TorchEngine(policy, layout, env.action_space, nullcontext(), np.random.SeedSequence(1))
    buffer = RolloutBuffer(n_steps, env.observation_space, env.action_space, n_envs=n_envs)
    hyperparameters = _hyperparameters()
    first_states = rng.normal(0, 0.5, (n_envs, 2, 2, n_layers, 8)).astype(np.float32)
    if critic != "separate":
        first_states[:, 1] = first_states[:, 0]
    engine.state = first_states
    engine.start_rollout(buffer, hyperparameters)
    for n in range(n_steps):
        obs = rng.uniform(-1, 1, (n_envs, 3)).astype(np.float32)
        engine.act(obs, rng.random(n_envs) < 0.3, n)
        engine.add(rng.normal(size=n_envs).astype(np.float32))
    buffer.compute_returns_and_advantage(th.zeros(n_envs), np.ones(n_envs, dtype=bool))
    gradient = th.zeros(layout.size)
    engine.gradient(buffer, gradient)

    states = as_rnn_states(first_states)
    values, log_probs, entropies = [], [], []
    for n in range(n_steps):
        starts = th.as_tensor(buffer.episode_starts[n])
        goes_on = (1 - starts)[None, :, None]
        states = RNNStates(*(tuple(goes_on * part for part in pair) for pair in states))
        obs_tensor, no_start = th.as_tensor(buffer.observations[n]), th.zeros(n_envs)
        distribution, states_pi = policy.get_distribution(obs_tensor, states.pi, no_start)
        log_probs.append(distribution.log_prob(th.as_tensor(buffer.actions[n])))
        entropies.append(distribution.entropy())
        values.append(policy.predict_values(obs_tensor, states.vf, no_start).flatten())
        states_vf = states_pi
        if policy.lstm_critic is not None:
            states_vf = policy._process_sequence(policy.extract_features(obs_tensor), states.vf, no_start, policy.lstm_critic)[
                1
            ]
        states = RNNStates(states_pi, states_vf)
    advantages, returns = th.as_tensor(buffer.advantages), th.as_tensor(buffer.returns)
    loss = -(advantages * th.stack(log_probs)).mean() - 0.02 * th.stack(entropies).mean()
    loss = loss + 0.4 * ((returns - th.stack(values)) ** 2).mean()
    loss.backward()
    for name, mine, param in zip(layout.names, layout.views(gradient), layout.parameters(policy), strict=True):
        expected = th.zeros_like(param) if param.grad is None else param.grad
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    with th.no_grad():
        np.testing.assert_allclose(engine.state, as_array(states), rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]


def _hyperparameters() -> Hyperparameters:
    return Hyperparameters(
        gamma=0.99,
        ent_coef=0.02,
        log_std_offset=0.0,
        vf_coef=0.4,
        max_grad_norm=np.inf,
        normalize_advantage=False,
        sde_sample_freq=-1,
        lr_schedule=lambda _: 1e-3,
        vf_lr_schedule=None,
    )


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_states_go_on_in_the_next_learn(engine: str) -> None:
    """Two calls of learn() make what one makes, to the last bit."""
    learning_rate = 0.0 if engine == "fused" else 1e-3  # the fused engine draws other actions, on which no state depends
    whole, parts = (make(n_workers=1, engine=engine, learning_rate=learning_rate) for _ in range(2))
    whole.set_random_seed(1)
    whole.learn(4 * 6 * 10)
    parts.set_random_seed(1)
    parts.learn(4 * 6 * 5).learn(4 * 6 * 5, reset_num_timesteps=False)
    np.testing.assert_array_equal(parameters_of(parts), parameters_of(whole))
    np.testing.assert_array_equal(np.asarray(parts._last_states), np.asarray(whole._last_states))
    assert np.any(parts._last_states)


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_go_on_in_other_workers(backend: str) -> None:
    """Each worker goes on from the states that the model holds for its environments."""
    model = make("serial", learning_rate=0).learn(4 * 6 * 5)
    assert model._last_states is not None and model._last_obs is not None and model._last_episode_starts is not None
    states = as_rnn_states(np.where(model._last_episode_starts[:, None, None, None, None], 0, model._last_states))
    with th.no_grad():
        obs, no_start = th.as_tensor(model._last_obs), th.zeros(4)
        expected = model.policy(obs, states, no_start)[3]
    model.backend, model.n_workers, seen = backend, 3, SeenStates()
    model.learn(1, seen, reset_num_timesteps=False)
    np.testing.assert_allclose(as_array(seen.states[0]), as_array(expected), rtol=1e-5, atol=1e-7)


def test_serial_repeats() -> None:
    one, other = (parameters_of(make().learn(600)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_recorded_run_is_replayed_to_the_last_bit(backend: str) -> None:
    recorded = make("serial").learn(240)
    recorded.backend = backend
    with record(recorded) as recording:
        recorded.learn(480, reset_num_timesteps=False)
    replayed = make("serial").learn(240)
    states = replayed._last_states
    assert states is not None
    replayed._last_states = states + 1
    with replay(replayed, recording), pytest.raises(ValueError, match="the hidden state of its policy"):
        replayed.learn(480, reset_num_timesteps=False)
    replayed = make("serial").learn(240)
    with replay(replayed, recording):
        replayed.learn(480, reset_num_timesteps=False)
    np.testing.assert_array_equal(parameters_of(replayed), parameters_of(recorded))
    np.testing.assert_array_equal(np.asarray(replayed._last_states), np.asarray(recorded._last_states))


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_learns_saves_and_predicts(backend: str, policy: str, tmp_path: Path) -> None:
    env = VecNormalize(VecFrameStack(make_env(), 2))
    model = make(backend, env=env, policy=policy, use_sde=True).learn(480)
    assert model.num_timesteps == 480 and model._last_states is not None and model._last_states.shape == (4, 2, 2, 1, 8)
    model.save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model", env=env)
    np.testing.assert_array_equal(parameters_of(loaded), parameters_of(model))
    obs, state, starts = env.reset(), None, np.ones(4)
    for _ in range(3):
        action, state = model.predict(obs, state, starts, deterministic=True)
        other, _ = loaded.predict(obs, None if state is None else state, starts, deterministic=True)
        obs, _, starts, _ = env.step(action)
    assert state is not None and state[0].shape == (1, 4, 8) and other.shape == action.shape
    loaded.learn(240, reset_num_timesteps=False)
    evaluate_policy(loaded, env, n_eval_episodes=2, warn=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("policy", ["CnnLstmPolicy", "MultiInputLstmPolicy"])
def test_pictures(policy: str, backend: str) -> None:
    env: VecEnv = make_vec_env(Pictures, 2, seed=3)
    if policy == "CnnLstmPolicy":
        env = make_vec_env(
            lambda: gym.wrappers.TransformObservation(Pictures(), _image, Pictures.observation_space["image"]), 2
        )
    model = make(backend, env=env, policy=policy, policy_kwargs=dict(lstm_hidden_size=8, net_arch=[]), n_steps=3)
    before = parameters_of(model)
    model.learn(24)
    assert model.num_timesteps == 24 and not np.array_equal(parameters_of(model), before)


def _image(obs: dict[str, np.ndarray]) -> np.ndarray:
    return obs["image"]


@pytest.mark.filterwarnings("ignore:the process of worker . ")
@pytest.mark.filterwarnings("ignore:environment . will begin anew")
def test_a_worker_that_dies_begins_anew(tmp_path: Path) -> None:
    """Its replacement resets the environments, so states are zero."""
    env = DummyVecEnv([lambda number=number: Killer(tmp_path / str(number)) for number in range(2)])  # type: ignore[misc]
    seen = SeenStates()
    model = make("process", env=env, backend_kwargs=dict(max_restarts=4)).learn(2 * 6 * 8, seen)
    assert model.num_timesteps == 2 * 6 * 8 and len(seen.states) == 6 * 8
    assert (tmp_path / "1").exists()


class Killer(Walk):
    """Kills its process in its 20th step, once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.n_steps = path, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.n_steps += 1
        if self.n_steps == 20 and not self.path.exists():
            self.path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def test_without_sb3_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(MissingExtra, match="The policy MlpLstmPolicy needs the extra 'recurrent'"):
        A3C("MlpLstmPolicy", "CartPole-v1")


def test_a_buffer_that_shuffles_is_refused() -> None:
    with pytest.raises(ValueError, match="Shuffling has its own get"):
        make(rollout_buffer_class=Shuffling)


class Shuffling(RolloutBuffer):
    def get(self, batch_size: int | None = None) -> Any:
        return super().get(batch_size)


@pytest.mark.parametrize("critic", [*CRITICS])
def test_a_policy_is_built_anew_with_its_own_lstms(critic: str) -> None:
    """sb3_contrib's _get_constructor_parameters() leaves out all that describes them."""
    kwargs = dict(**SMALL, **CRITICS[critic], n_lstm_layers=2, lstm_kwargs=dict(dropout=0.1))
    policy = make(policy_kwargs=kwargs).policy
    built = _build_from(_dump(_plan_of(policy)))
    assert repr(built) == repr(policy)
    for name, tensor in policy.state_dict().items():
        th.testing.assert_close(built.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_gru_is_torchs() -> None:
    gru, plain = GRU(3, 4, num_layers=2), th.nn.GRU(3, 4, num_layers=2)
    plain.load_state_dict(gru.state_dict())
    features, hidden = th.randn(5, 2, 3), th.randn(2, 2, 4)
    output, (last, cell) = gru(features, (hidden, hidden + 1))
    expected_output, expected = plain(features, hidden)
    assert th.equal(output, expected_output) and th.equal(last, expected) and th.equal(cell, hidden + 1)

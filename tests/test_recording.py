"""A run that was recorded is replayed in one thread to the last bit, and what can't be replayed is refused by name."""

import json
import math
import re
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import EzPickle
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from test_faults import Frozen

from sb3_a3c import A3C, NonFiniteError, Recording, record, replay
from sb3_a3c.envs.normalization import running_statistics

BACKENDS = ["thread", "process"]
TIMESTEPS = 1600


def make_env(env: Any = "Pendulum-v1", n_envs: int = 4, normalize: bool = False, vec_env_cls: Any = DummyVecEnv) -> VecEnv:
    venv = make_vec_env(env, n_envs=n_envs, seed=1, vec_env_cls=vec_env_cls)
    return VecNormalize(venv) if normalize else venv


def state_of(model: A3C) -> list[np.ndarray]:
    """Parameters, optimizer state, returns, normalization statistics, and where the environments are."""
    assert model.env is not None and isinstance(model._last_obs, np.ndarray) and model.ep_info_buffer is not None
    state = [param.numpy(force=True) for param in model.policy.parameters()]
    for entries in model.policy.optimizer.state.values():
        state += [th.as_tensor(value).numpy(force=True) for value in entries.values()]
    state.append(np.array([[info["r"], info["l"]] for info in model.ep_info_buffer]))
    for rms in running_statistics(model.env):
        state += [rms.mean, rms.var, np.array(rms.count)]
    if isinstance(model.env, VecNormalize):
        state.append(model.env.returns)
    return [*state, model._last_obs, np.array([model.num_timesteps, model._n_updates])]


def assert_equal_to_the_last_bit(model: A3C, other: A3C) -> None:
    for mine, theirs in zip(state_of(model), state_of(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def recorded_and_replayed(
    make: Callable[[str], A3C], backend: str, callback: Callable[[], BaseCallback] | None = None
) -> tuple[Recording, A3C, A3C]:
    recorded = make(backend)
    with record(recorded) as recording:
        recorded.learn(TIMESTEPS, callback() if callback else None)
    replayed = make("serial")  # not before: its seed sets the generators that all share
    with replay(replayed, recording):
        replayed.learn(TIMESTEPS, callback() if callback else None)
    for model in (recorded, replayed):
        assert model.env is not None
        model.env.close()
    return recording, recorded, replayed


def lags(recording: Recording) -> np.ndarray:
    """How stale each update was."""
    return np.arange(len(recording.pulls)) - recording.pulls.astype(int)


#: Each pair of a backend or an engine with any other value is in a quick case.
QUICK_CASES = [
    ("thread", "fused", 8, "CartPole-v1", True),
    ("thread", "torch", 2, "Pendulum-v1", False),
    ("thread", "fused", 1, "Pendulum-v1", False),
    ("process", "torch", 1, "CartPole-v1", True),
    ("process", "fused", 2, "Pendulum-v1", True),
    ("process", "torch", 8, "CartPole-v1", False),
]
CASES = list(product(BACKENDS, ["torch", "fused"], [1, 2, 8], ["Pendulum-v1", "CartPole-v1"], [False, True]))


@pytest.mark.parametrize(
    ("backend", "engine", "n_workers", "env", "normalize"),
    [pytest.param(*case, marks=[] if case in QUICK_CASES else [pytest.mark.slow]) for case in CASES],
)
def test_a_replay_is_the_recorded_run(backend: str, engine: str, n_workers: int, env: str, normalize: bool) -> None:
    def make(backend: str) -> A3C:
        return A3C("MlpPolicy", make_env(env, 8, normalize), n_workers=n_workers, backend=backend, engine=engine, seed=3)

    recording, recorded, replayed = recorded_and_replayed(make, backend)
    assert_equal_to_the_last_bit(recorded, replayed)
    assert recording.workers.shape == recording.pulls.shape == (TIMESTEPS // 5 // (8 // n_workers),)
    assert (lags(recording) >= 0).all()
    in_turn = np.arange(len(recording.workers)) % n_workers  # as the serial backend does it by itself
    assert n_workers == 1 or lags(recording).any() or (recording.workers != in_turn).any()


VARIANTS: dict[str, dict[str, Any]] = {
    "gSDE": dict(use_sde=True, sde_sample_freq=4),
    "Adam": dict(policy_kwargs=dict(optimizer_class=th.optim.Adam)),
    "RMSpropTFLike, two learning rates": dict(
        policy_kwargs=dict(optimizer_class=RMSpropTFLike), learning_rate=1e-3, vf_learning_rate=lambda left: left * 1e-2
    ),
    "arrival": dict(rollout_order="arrival", n_workers=3),
    "entropy, GAE": dict(ent_coef=[0.0, 0.1, 0.2, 0.3], gae_lambda=0.9, normalize_advantage=True),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("backend", "engine"),
    [
        pytest.param(backend, engine, marks=[] if (backend, engine) == ("thread", "fused") else [pytest.mark.slow])
        for backend, engine in product(BACKENDS, ["torch", "fused"])
    ],
)
def test_variants(backend: str, engine: str, variant: str) -> None:
    def make(backend: str) -> A3C:
        return A3C("MlpPolicy", make_env(), backend=backend, engine=engine, seed=3, **VARIANTS[variant])

    _, recorded, replayed = recorded_and_replayed(make, backend)
    assert_equal_to_the_last_bit(recorded, replayed)


def test_environments_in_their_own_processes() -> None:
    def make(backend: str) -> A3C:
        return A3C("MlpPolicy", make_env("CartPole-v1", vec_env_cls=SubprocVecEnv), backend=backend, seed=3)

    _, recorded, replayed = recorded_and_replayed(make, "process")
    for mine, theirs in zip(recorded.policy.parameters(), replayed.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)


class Floats(gym.Env):
    """Observations of eleven float32 values: those of the second environment are not aligned to 16 bytes."""

    observation_space: gym.Space = gym.spaces.Box(-5, 5, (11,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._observe(), float(action == 1), bool(self.np_random.random() < 0.1), False, {}

    def _observe(self) -> np.ndarray:
        return self.np_random.standard_normal(11).astype(np.float32)


class Images(Floats):
    """Images of one channel, which is moved to the front."""

    observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def _observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (36, 36, 1), dtype=np.uint8)


@pytest.mark.parametrize("env", [Floats, Images])
@pytest.mark.parametrize("backend", BACKENDS)
def test_observations_lie_elsewhere_in_memory(backend: str, env: type[Floats]) -> None:
    """In another process they have other strides and another alignment, on which the last bits of a product depend."""

    def make(backend: str) -> A3C:
        policy = "CnnPolicy" if env is Images else "MlpPolicy"
        return A3C(policy, make_env(env, 5), n_workers=2, backend=backend, engine="torch", seed=3, ent_coef=0.01)

    recorded = make(backend)
    with record(recorded) as recording:
        recorded.learn(100)
    replayed = make("serial")
    with replay(replayed, recording):
        replayed.learn(100)
    assert_equal_to_the_last_bit(recorded, replayed)


class BeginsAnew(gym.Wrapper, EzPickle):
    """In another process it is a new one, as those of Box2D and MuJoCo are."""

    def __init__(self) -> None:
        gym.Wrapper.__init__(self, gym.make("Pendulum-v1"))
        EzPickle.__init__(self)


def test_environments_that_begin_anew_in_another_process() -> None:
    def make(backend: str) -> A3C:
        return A3C("MlpPolicy", make_env(BeginsAnew), backend=backend, seed=3)

    recording, recorded, replayed = recorded_and_replayed(make, "process")
    assert recording.moved and len(recording.failures) == 0
    for mine, theirs in zip(recorded.policy.parameters(), replayed.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)


class StopAt(BaseCallback):
    """Stops, and saves the model before, which is in the middle of a recording."""

    def __init__(self, num_timesteps: int, path: Path) -> None:
        super().__init__()
        self.last, self.path = num_timesteps, path

    def _on_step(self) -> bool:
        self.model.save(self.path)
        return self.num_timesteps < self.last


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_a_callback_stops(backend: str, tmp_path: Path) -> None:
    """Updates that workers made beyond the step at which it was stopped are made again."""

    def make(backend: str) -> A3C:
        return A3C("MlpPolicy", make_env("CartPole-v1"), backend=backend, seed=3, max_lead=3)

    recording, recorded, replayed = recorded_and_replayed(make, backend, lambda: StopAt(400, tmp_path / "model.zip"))
    assert 400 // 5 <= len(recording.workers) < TIMESTEPS // 5
    for mine, theirs in zip(recorded.policy.parameters(), replayed.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)
    assert A3C.load(tmp_path / "model.zip")._next_run is None
    again = make("serial")
    with (
        replay(again, recording),
        pytest.raises(ValueError, match="callback must stop a replay where the recorded run was stop"),
    ):
        again.learn(TIMESTEPS)
    again.learn(20)


class Failing(gym.Wrapper):
    """One of them, at a step that depends on all that it has drawn, has a reward that is not a number."""

    def __init__(self, index: int = 0) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.index, self.n_steps = index, 0

    def step(self, action: np.ndarray) -> Any:
        self.n_steps += 1
        obs, reward, terminated, truncated, info = super().step(action)
        fails = self.index == 2 and self.n_steps > 100 and obs[0] * float(action[0]) > 0.3
        return obs, float("nan") if fails else reward, terminated, truncated, info


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_fails_fails_again(backend: str) -> None:
    """With the same error, at the same step, and all updates that the others had made."""

    def make(backend: str) -> A3C:
        env = DummyVecEnv([lambda index=index: Failing(index) for index in range(4)])  # type: ignore[misc]
        env.seed(1)
        return A3C("MlpPolicy", env, backend=backend, seed=3)

    recorded = make(backend)
    with record(recorded) as recording, pytest.raises(NonFiniteError) as error:
        recorded.learn(8000)
    assert recording.failures.tolist() == [2]
    replayed = make("serial")
    with replay(replayed, recording), pytest.raises(NonFiniteError, match=re.escape(str(error.value))) as again:
        replayed.learn(8000)
    assert again.value.__notes__ == error.value.__notes__
    for mine, theirs in zip(recorded.policy.parameters(), replayed.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)


def test_an_error_that_the_recorded_run_did_not_have() -> None:
    def make() -> A3C:
        env = DummyVecEnv([lambda index=index: Failing(index) for index in range(4)])  # type: ignore[misc]
        env.seed(1)
        return A3C("MlpPolicy", env, seed=3)

    recorded, replayed = make(), make()
    assert isinstance(recorded.env, DummyVecEnv)
    for env in recorded.env.envs:
        env.index = 0  # type: ignore[attr-defined]
    recorded.set_random_seed(3)
    with record(recorded) as recording:
        recorded.learn(8000)
    replayed.set_random_seed(3)
    with replay(replayed, recording), pytest.raises(NonFiniteError):
        replayed.learn(8000)


class Raises(gym.Wrapper):
    """Raises an error at one of its steps."""

    def __init__(self, error: BaseException | None = None, at: int = 0, wait: Callable[[], Any] | None = None) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.error, self.at, self.wait = error, at, wait
        self.n_steps = 0

    def step(self, action: np.ndarray) -> Any:
        self.n_steps += 1
        if self.error is not None and self.n_steps == self.at:
            if self.wait is not None:
                self.wait()
            raise self.error
        return super().step(action)


class RaiseAt(BaseCallback):
    """Raises an error, when the workers have gone on for as long as they may."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 100:
            time.sleep(0.3)
            raise LookupError("in a callback")
        return True


def failed_and_replayed(
    backend: str, *envs: Callable[[], gym.Env], callback: BaseCallback | None = None, **kwargs: Any
) -> list[BaseException]:
    """Record a run that fails, replay it, and compare them. Returns the errors."""
    errors, models, recording = [], [], Recording()
    for name in (backend, "serial"):
        env = DummyVecEnv([*envs])
        env.seed(1)
        model = A3C("MlpPolicy", env, backend=name, seed=3, **kwargs)
        with replay(model, recording) if models else record(model) as entered:
            recording = entered or recording
            with pytest.raises(BaseException) as caught:
                model.learn(8000, callback)
        errors.append(caught.value)
        models.append(model)
    assert repr(errors[1]) == repr(errors[0])
    assert getattr(errors[1], "__notes__", []) == getattr(errors[0], "__notes__", [])
    for mine, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        assert th.equal(mine, theirs)
    return errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callback_that_fails(backend: str) -> None:
    """Updates that workers had made beyond that step are made again."""
    errors = failed_and_replayed(backend, Raises, Raises, callback=RaiseAt(), max_lead=3)
    assert isinstance(errors[1], LookupError)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_environment_that_exits(backend: str) -> None:
    """What is no ``Exception`` ends a replay where it has ended the run, too: after the updates of the others."""
    errors = failed_and_replayed(backend, Raises, lambda: Raises(SystemExit("enough"), 103), Raises)
    assert [type(error) for error in errors] == [SystemExit] * 2


def test_a_frozen_error() -> None:
    errors = failed_and_replayed("thread", Raises, lambda: Raises(Frozen(8), 103))
    assert errors == [Frozen(8)] * 2


def test_two_workers_that_fail() -> None:
    """The same error is raised, and the other one is noted, though a replay comes to it first."""
    second_fails = threading.Event()

    def wait_for_first() -> None:
        second_fails.set()
        while "A3C worker 1" in [thread.name for thread in threading.enumerate()]:
            time.sleep(0.01)

    errors = failed_and_replayed(
        "thread",
        lambda: Raises(ValueError("b"), 100, wait_for_first),
        lambda: Raises(KeyError("a"), 106, lambda: second_fails.wait(60)),
    )
    for error in errors:
        assert isinstance(error, KeyError) and "another worker failed too: ValueError('b')" in error.__notes__


def test_a_learning_rate_that_fails() -> None:
    """It is computed when a worker pushes. (Before the run, schedules are compared at each hundredth.)"""

    def learning_rate(progress_remaining: float) -> float:
        if progress_remaining < 0.5 and not math.isclose(100 * progress_remaining, round(100 * progress_remaining)):
            raise ArithmeticError(f"at {progress_remaining}")
        return 1e-3

    errors = failed_and_replayed("thread", Raises, Raises, Raises, learning_rate=learning_rate)
    assert isinstance(errors[1], ArithmeticError)


class RaisesOnce(gym.Wrapper):
    """Raises an error at one of its steps."""

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.n_steps, self.raises_at = 0, 0

    def step(self, action: np.ndarray) -> Any:
        self.n_steps += 1
        if self.n_steps == self.raises_at:
            raise RuntimeError(f"step {self.n_steps} has failed")
        return super().step(action)


def test_an_error_that_comes_earlier_than_in_the_recorded_run() -> None:
    """The replay ends where its worker would push the rollout that it could not collect."""

    def make(raises_at: int) -> tuple[A3C, list[RaisesOnce]]:
        env = DummyVecEnv([RaisesOnce] * 2)
        env.seed(1)
        env.envs[1].raises_at = raises_at  # type: ignore[attr-defined]
        return A3C("MlpPolicy", env, backend="thread", seed=3), env.envs  # type: ignore[return-value]

    recorded, _ = make(raises_at=203)
    with record(recorded) as recording, pytest.raises(RuntimeError, match="step 203 has failed"):
        recorded.learn(8000)
    replayed, envs = make(raises_at=103)
    with replay(replayed, recording), pytest.raises(RuntimeError, match="step 103 has failed"):
        replayed.learn(8000)
    assert envs[1].n_steps == 103


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    """A model that is loaded twice, with environments that begin anew."""
    path = tmp_path / "model.zip"
    A3C("MlpPolicy", make_env("CartPole-v1"), seed=3).learn(400).save(path)
    recorded, replayed = (A3C.load(path, make_env("CartPole-v1")) for _ in range(2))
    recorded.set_random_seed(5)
    with record(recorded) as recording:
        recorded.learn(800, reset_num_timesteps=False)
    replayed.set_random_seed(5)
    with replay(replayed, recording):
        replayed.learn(800, reset_num_timesteps=False)
    assert_equal_to_the_last_bit(recorded, replayed)


# Schedules as files


@pytest.fixture(scope="module")
def recording() -> Recording:
    model = make_model()
    with record(model) as recorded:
        model.learn(400)
    return recorded


def make_model(**kwargs: Any) -> A3C:
    n_envs = kwargs.pop("n_envs", 2)
    return A3C("MlpPolicy", make_env("CartPole-v1", n_envs), **{"seed": 3, "backend": "thread", **kwargs})


def test_save_and_load(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "recording.npz"
    recording.save(path)
    loaded = Recording.load(path)
    assert vars(loaded).keys() == vars(recording).keys()
    assert loaded.terms == recording.terms and loaded.moved is recording.moved
    for name in ("workers", "pulls", "failures", "failed_pulls", "shown"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(recording, name))
        assert getattr(loaded, name).dtype == getattr(recording, name).dtype
    assert [file.name for file in tmp_path.iterdir()] == ["recording.npz"]
    assert path.stat().st_size < 2000 + 6 * len(recording.workers)
    model = make_model(backend="serial")
    with replay(model, loaded):
        model.learn(400)


@pytest.mark.parametrize("content", [b"", b"no recording", "other arrays"])
def test_a_file_that_is_no_recording(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, workers=np.zeros(3))
    with pytest.raises(ValueError, match=r"path must be a file that Recording\.save\(\) has written, but it is '.*file\.npz'"):
        Recording.load(path)
    with pytest.raises(FileNotFoundError):
        Recording.load(tmp_path / "none.npz")


def test_a_file_with_wrong_bits(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    recording.save(path)
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        try:
            Recording.load(path)  # not all bytes of a zip file matter
        except ValueError as error:
            refused += "path must be a file that" in str(error)
    assert refused > len(content) / 2


# What is refused


MISFITS: dict[str, tuple[dict[str, Any], int, str]] = {
    "n_workers": (dict(n_workers=1), 400, "n_workers is 1, and was 2"),
    "n_envs": (dict(n_envs=3, n_workers=2), 400, "n_envs is 3, and was 2"),
    "n_steps": (dict(n_steps=8), 400, "n_steps is 8, and was 5"),
    "engine": (dict(engine="torch"), 400, "engine is torch, and was fused"),
    "rollout_order": (dict(rollout_order="arrival"), 400, "rollout_order is arrival, and was env"),
    "seed": (dict(seed=4), 400, "seed is 4, and was 3"),
    "gamma": (dict(gamma=0.9), 400, "gamma is 0.9, and was 0.99"),
    "gae_lambda": (dict(gae_lambda=0.9), 400, "gae_lambda is 0.9, and was 1.0"),
    "ent_coef": (dict(ent_coef=[0.0, 0.1]), 400, "ent_coef is [0.0, 0.1], and was 0.0"),
    "vf_coef": (dict(vf_coef=0.4), 400, "vf_coef is 0.4, and was 0.5"),
    "max_grad_norm": (dict(max_grad_norm=np.float32(0.25)), 400, "max_grad_norm is 0.25, and was 0.5"),
    "normalize_advantage": (dict(normalize_advantage=True), 400, "normalize_advantage is True, and was False"),
    "learning_rate": (dict(learning_rate=1e-3), 400, "learning_rate is 0.001, and was 0.0007"),
    "falling": (
        dict(learning_rate=lambda left: 7e-4 * left),
        400,
        "learning_rate is a schedule from 0.0007 to 0.0, and was 0.0007",
    ),
    "vf_learning_rate": (dict(vf_learning_rate=1e-3), 400, "vf_learning_rate is 0.001, and was None"),
    "optimizer": (dict(use_rms_prop=False), 400, "optimizer is Adam, and was RMSprop"),
    "optimizer_options": (dict(rms_prop_eps=1e-3), 400, "'eps': 0.001, "),
    "total_timesteps": ({}, 399, "total_timesteps is 399, and was 400"),
    "activation": (
        dict(policy_kwargs=dict(activation_fn=th.nn.ReLU)),
        400,
        "its policy is of another class, or made with other",
    ),
    "length": ({}, 800, "total_timesteps of learn() make 80 rollouts, and made 40"),
    "parameters": (
        dict(policy_kwargs=dict(net_arch=[3])),
        400,
        "its policy is of another class, or made with other policy_kwargs; its parameters are not those",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_recording_that_does_not_fit(misfit: str, recording: Recording) -> None:
    kwargs, total_timesteps, message = MISFITS[misfit]
    model = make_model(**kwargs)
    message = f"the recording does not fit: .*{re.escape(message)}"
    with replay(model, recording), pytest.raises(ValueError, match=message):
        model.learn(total_timesteps)
    model.learn(100)  # nothing is lost


def wrapped(**kwargs: Any) -> VecEnv:
    return VecNormalize(make_env("CartPole-v1", 2), **kwargs)


def with_other_statistics() -> VecEnv:
    env = wrapped()
    env.obs_rms.var = env.obs_rms.var * 2  # type: ignore[attr-defined]
    return env


class OtherCartPole(CartPoleEnv):
    """Another class, with the same observations."""


ENVIRONMENTS: dict[str, tuple[Callable[[], VecEnv], str]] = {
    "no VecNormalize": (lambda: make_env("CartPole-v1", 2), "wrappers is [], and was ['VecNormalize']"),
    "two of it": (lambda: VecNormalize(wrapped()), "wrappers is ['VecNormalize', 'VecNormalize'], and was ['VecNormalize']"),
    "other options": (lambda: wrapped(gamma=0.9), "a wrapper of its environments has other options"),
    "other statistics": (with_other_statistics, "what wrappers of its environments hold (VecNormalize its"),
    "another class": (lambda: VecNormalize(make_env(OtherCartPole, 2)), "its environments are of other classes"),
    "other arguments": (
        lambda: VecNormalize(make_vec_env("CartPole-v1", 2, seed=1, env_kwargs=dict(sutton_barto_reward=True))),
        "its environments are made with other arguments",
    ),
}


@pytest.fixture(scope="module")
def with_normalization() -> Recording:
    model = A3C("MlpPolicy", wrapped(), seed=3)
    with record(model) as recorded:
        model.learn(100)
    return recorded


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_that_do_not_fit(name: str, with_normalization: Recording) -> None:
    make, message = ENVIRONMENTS[name]
    model = A3C("MlpPolicy", make(), seed=3)
    with (
        replay(model, with_normalization),
        pytest.raises(ValueError, match=f"the recording does not fit: .*{re.escape(message)}"),
    ):
        model.learn(100)
    model.learn(20)


def test_what_was_learned_before_fits_too(tmp_path: Path) -> None:
    """The same model but for its optimizer, for VecNormalize's returns, and for its environments' generators."""

    def load() -> A3C:
        model = A3C.load(tmp_path / "model.zip", VecNormalize.load(str(tmp_path / "env.pkl"), make_env("CartPole-v1", 2)))
        model.set_random_seed(5)
        return model

    def learn(model: A3C) -> None:
        model.learn(100, reset_num_timesteps=False)

    env = wrapped()
    A3C("MlpPolicy", env, seed=3).learn(100).save(tmp_path / "model.zip")
    env.save(str(tmp_path / "env.pkl"))  # type: ignore[attr-defined]
    model = load()
    with record(model) as recording:
        learn(model)

    fresh = load()
    fresh.policy.optimizer.state.clear()
    with replay(fresh, recording), pytest.raises(ValueError, match="fit: the statistics of its optimizer are not those that"):
        learn(fresh)
    reseeded = load()
    reseeded.env.seed(9)  # type: ignore[union-attr]
    with replay(reseeded, recording), pytest.raises(ValueError, match="generators of its environments are in another state"):
        learn(reseeded)
    same = load()
    with replay(same, recording):
        learn(same)
    assert_equal_to_the_last_bit(model, same)


def test_a_recording_of_another_format(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "recording.npz"
    recording.save(path)
    with np.load(path) as content:
        arrays = dict(content)
    header = json.loads(str(arrays["header"]))
    for written in (1, 2):
        header["format"] = written
        if written == 1:
            del header["format"]
        np.savez(path, **{**arrays, "header": np.array(json.dumps(header))})
        with pytest.raises(
            ValueError, match=rf"path must be a recording of format 3, but '.*npz' is of format {written}: another"
        ):
            Recording.load(path)


def test_generators_that_are_elsewhere(recording: Recording) -> None:
    model = make_model()
    np.random.random()
    with replay(model, recording), pytest.raises(ValueError, match="its random generators are in another state"):
        model.learn(400)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            dict(use_locking=False),
            "use_locking must be True for a run that is recorded or replayed, but it is False: Hogwild",
        ),
        (dict(seed=None), "seed must be a number for a run that is recorded or replayed, but it is None"),
    ],
)
def test_models_that_are_refused(kwargs: dict[str, Any], message: str, recording: Recording) -> None:
    model = make_model(**kwargs)
    with pytest.raises(ValueError, match=message), record(model):
        pass
    with pytest.raises(ValueError, match=message), replay(model, recording):
        pass
    model.learn(100)


def test_arguments_of_other_types(recording: Recording) -> None:
    with pytest.raises(TypeError, match="model must be a model of A3C, but it is 3"):
        record(3)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"recording must be a Recording, such as Recording.load\(\) returns, but it is 'run.npz'"
    ):
        replay(make_model(), "run.npz")  # type: ignore[arg-type]


def test_a_start_that_fails_is_not_the_recorded_run() -> None:
    """Neither in this process, where an environment can't be pickled, nor in the worker's, where one can't be unpickled."""
    recorded = make_model(backend="process")
    assert isinstance(recorded.env, DummyVecEnv)
    env = recorded.env.envs[1]
    with record(recorded) as recording:
        for held, error in ((threading.Lock(), TypeError), (AwayFromHome(), LookupError)):
            env.held = held  # type: ignore[attr-defined]
            with pytest.raises(error):
                recorded.learn(400)
            env.held = None  # type: ignore[attr-defined]
        recorded.learn(400)
        with pytest.raises(ValueError, match="learn\\(\\) must be called once within record"):
            recorded.learn(400)
    assert len(recording.workers) == len(recording.shown) == 80 and len(recording.failures) == 0


class AwayFromHome:
    """It can be pickled, and can't be unpickled."""

    def __reduce__(self) -> Any:
        return _away_from_home, ()


def _away_from_home() -> None:
    raise LookupError


def test_blocks_that_do_not_go_together(recording: Recording) -> None:
    model = make_model()
    with record(model), pytest.raises(ValueError, match="model must not be recorded or replayed twice"):
        replay(model, recording).__enter__()
    with record(model):
        model.learn(100)
        with pytest.raises(ValueError, match="learn\\(\\) must be called once within record"):
            model.learn(100)
    with pytest.raises(ValueError, match="recording must hold a recorded run, but it is empty"):
        replay(model, Recording()).__enter__()
    with pytest.raises(ValueError, match="the recording is empty"):
        Recording().save("nowhere.npz")


@pytest.mark.filterwarnings("ignore:the process of worker .* is replaced:UserWarning")
def test_a_run_with_restarts_is_refused() -> None:
    class Kill(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 20:
                import multiprocessing

                next(p for p in multiprocessing.active_children() if p.name == "A3C worker 1").kill()
            return True

    model = make_model(backend="process", max_lead=1)
    with record(model) as of_restarts:
        model.learn(800, Kill())
    assert of_restarts.n_restarts == 1
    with pytest.raises(ValueError, match="recording must be of a run without restarts, but that run had 1"):
        replay(model, of_restarts).__enter__()


def test_recording_takes_no_memory_for_steps_that_are_not_made() -> None:
    """A run of 10**12 steps that a callback stops."""

    def learn(model: A3C) -> None:
        model.learn(10**12, lambda locals_, _: locals_["self"].num_timesteps < 100)

    recorded = make_model(max_lead=2)
    with record(recorded) as recording:
        learn(recorded)
    assert 20 <= len(recording.workers) <= 20 + 2 * 3
    replayed = make_model()
    with replay(replayed, recording):
        learn(replayed)
    for mine, theirs in zip(recorded.policy.parameters(), replayed.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)

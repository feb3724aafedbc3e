"""Exploration that differs by worker: each acts and learns with its own scale of the standard deviation."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import Env, spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_a3c import A3C

BACKENDS = ["serial", "thread", "process"]
SCALES = [0.25, 0.5, 1.0, 2.0]


class Still(Env):
    """Its observation never changes."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-100, 100, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.full(2, 0.5, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.full(2, 0.5, np.float32), 0.0, False, False, {}


class Actions(BaseCallback):
    """Records each environment's actions and their log probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.of_env: defaultdict[int, list[float]] = defaultdict(list)
        self.log_probs: defaultdict[int, list[float]] = defaultdict(list)

    def _on_step(self) -> bool:
        for env, action, log_prob in zip(
            self.locals["env_indices"], self.locals["actions"], self.locals["log_probs"], strict=True
        ):
            self.of_env[env].append(float(action[0]))
            self.log_probs[env].append(float(log_prob))
        return True


def still_model(**kwargs: Any) -> A3C:
    return A3C("MlpPolicy", DummyVecEnv([Still] * 4), learning_rate=0.0, n_steps=32, seed=0, **kwargs)


@pytest.mark.parametrize("engine", [pytest.param("torch", marks=pytest.mark.slow), "fused"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_worker_has_its_own_std(backend: str, engine: str) -> None:
    """The standard deviation of 2,048 actions has a standard error of 1.6 %. Four times that is allowed."""
    model, actions = still_model(std_scale=SCALES, backend=backend, engine=engine), Actions()
    model.learn(4 * 2048, actions)
    for env, scale in enumerate(SCALES):
        assert np.std(actions.of_env[env]) == pytest.approx(scale, rel=0.065)
        mean = model.policy.get_distribution(th.full((1, 2), 0.5)).distribution.mean.item()
        expected = th.distributions.Normal(mean, scale).log_prob(th.tensor(actions.of_env[env]))
        np.testing.assert_allclose(actions.log_probs[env], expected, rtol=1e-4, atol=1e-4)
    assert model.policy.log_std.item() == 0.0  # the shared parameters are not scaled


@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_it_learns_as_with_another_log_std(engine: str, use_sde: bool) -> None:
    """A single scale equals a policy with another log_std: after 40 updates the parameters differ by 1e-4 at most."""

    def learn(log_std_init: float, **kwargs: Any) -> A3C:
        env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
        policy_kwargs = dict(log_std_init=log_std_init)
        model = A3C(
            "MlpPolicy", env, seed=0, engine=engine, use_sde=use_sde, policy_kwargs=policy_kwargs, ent_coef=0.01, **kwargs
        )
        return model.learn(40 * 2 * 5)

    scaled = learn(-1.0, std_scale=2.0, n_workers=1)
    other = learn(-1.0 + np.log(2.0), n_workers=1)
    for (name, mine), theirs in zip(scaled.policy.named_parameters(), other.policy.parameters(), strict=True):
        offset = np.log(2.0) if name == "log_std" else 0.0
        np.testing.assert_allclose((mine + offset).detach(), theirs.detach(), rtol=1e-4, atol=1e-4)
    assert scaled.policy.log_std.detach().ne(-1.0).any()


def test_a_scale_of_one_is_a2c() -> None:
    """To the last bit."""
    mine = A3C("MlpPolicy", make_vec_env("Pendulum-v1", seed=0), seed=0, engine="torch", std_scale=[1.0]).learn(500)
    theirs = A2C("MlpPolicy", make_vec_env("Pendulum-v1", seed=0), seed=0, device="cpu").learn(500)
    assert all(th.equal(a, b) for a, b in zip(mine.policy.parameters(), theirs.policy.parameters(), strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callback_changes_it(backend: str) -> None:
    class Change(Actions):
        def _on_step(self) -> bool:
            self.model.std_scale = 3.0
            return super()._on_step()

    actions = Change()
    still_model(backend=backend, n_workers=2, max_lead=0).learn(4 * 2048, actions)
    for env in range(4):
        first, later = actions.of_env[env][:32], actions.of_env[env][128:]
        assert np.std(first) < 1.6 and np.std(later) == pytest.approx(3.0, rel=0.065)


def test_a_callback_changes_it_to_what_is_not_allowed() -> None:
    class Narrow(BaseCallback):
        def _on_step(self) -> bool:
            self.model.std_scale = 0.0
            return True

    with pytest.raises(ValueError, match=r"std_scale must be above 0, but it is 0\.0"):
        still_model().learn(100, callback=Narrow())


def test_log_of_each_worker(tmp_path: Any) -> None:
    model = still_model(std_scale=SCALES, ent_coef=[0.0, 0.1, 0.2, 0.3], backend="serial")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4 * 32 * 3, log_interval=2)
    model.logger.close()
    logged = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    for worker, scale in enumerate(SCALES):
        assert logged[f"worker_{worker}std"] == pytest.approx(scale)
        assert logged[f"worker_{worker}ent_coef"] == pytest.approx(worker / 10)
        assert logged[f"worker_{worker}entropy"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * scale**2), rel=1e-5)
    assert logged["trainstd"] == 1.0


def test_it_is_saved(tmp_path: Any) -> None:
    still_model(std_scale=SCALES).save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model", env=DummyVecEnv([Still] * 4))
    assert loaded.std_scale == SCALES
    loaded.learn(4 * 32)


@pytest.mark.parametrize(
    ("policy", "env_id"), [("MlpPolicy", "CartPole-v1"), ("BoundedMlpPolicy", "Pendulum-v1")], ids=["discrete", "bounded"]
)
def test_a_policy_without_log_std(policy: str, env_id: str) -> None:
    env = make_vec_env(env_id, n_envs=2)
    with pytest.raises(ValueError, match=r"std_scale must be 1.0, because .* no trainable log_std, but it is \[1.0, 2.0\]"):
        A3C(policy, env, std_scale=[1.0, 2.0])
    A3C(policy, env, std_scale=[1.0, 1.0]).learn(20)

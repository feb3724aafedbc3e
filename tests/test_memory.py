"""Rollouts that wait for callbacks take as much memory as they may, and hold nothing that no callback looks at."""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_a3c import A3C
from sb3_a3c.backends.max_lead import n_bytes
from sb3_a3c.learning.reporter import Reporter
from sb3_a3c.worker.rollout import Rollout

N_STEPS = 2
OBS_BYTES = 4 * 25_000


class Large(gym.Env):
    """Observations of 100 kB. It counts its steps."""

    observation_space = gym.spaces.Box(-1, 1, (OBS_BYTES // 4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(self.observation_space.shape, np.float32), {}  # type: ignore[arg-type]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n_steps += 1
        return np.zeros(self.observation_space.shape, np.float32), 0.0, self.n_steps % 7 == 0, False, {}  # type: ignore[arg-type]


def make_model(**kwargs: Any) -> A3C:
    env = DummyVecEnv([Large] * 2)
    return A3C("MlpPolicy", env, n_steps=N_STEPS, policy_kwargs=dict(net_arch=[2]), engine="torch", seed=1, **kwargs)


class Rollouts(BaseCallback):
    """At its second step, waits until the workers have made so many rollouts each, and notes how many they make at most."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.expected, self.made = expected, 0

    def _on_step(self) -> bool:
        if self.n_calls == 2:
            deadline = time.monotonic() + 60
            while min(self.n_rollouts()) < self.expected and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)  # if they could make more, they would
            self.made = max(self.n_rollouts())
        return self.n_calls < 4

    def n_rollouts(self) -> list[float]:
        return [n_steps / N_STEPS for n_steps in self.training_env.get_attr("n_steps")]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each rollout that the main thread receives."""
    sizes: list[int] = []
    report = Reporter.report

    def watched(self: Reporter, rollouts: Sequence[Rollout]) -> bool:
        sizes.extend(map(n_bytes, rollouts))
        return report(self, rollouts)

    monkeypatch.setattr(Reporter, "report", watched)
    return sizes


@pytest.mark.parametrize("rollout_order", ["env", "arrival"])
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_waiting_rollouts_are_limited_in_bytes(backend: str, rollout_order: Any, shown: list[int]) -> None:
    size = 3 * N_STEPS * OBS_BYTES  # the observations: in the rollout buffer, for the policy, and after each step
    callback = Rollouts(expected=4)
    model = make_model(backend=backend, rollout_order=rollout_order, max_lead_bytes=int(2 * 4.5 * size))
    model.learn(400, callback)
    assert size <= min(shown) <= max(shown) < 1.1 * size + OBS_BYTES  # an episode's last observation
    # Those that callbacks are being shown count as waiting, and in order of arrival both may be of one worker.
    assert callback.made == 4


@pytest.mark.parametrize("backend", ["thread", "process"])
@pytest.mark.parametrize(("kwargs", "expected"), [(dict(max_lead=2), 3), (dict(max_lead_bytes=0), 1), (dict(max_lead=0), 1)])
def test_one_rollout_is_always_allowed(backend: str, kwargs: dict[str, int], expected: int) -> None:
    callback = Rollouts(expected)
    model = make_model(backend=backend, **kwargs)
    model.learn(400, callback)
    assert callback.made == expected
    assert model.learn(40).num_timesteps == 40


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_rollouts_that_no_callback_looks_at_have_no_observations(backend: str, shown: list[int], tmp_path: Any) -> None:
    model = make_model(backend=backend)
    model.learn(80)
    assert max(shown) < OBS_BYTES / 10
    shown.clear()
    model.learn(80, CheckpointCallback(1000, str(tmp_path)))  # looks at the model, which shows the last observations
    assert N_STEPS * OBS_BYTES <= max(shown) < 1.1 * N_STEPS * OBS_BYTES

"""Who chooses many workers for fast environments on few cores is told which number is faster, from times of the run itself."""

import re
import time
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_a3c import A3C
from sb3_a3c.learning import advice
from sb3_a3c.learning.advice import Advice
from sb3_a3c.system.cores import usable_cores
from sb3_a3c.worker.rollout import Rollout

N_CORES = usable_cores()
N_WORKERS = 4 * N_CORES


class Env(gym.Env):
    """Each step takes processor time, or it sleeps."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, cpu_seconds: float = 0.0, seconds: float = 0.0) -> None:
        self.cpu_seconds, self.seconds = cpu_seconds, seconds
        self.obs = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.seconds > 0:
            time.sleep(self.seconds)
        if self.cpu_seconds > 0:
            end = time.thread_time() + self.cpu_seconds
            while time.thread_time() < end:
                pass
        return self.obs, 0.0, False, False, {}


def rollouts(env_seconds: float, cpu_seconds: float, n: int = 20 * N_WORKERS) -> list[Rollout]:
    """Each takes a second."""
    unread: Any = None
    return [
        Rollout(
            0, *[unread] * 9, seconds=1.0, lock_seconds=0.0, idle_seconds=0.0, cpu_seconds=cpu_seconds, env_seconds=env_seconds
        )
        for _ in range(n)
    ]


class Lines(Logger):
    def __init__(self) -> None:
        super().__init__(None, [])
        self.lines: list[str] = []

    def info(self, *args: Any) -> None:
        self.lines += args


def give(of: list[Rollout], n_workers: int = N_WORKERS, n_cores: int | None = N_CORES) -> list[str]:
    """
    :return: The line of the log, if there is one
    """
    logger = Lines()
    given = Advice(n_workers, n_cores, logger)
    given.count(of)
    assert given.is_given
    return logger.lines


def test_the_factor_is_computed_from_the_time_outside_of_the_environments() -> None:
    """All cores are busy, half of the time outside of the environments, so 4 times as few workers take 1/2 + 1/8 of it."""
    busy = 1 / 4  # of the time of one of four workers per core
    with pytest.warns(
        UserWarning, match=rf"n_workers={N_WORKERS} is slow here: .* 50% .* n_workers={N_CORES}, .* about 1\.6 times"
    ):
        assert give(rollouts(0.5 * busy, busy)) == []
    (line,) = give(rollouts(0.75 * busy, busy))  # 3/4 + 1/16
    assert "about 1.2 times" in line
    assert give(rollouts(0.95 * busy, busy)) == []


def test_no_advice_where_it_would_be_wrong() -> None:
    slow = rollouts(0.0, 0.7 / 4)
    assert give(slow) == []  # cores are idle, so workers wait for something
    busy = rollouts(0.0, 1 / 4)
    assert give(busy, n_cores=None) == []  # it is not known which cores the workers have
    assert give(busy, n_workers=N_CORES) == []
    with pytest.warns(UserWarning, match="4.0 times"):
        give(busy)


@pytest.mark.parametrize("backend", ["thread", "process"])
@pytest.mark.parametrize("kind", ["fast", "sleep", pytest.param("cpu", marks=pytest.mark.slow)])
def test_advice_in_a_run(backend: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine workers get less of the cores, so that share of the cores is enough."""
    monkeypatch.setattr(advice, "_WARM_UP", 0.1)
    monkeypatch.setattr(advice, "_MEASURED", 0.03)
    monkeypatch.setattr(advice, "_BUSY", 0.0 if kind == "fast" else 0.1)
    kwargs = dict(fast={}, cpu=dict(cpu_seconds=0.002), sleep=dict(seconds=0.02))[kind]
    env = DummyVecEnv([lambda: Env(**kwargs)] * N_WORKERS)
    model = A3C("MlpPolicy", env, backend=backend, n_workers=N_WORKERS, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(N_WORKERS * (10_000 if kind == "fast" else 90))
    texts = [str(warning.message) for warning in caught if "is slow here" in str(warning.message)]
    if kind == "fast":
        (text,) = texts
        found = re.search(rf"With n_workers={N_CORES}, .* about (.*) times", text)
        assert found is not None and 1.5 <= float(found[1]) <= 4
    else:
        assert texts == []
    env.close()

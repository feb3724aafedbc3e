"""A callback reaches the environments where workers step them: between two steps, with the right answers."""

import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from sb3_a3c import A3C

N_ENVS = 3
GATED = (
    "env_method",
    "get_attr",
    "set_attr",
    "has_attr",
    "env_is_wrapped",
    "get_images",
    "render",
    "reset",
    "step_async",
    "step_wait",
)


class Room(gym.Env):
    """An environment that knows how many are in it, and what level it is at."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, index: int) -> None:
        self.index, self.level, self.entered, self.crowded, self.n_visits = index, 0, 0, False, 0
        self.lock = None

    def _visit(self, seconds: float) -> None:
        self.entered += 1
        self.n_visits += 1
        self.crowded |= self.entered > 1
        time.sleep(seconds)
        self.entered -= 1

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self._visit(0.001)
        return np.zeros(2, np.float32), float(self.level), False, False, {}

    def who(self, greeting: str) -> str:
        self._visit(0.0005)
        return f"{greeting}, {self.index}"


def make_env(vec_env_class: type[VecEnv]) -> VecEnv:
    return VecMonitor(vec_env_class([lambda i=i: Room(i) for i in range(N_ENVS)]))  # type: ignore[call-arg,misc]


class Visitor(BaseCallback):
    """Asks and tells the environments something at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[float] = []

    def _on_step(self) -> bool:
        env = self.training_env
        assert env.env_method("who", "hello") == [f"hello, {i}" for i in range(N_ENVS)]
        assert env.env_method("who", "you", indices=[2, 0]) == ["you, 2", "you, 0"]
        assert env.get_attr("index") == list(range(N_ENVS)) and env.get_attr("index", 1) == [1]
        assert env.get_attr("index", [-1]) == [N_ENVS - 1]
        assert env.has_attr("level") and not env.has_attr("nothing")
        assert env.env_is_wrapped(gym.Wrapper) == [False] * N_ENVS
        self.rewards.append(float(np.mean(self.locals["rewards"])))
        if self.n_calls == 20:
            env.set_attr("level", 7)
        return True


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
@pytest.mark.parametrize(("backend", "n_workers"), [("thread", 3), ("process", 2)])
def test_callbacks_reach_the_environments(backend: str, n_workers: int, vec_env_class: type[VecEnv]) -> None:
    env, visitor = make_env(vec_env_class), Visitor()
    A3C("MlpPolicy", env, backend=backend, n_workers=n_workers, max_lead=1).learn(60 * N_ENVS, callback=visitor)
    assert env.get_attr("crowded") == [False] * N_ENVS  # nobody was ever let in while another was there
    assert visitor.rewards[0] == 0.0 and visitor.rewards[-1] == 7.0  # a curriculum
    assert not set(GATED) & set(vars(env.unwrapped))
    env.reset()
    env.close()


@pytest.mark.parametrize(
    ("vec_env_class", "call"),
    [
        (DummyVecEnv, "reset"),
        (SubprocVecEnv, "step"),
        pytest.param(DummyVecEnv, "step", marks=pytest.mark.slow),
        pytest.param(SubprocVecEnv, "reset", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_stepping_it_in_a_callback_is_refused(backend: str, vec_env_class: type[VecEnv], call: str) -> None:
    env = make_env(vec_env_class)
    arguments = [np.zeros((N_ENVS, 1), np.float32)] if call == "step" else []
    model = A3C("MlpPolicy", env, backend=backend)
    with pytest.raises(RuntimeError, match="a callback that evaluates needs an environment of its own"):
        model.learn(100, callback=lambda *_: getattr(env, call)(*arguments))
    assert not set(GATED) & set(vars(env.unwrapped))
    model.learn(30)
    env.step(np.zeros((N_ENVS, 1), np.float32))
    env.close()


def test_another_algorithm_that_learns_with_them_meanwhile_is_refused() -> None:
    model = A3C("MlpPolicy", make_env(DummyVecEnv))
    with pytest.raises(RuntimeError, match=r"reset.* was called on a VecEnv whose environments A3C's workers are stepping"):
        model.learn(100, callback=lambda *_: A2C("MlpPolicy", model.env).learn(10))


def test_a_single_worker_lets_callbacks_do_what_they_like() -> None:
    env = make_env(DummyVecEnv)

    def step(*_: Any) -> bool:
        env.step(np.zeros((N_ENVS, 1), np.float32))
        return True

    model = A3C("MlpPolicy", env, n_workers=1).learn(100, callback=step)
    n_steps = model.num_timesteps // N_ENVS
    assert env.get_attr("n_visits") == [2 * n_steps] * N_ENVS  # the worker's steps, and the callback's

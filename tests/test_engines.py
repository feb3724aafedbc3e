"""A worker's seams: engines from an open registry, and hidden states that travel with it."""

import os
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c import A3C
from sb3_a3c.engines import ENGINES, choose_engine
from sb3_a3c.engines.torch_engine import TorchEngine

BACKENDS = ["serial", "thread", "process"]


class Clock(gym.Env):
    """Observes its number and the steps of its episode. Episodes of environment ``i`` are truncated after ``3 + i`` steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, number: int = 0) -> None:
        self._number = number

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._n_steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._n_steps += 1
        return self._obs(), 1.0, False, self._n_steps == 3 + self._number, {"pid": os.getpid()}

    def _obs(self) -> np.ndarray:
        return np.array([self._number, self._n_steps], np.float32)


class CountingEngine(TorchEngine):
    """Its hidden state counts the steps of each episode, as the observations do."""

    def act(self, obs: VecEnvObs, episode_starts: np.ndarray, n_steps: int) -> np.ndarray:
        assert isinstance(obs, np.ndarray)
        state = np.zeros((len(obs), 1)) if self.state is None else self.state
        state = np.where(episode_starts[:, None], 0, state)
        np.testing.assert_array_equal(state[:, 0], obs[:, 1])
        self.state = state + 1
        return super().act(obs, episode_starts, n_steps)

    def predict_terminal_values(self, obs: Any, env_indices: Any) -> Any:
        assert self.state is not None
        np.testing.assert_array_equal(self.state[list(env_indices), 0], [one[1] for one in obs])
        return super().predict_terminal_values(obs, env_indices)


@pytest.fixture
def counting_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "counting", CountingEngine)


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_hidden_states_travel_with_workers_and_end_in_the_model(backend: str, n_workers: int, counting_engine: None) -> None:
    """The engine itself checks that its state fits its observations, also where a run goes on in other workers."""
    env = DummyVecEnv([lambda number=number: Clock(number) for number in range(4)])  # type: ignore[misc]
    model = A3C("MlpPolicy", env, n_steps=4, n_workers=n_workers, backend=backend, engine="counting").learn(4 * 4 * 3)
    assert model._last_obs is not None
    for workers in (2, 4, n_workers):
        # What the model holds is the state before the next observation, 0 where an episode starts with it.
        goes_on = ~model._last_episode_starts
        np.testing.assert_array_equal(model._last_states[goes_on, 0], model._last_obs[goes_on, 1])  # type: ignore[index]
        assert goes_on.any()
        model.n_workers = workers
        model.learn(4 * 4 * 2, reset_num_timesteps=False)
    model.learn(4 * 4)


def test_terminal_values_are_asked_for_once_per_step(monkeypatch: pytest.MonkeyPatch, counting_engine: None) -> None:
    calls: list[list[int]] = []
    predict = CountingEngine.predict_terminal_values

    def record(self: CountingEngine, obs: Any, env_indices: Any) -> Any:
        calls.append(list(env_indices))
        return predict(self, obs, env_indices)

    monkeypatch.setattr(CountingEngine, "predict_terminal_values", record)
    env = DummyVecEnv([lambda number=number: Clock(number) for number in (0, 1, 0)])  # type: ignore[misc]
    A3C("MlpPolicy", env, n_steps=4, n_workers=1, engine="counting").learn(3 * 4)
    assert calls == [[0, 2], [1]]


class Picky(TorchEngine):
    @staticmethod
    def misfit(policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None = None) -> str | None:
        return None if isinstance(policy.action_space, spaces.Discrete) else "actions are not discrete"

    @staticmethod
    def drawback(policy: ActorCriticPolicy) -> str | None:
        return "it is slow" if policy.net_arch else None


def test_engines_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.engines.ENGINES", {"picky": Picky, "torch": TorchEngine})
    box, discrete = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
    make = lambda space, **kwargs: ActorCriticPolicy(box, space, lambda _: 1e-3, **kwargs)  # noqa: E731
    assert choose_engine("auto", make(discrete, net_arch=[])) == ("picky", "the policy fits it")
    assert choose_engine("auto", make(discrete)) == ("torch", "not picky: it is slow")
    assert choose_engine("auto", make(box)) == ("torch", "not picky: actions are not discrete")
    assert choose_engine("picky", make(discrete)) == ("picky", "as asked for")
    with pytest.raises(ValueError, match=r"engine must be 'auto' or 'torch' .* is 'picky': actions are not discrete"):
        choose_engine("picky", make(box))

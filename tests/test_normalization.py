"""VecNormalize's statistics are shared by the workers: each observation is counted once, and the moments are exact."""

import itertools
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_a3c import A3C
from sb3_a3c.envs.normalization import JournaledMeanStd, journal_statistics, moments_of, set_moments
from sb3_a3c.envs.slices import slice_vec_env

N_ENVS = 4


class Recorder(gym.Env):
    """An environment that remembers each observation that it returns."""

    action_space = spaces.Discrete(2)

    def __init__(self, as_dict: bool) -> None:
        box = spaces.Box(-100, 100, (2,), np.float32)
        self.observation_space = spaces.Dict({"a": box, "b": box}) if as_dict else box
        self.as_dict = as_dict
        self.given: list[np.ndarray] = []
        self.age = 0

    def _observe(self) -> Any:
        # Whole numbers: SB3 averages the environments of a slice in float32, which is exact for four of these.
        self.given.append(np.rint(self.np_random.normal([3.0, -1.0], [5.0, 20.0])).astype(np.float32))
        return {"a": self.given[-1], "b": -self.given[-1]} if self.as_dict else self.given[-1]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.age = 0
        return self._observe(), {}

    def step(self, action: int) -> Any:
        self.age += 1
        obs = self._observe()
        if self.age == 11:
            self.given.pop()  # VecNormalize counts the first observation of the next episode, not the last one of this episode
        return obs, float(self.np_random.normal(5.0)), self.age == 11, False, {}


def make_env(as_dict: bool = False, **kwargs: Any) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Recorder(as_dict)] * N_ENVS), **kwargs)


def given(env: VecNormalize) -> np.ndarray:
    return np.concatenate([inner.given for inner in env.unwrapped.envs])  # type: ignore[attr-defined]


def assert_counted(rms: RunningMeanStd, observations: np.ndarray) -> None:
    """
    SB3 begins with a ten thousandth of an observation of mean 0 and variance 1, which is counted here too. The tolerance is
    for the rounding of some thousand float64 additions.
    """
    weight = 1e-4 / (len(observations) + 1e-4)
    mean = observations.mean(axis=0, dtype=np.float64) * (1 - weight)
    second_moment = (observations.astype(np.float64) ** 2).mean(axis=0) * (1 - weight) + weight
    assert rms.count == pytest.approx(len(observations) + 1e-4, abs=1e-8)
    np.testing.assert_allclose(rms.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(rms.var, second_moment - mean**2, rtol=1e-9)


@pytest.mark.parametrize("n_envs", [1, 2, 3, 7, 8, 9, 16, 23, 127, 128, 300])
def test_compiled_statistics_are_sb3s_to_the_last_bit(n_envs: int) -> None:
    """Every shape, with types in turn, so that each type comes with each number of environments and with each shape."""
    rng = np.random.default_rng(n_envs)
    types = itertools.islice(itertools.cycle([np.float32, np.float64, np.uint8]), n_envs % 3, None)
    for shape, dtype in zip([(), (1,), (3,), (2, 3)], types):  # noqa: B905
        expected, worker = RunningMeanStd(shape=shape), JournaledMeanStd(RunningMeanStd(shape=shape))
        shared = moments_of(worker)
        for _ in range(2):
            for _ in range(5):
                batch = rng.normal(100, 30, (n_envs, *shape)).astype(dtype)
                expected.update(batch)
                worker.update(batch)
            journal = worker.take_journal()
            assert journal is not None and worker.take_journal() is None
            journal.count_in(shared, shared)
        pulled = RunningMeanStd(shape=shape)
        set_moments(pulled, shared)
        for rms in (worker, pulled):
            assert rms.count == expected.count and rms.mean.shape == rms.var.shape == shape
            np.testing.assert_array_equal(rms.mean, expected.mean)
            np.testing.assert_array_equal(rms.var, expected.var)


@pytest.mark.parametrize(
    ("n_envs", "options"),
    [(1, {}), (4, {}), (9, dict(norm_obs=False)), (4, dict(norm_reward=False, clip_obs=1)), (9, dict(training=False))],
)
def test_slices_normalize_as_sb3_does_to_the_last_bit(n_envs: int, options: dict[str, Any]) -> None:
    def make() -> VecNormalize:
        env = VecNormalize(DummyVecEnv([lambda: Recorder(False)] * n_envs), clip_reward=1.5, **options)
        env.seed(3)
        env.reset()
        return env

    whole, twin = make(), make()
    (part,) = slice_vec_env(whole, [np.arange(n_envs)])
    journal_statistics(part)
    for _ in range(30):
        actions = np.zeros(n_envs, int)
        (obs, rewards, dones, infos), (twin_obs, twin_rewards, twin_dones, twin_infos) = part.step(actions), twin.step(actions)
        for ours, theirs in ((obs, twin_obs), (rewards, twin_rewards), (dones, twin_dones), (part.returns, twin.returns)):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        for info, twin_info in zip(infos, twin_infos, strict=True):
            assert info.keys() == twin_info.keys()
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], twin_info["terminal_observation"])


@pytest.mark.parametrize(
    ("backend", "n_workers", "engine"),
    [("serial", 1, "fused"), ("serial", 4, "torch"), ("thread", 1, "torch"), ("thread", 4, "fused"), ("process", 2, "fused")]
    + [pytest.param("ray", 2, "fused", marks=pytest.mark.slow)],
)
def test_every_observation_is_counted_once(backend: str, n_workers: int, engine: str) -> None:
    env = make_env()
    objects = env.obs_rms, env.ret_rms
    model = A3C("MlpPolicy", env, backend=backend, n_workers=n_workers, engine=engine).learn(600)
    assert_counted(env.obs_rms, given(env))
    assert len(given(env)) == N_ENVS + 600 and env.ret_rms.count == pytest.approx(600 + 1e-4, abs=1e-8)
    model.learn(200, reset_num_timesteps=False)
    assert_counted(env.obs_rms, given(env))
    assert (env.obs_rms, env.ret_rms) == objects  # the same objects, not a worker's
    assert type(env.obs_rms) is type(env.ret_rms) is RunningMeanStd
    loaded = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)


def test_dict_observations() -> None:
    env = make_env(as_dict=True)
    A3C("MultiInputPolicy", env).learn(400)
    assert_counted(env.obs_rms["a"], given(env))
    assert_counted(env.obs_rms["b"], -given(env))


def test_without_normalized_observations() -> None:
    env = make_env(norm_obs=False)
    A3C("MlpPolicy", env).learn(400)
    assert env.ret_rms.count == pytest.approx(400 + 1e-4, abs=1e-8) and not hasattr(env, "obs_rms")


def test_statistics_that_are_not_in_training_stay() -> None:
    env = make_env()
    A3C("MlpPolicy", env).learn(200)
    env.training = False
    before = env.obs_rms.mean.copy(), env.obs_rms.count, env.ret_rms.var
    A3C("MlpPolicy", env).learn(200)
    np.testing.assert_array_equal(env.obs_rms.mean, before[0])
    assert (env.obs_rms.count, env.ret_rms.var) == before[1:]


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_callbacks_see_whole_statistics_and_what_the_environment_gave(backend: str) -> None:
    class Look(BaseCallback):
        counts: list[float] = []

        def _on_step(self) -> bool:
            env = self.model.get_vec_normalize_env()
            assert env is not None
            raw, rewards = env.get_original_obs(), env.get_original_reward()
            assert raw.shape == (N_ENVS, 2) and rewards.shape == (N_ENVS,) and env.returns.shape == (N_ENVS,)
            assert abs(rewards.mean() - 5.0) < 4.0
            new_obs = self.locals["new_obs"]
            # Each worker normalizes with its own statistics. Those that are shown are one worker's.
            fits = np.isclose(env.normalize_obs(raw), new_obs, rtol=1e-5, atol=1e-6).all(axis=1)
            assert fits.any()
            self.counts.append(env.obs_rms.count)
            return True

    env = make_env()
    A3C("MlpPolicy", env, backend=backend).learn(400, callback=Look())
    assert all(count > N_ENVS for count in Look.counts) and Look.counts[-1] > 100


class Constant(gym.Env):
    """Always observes the same number."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, number: float) -> None:
        self._obs = np.array([number], np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        return self._obs, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._obs, 0.0, False, False, {}


class LastObservations(BaseCallback):
    """Keeps the observations of the last rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.observations = self.locals["rollout_buffer"].observations.copy()


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_each_worker_normalizes_with_the_statistics_of_all(backend: str) -> None:
    """The mean of 0 and 10 is 5, and their standard deviation 5. A worker's own observations would all be 0."""
    venv = VecNormalize(DummyVecEnv([lambda: Constant(0.0), lambda: Constant(10.0)]))
    callback = LastObservations()
    A3C("MlpPolicy", venv, n_steps=8, n_workers=2, backend=backend, seed=0, max_lead=1).learn(2 * 8 * 30, callback)
    np.testing.assert_allclose(callback.observations[-1].flatten(), [-1, 1], atol=0.3)

"""Slices of a VecEnv do for their environments what the whole does, and leave it as if it had been stepped as a whole."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_a3c import A3C, register_vec_env
from sb3_a3c.envs.declarations import DECLARATIONS, Declaration
from sb3_a3c.envs.slices import CannotSlice, merge_counters, slice_vec_env
from sb3_a3c.envs.state import read_state, write_state

N_ENVS = 5


class Walk(gym.Env):
    """A seeded walk with episodes of uneven length, truncated now and then; observations of several kinds."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, kind: str = "box") -> None:
        box = spaces.Box(-5, 5, (3,), np.float32)
        image = spaces.Box(0, 255, (40, 38, 3), np.uint8)
        self.observation_space = {"box": box, "image": image, "dict": spaces.Dict({"walk": box, "image": image})}[kind]
        self.kind = kind

    def _observe(self) -> Any:
        box = self.np_random.normal(size=3).astype(np.float32)
        image = self.np_random.integers(0, 256, (40, 38, 3), dtype=np.uint8)
        return {"box": box, "image": image, "dict": {"walk": box, "image": image}}[self.kind]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        return self._observe(), {"started": float(self.np_random.random())}

    def step(self, action: np.ndarray) -> Any:
        chance = self.np_random.random()
        return self._observe(), float(action.sum() + chance), chance < 0.1, chance > 0.9, {"chance": chance}


def dummy(kind: str = "box") -> VecEnv:
    return DummyVecEnv([lambda: Walk(kind)] * N_ENVS)


def frozen(venv: VecEnv) -> VecNormalize:
    """VecNormalize that has seen something and counts no more: how it counts with several workers is told elsewhere."""
    normalize = VecNormalize(venv)
    normalize.seed(8)
    normalize.reset()
    for _ in range(30):
        normalize.step(np.zeros((N_ENVS, 2), np.float32))
    normalize.training = False
    return normalize


CHAINS: dict[str, Callable[[Any], VecEnv]] = {
    "dummy": lambda tmp: dummy(),
    "dummy, dict": lambda tmp: dummy("dict"),
    "monitored environments": lambda tmp: DummyVecEnv([lambda: Monitor(Walk())] * N_ENVS),
    "subproc": lambda tmp: SubprocVecEnv([Walk] * N_ENVS),
    "subproc, stacked and normalized": lambda tmp: frozen(VecFrameStack(SubprocVecEnv([Walk] * N_ENVS), 3)),
    "normalize": lambda tmp: frozen(dummy()),
    "normalize, dict": lambda tmp: VecNormalize(dummy("dict"), training=False, norm_obs_keys=["walk"]),
    "stack": lambda tmp: VecFrameStack(dummy(), 3),
    "stack, dict": lambda tmp: VecFrameStack(dummy("dict"), 2, channels_order={"walk": None, "image": "last"}),
    "stack of transposed images": lambda tmp: VecFrameStack(VecTransposeImage(dummy("image")), 4, channels_order="first"),
    "transposed stack of images": lambda tmp: VecTransposeImage(VecFrameStack(dummy("image"), 4)),
    "monitor": lambda tmp: VecMonitor(dummy()),
    "monitor with a file": lambda tmp: VecMonitor(dummy(), str(tmp / "monitor.csv"), info_keywords=("chance",)),
    "check nan": lambda tmp: VecCheckNan(dummy(), raise_exception=True),
    "extract, normalize, stack": lambda tmp: VecFrameStack(frozen(VecExtractDictObs(dummy("dict"), "walk")), 2),
    "everything": lambda tmp: frozen(VecFrameStack(VecCheckNan(VecMonitor(dummy())), 3)),
}

SLICES = [
    [np.arange(N_ENVS)],
    list(np.array_split(np.arange(N_ENVS), 2)),
    [np.array([i]) for i in range(N_ENVS)],
]


def without_times(info: dict) -> dict:
    episode = {key: value for key, value in info.get("episode", {}).items() if key != "t"}
    return {**info, "episode": episode}


def assert_same(actual: Any, expected: Any) -> None:
    """Equal to the last bit, through containers and SB3's stacks of frames."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "stacked_observation_space"):
        names = ("stacked_obs", "sub_stacked_observations")
        for name in names:
            assert_same(vars(actual).get(name), vars(expected).get(name))
    else:
        np.testing.assert_array_equal(actual, expected)


def per_env(venv: VecEnv) -> list[dict[str, Any]]:
    """What each layer holds that learning with any algorithm would go on from."""
    names = (
        "returns",
        "old_obs",
        "old_reward",
        "stacked_obs",
        "episode_returns",
        "episode_lengths",
        "episode_count",
        "reset_infos",
    )
    layers = []
    while True:
        layers.append({name: vars(venv)[name] for name in names if name in vars(venv)})
        if not isinstance(venv, VecEnvWrapper):
            return layers
        venv = venv.venv


def stack(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: stack([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


@pytest.mark.parametrize("slices", SLICES, ids=["whole", "two", "one each"])
@pytest.mark.parametrize("chain", CHAINS)
def test_slices_do_what_the_whole_does(chain: str, slices: list[np.ndarray], tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, twin = CHAINS[chain](tmp_path / "a"), CHAINS[chain](tmp_path / "b")
    whole.seed(5)
    twin.seed(5)
    assert_same(whole.reset(), twin.reset())
    rng = np.random.default_rng(0)
    for _ in range(2):
        parts = slice_vec_env(whole, slices)
        assert [part.num_envs for part in parts] == [len(indices) for indices in slices]
        for _ in range(25):
            actions = rng.uniform(-1, 1, (N_ENVS, 2)).astype(np.float32)
            stepped = [part.step(actions[indices]) for part, indices in zip(parts, slices, strict=True)]
            obs, rewards, dones, infos = twin.step(actions)
            assert_same(stack([result[0] for result in stepped]), obs)
            assert_same(np.concatenate([result[1] for result in stepped]), rewards)
            assert_same(np.concatenate([result[2] for result in stepped]), dones)
            assert_same([without_times(i) for result in stepped for i in result[3]], [without_times(i) for i in infos])
        write_state(whole, [read_state(part) for part in parts])
        merge_counters(whole, parts)
        assert_same(per_env(whole), per_env(twin))
        actions = np.zeros((N_ENVS, 2), np.float32)
        assert_same(whole.step(actions)[:3], twin.step(actions)[:3])  # and the whole can be stepped on
    if "file" in chain:
        for env in (whole, twin):
            env.close()
        rows = [sorted(r.rsplit(",", 2)[0] for r in (tmp_path / d / "monitor.csv").read_text().splitlines()[2:]) for d in "ab"]
        assert len(rows[0]) == len(rows[1]) > 0
    whole.close()
    twin.close()


def test_what_was_read_changes_no_more() -> None:
    whole = CHAINS["everything"](None)
    whole.reset()
    (part,) = slice_vec_env(whole, SLICES[0])
    part.step(np.zeros((N_ENVS, 2), np.float32))
    before = read_state(part)
    copy = [
        {name: np.array(value.stacked_obs if name == "stacked_obs" else value) for name, value in layer.items()}
        for layer in before
    ]
    for _ in range(20):
        part.step(np.ones((N_ENVS, 2), np.float32))
    after = [
        {name: np.array(value.stacked_obs if name == "stacked_obs" else value) for name, value in layer.items()}
        for layer in before
    ]
    assert_same(after, copy)


class Discount(VecEnvWrapper):
    """A user's own wrapper: rewards are worth less the longer an episode has lasted."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.ages = np.zeros(venv.num_envs)

    def reset(self) -> Any:
        self.ages[:] = 0
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.ages = np.where(dones, 0, self.ages + 1)
        return obs, rewards * 0.9**self.ages, dones, infos


class Undeclared(VecNormalize):
    """A wrapper of unknown habits, though of a known family."""


def test_a_users_own_wrapper_can_be_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECLARATIONS, Discount, Declaration())  # undeclared again after the test
    del DECLARATIONS[Discount]
    with pytest.raises(CannotSlice, match="Discount is not known to work in slices"):
        slice_vec_env(Discount(dummy()), SLICES[1])
    register_vec_env(Discount, state=["ages"])
    whole, twin = Discount(dummy()), Discount(dummy())
    for env in (whole, twin):
        env.seed(5)
        env.reset()
    parts = slice_vec_env(whole, SLICES[1])
    for _ in range(20):
        actions = np.ones((N_ENVS, 2), np.float32)
        rewards = np.concatenate([part.step(actions[ix])[1] for part, ix in zip(parts, SLICES[1], strict=True)])
        assert_same(rewards, twin.step(actions)[1])
    write_state(whole, [read_state(part) for part in parts])
    assert_same(whole.ages, twin.ages)
    assert whole.ages.max() > 0


@pytest.mark.parametrize("wrap", [Undeclared, lambda venv: VecFrameStack(Undeclared(venv), 2)])
def test_what_is_not_declared_is_not_sliced(wrap: Callable[[VecEnv], VecEnv]) -> None:
    with pytest.raises(CannotSlice, match="Undeclared is not known to work in slices"):
        slice_vec_env(wrap(dummy()), SLICES[0])


@pytest.mark.parametrize("bad", [Walk, 3, dummy])
def test_only_vec_envs_are_declared(bad: Any) -> None:
    with pytest.raises(TypeError, match="vec_env_class must be a subclass of VecEnv"):
        register_vec_env(bad)


def test_an_environment_that_cannot_be_sliced_gets_one_worker_and_a_warning() -> None:
    env = Undeclared(dummy())
    model = A3C("MlpPolicy", env, seed=0, engine="torch")
    with pytest.warns(UserWarning, match="A3C learns with one worker instead of 5: Undeclared is not known to work in slices"):
        model.learn(100)
    assert model._n_updates == 4 and env.obs_rms.count == pytest.approx(N_ENVS * 21, abs=1e-3)
    twin = A2C("MlpPolicy", Undeclared(dummy()), seed=0).learn(100)
    assert all((a == b).all() for a, b in zip(model.policy.parameters(), twin.policy.parameters(), strict=True))
    A3C("MlpPolicy", env, n_workers=1).learn(50)  # who asked for one is not warned


@pytest.mark.parametrize("chain", ["normalize", "everything", "stack, dict", "transposed stack of images", "subproc"])
def test_learning_leaves_the_environment_whole(chain: str, tmp_path: Any) -> None:
    env = CHAINS[chain](tmp_path)
    policy = "MultiInputPolicy" if "dict" in chain else "MlpPolicy"
    kwargs = dict(policy_kwargs=dict(normalize_images=False)) if "images" in chain else {}
    model = A3C(policy, env, n_workers=3, **kwargs).learn(200)
    for layer in per_env(env):
        for name, value in layer.items():
            if name not in ("stacked_obs", "episode_count") and not isinstance(value, dict):
                assert len(value) == N_ENVS, name
    obs = env.step(np.zeros((N_ENVS, 2), np.float32))[0]
    model.learn(200, reset_num_timesteps=False)
    A2C(policy, env, **kwargs).learn(100)
    assert_same(
        {k: v.shape for k, v in obs.items()} if isinstance(obs, dict) else obs.shape,
        env.reset().shape if not isinstance(obs, dict) else {k: v.shape for k, v in env.reset().items()},
    )
    env.close()


def test_images_are_learned_from(tmp_path: Any) -> None:
    env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)] * 2), 2)
    A3C("CnnPolicy", env, policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8))).learn(30)

"""Environments as they are: whatever A2C learns from, A3C learns from, and what it can't do it says in words."""

import contextvars
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
)

from sb3_a3c import A3C, register_vec_env
from sb3_a3c.envs.normalization import running_statistics

#: How an environment may write its observation down.
WRITTEN: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda obs: obs,
    "list": lambda obs: obs.tolist(),
    "tuple": lambda obs: tuple(obs.tolist()),
    "list of scalars": lambda obs: list(obs),
    "integers": lambda obs: [int(10 * number) for number in obs],
    "same array": lambda obs: obs,
}
#: How it may write its reward down.
REWARDS: list[Callable[[float], Any]] = [
    float,
    lambda reward: int(10 * reward),
    np.float32,
    np.float64,
    lambda reward: np.array(reward),
]


class Scribe(gym.Env):
    """A seeded walk whose observations, rewards and flags are written down in one way or another."""

    action_space = spaces.Discrete(2)

    def __init__(
        self, written: str = "array", kind: str = "box", reward: Callable[[float], Any] = float, limit: int = 9
    ) -> None:
        shape = (1,) if kind == "number" else (3,)
        self.box = spaces.Box(-20, 20, shape, np.float32)
        self.observation_space = spaces.Dict(walk=self.box, other=self.box) if kind == "dict" else self.box
        self.written, self.kind, self.reward, self.limit = written, kind, reward, limit
        self.obs = np.zeros(shape, np.float32)

    def observe(self) -> Any:
        drawn = self.np_random.normal(size=self.obs.shape).astype(np.float32)
        if self.written == "same array":
            self.obs[...] = drawn
        else:
            self.obs = drawn
        if self.kind == "number":
            return float(drawn[0]) if self.written == "list" else drawn[0]
        obs = WRITTEN[self.written](self.obs)
        return {"walk": obs, "other": obs} if self.kind == "dict" else obs

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.n_steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        reward = self.reward(float(self.np_random.random()))
        flags = np.bool_(self.np_random.random() < 0.1), self.n_steps >= self.limit
        return self.observe(), reward, *flags, {"drawn": self.obs.copy()}


WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "": lambda venv: venv,
    "normalized": VecNormalize,
    "frozen": lambda venv: VecNormalize(venv, training=False),
    "normalized rewards": lambda venv: VecNormalize(venv, norm_obs=False),
    "stacked and normalized": lambda venv: VecNormalize(VecFrameStack(venv, 2)),
}


def learned(algorithm: type[BaseAlgorithm], venv: VecEnv, n_timesteps: int = 120, **kwargs: Any) -> BaseAlgorithm:
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    return algorithm(policy, venv, seed=1, device="cpu", **kwargs).learn(n_timesteps)  # type: ignore[arg-type]


def assert_same(model: BaseAlgorithm, expected: BaseAlgorithm) -> None:
    for param, expected_param in zip(model.policy.parameters(), expected.policy.parameters(), strict=True):
        assert th.equal(param, expected_param)
    assert model.env is not None and expected.env is not None
    statistics = zip(running_statistics(model.env), running_statistics(expected.env), strict=True)
    for rms, expected_rms in statistics:
        np.testing.assert_array_equal(rms.mean, expected_rms.mean)
        assert rms.count == expected_rms.count


def scribes(wrapper: str, vec_env_class: type[VecEnv] = DummyVecEnv, **kwargs: Any) -> VecEnv:
    return WRAPPERS[wrapper](vec_env_class([lambda: Scribe(**kwargs)] * 2))  # type: ignore[call-arg]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("written", ["list", "tuple", "integers"])
def test_observations_may_be_written_down_in_any_way(written: str, wrapper: str) -> None:
    a2c = learned(A2C, scribes(wrapper, written=written))
    assert_same(learned(A3C, scribes(wrapper, written=written), n_workers=1, engine="torch"), a2c)
    learned(A3C, scribes(wrapper, written=written))


@pytest.mark.parametrize("wrapper", ["", "normalized", "normalized rewards"])
@pytest.mark.parametrize("kind", ["dict", "number"])
@pytest.mark.parametrize("written", ["list", "list of scalars"])
def test_observations_of_any_space(written: str, kind: str, wrapper: str) -> None:
    limit = 9 if kind == "dict" or wrapper == "normalized" else 1000  # A2C's policies can't read one that is a number
    a2c = learned(A2C, scribes(wrapper, written=written, kind=kind, limit=limit))
    a3c = learned(A3C, scribes(wrapper, written=written, kind=kind, limit=limit), n_workers=1, engine="torch")
    assert_same(a3c, a2c)
    learned(A3C, scribes(wrapper, written=written, kind=kind, limit=limit))


@pytest.mark.parametrize("backend", ["serial", "process"])
def test_observations_from_other_processes_may_be_lists(backend: str) -> None:
    venv = scribes("normalized", SubprocVecEnv, written="list")
    learned(A3C, venv, backend=backend)
    venv.close()


@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_may_be_numbers_of_any_kind(reward: Callable[[float], Any]) -> None:
    a2c = learned(A2C, scribes("normalized", reward=reward))
    assert_same(learned(A3C, scribes("normalized", reward=reward), n_workers=1, engine="torch"), a2c)
    learned(A3C, scribes("", reward=reward))


@pytest.mark.parametrize("reward", [int, lambda reward: np.array([reward])], ids=["int", "array"])
def test_rewards_from_another_process_may_be_numbers_of_any_kind(reward: Callable[[float], Any]) -> None:
    """A2C can't add the value of a truncated episode to an array."""
    models = []
    for algorithm, kwargs in ((A2C, {}), (A3C, {"engine": "torch"})):
        venv = SubprocVecEnv([lambda: Scribe(reward=reward, limit=1000)])
        models.append(learned(algorithm, venv, 60, **kwargs))
        venv.close()
    assert_same(models[1], models[0])


class Terminals(BaseCallback):
    """Compares each terminal observation with what the environment has drawn."""

    n_compared = 0

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "terminal_observation" in info:
                terminal = info["terminal_observation"]
                for obs in terminal.values() if isinstance(terminal, dict) else [terminal]:
                    np.testing.assert_array_equal(obs, info["drawn"])
                    self.n_compared += 1
        return True


@pytest.mark.parametrize("backend", ["serial", "process"])
@pytest.mark.parametrize("kind", ["box", "dict"])
def test_the_reset_does_not_write_over_the_terminal_observation(kind: str, backend: str) -> None:
    venv = scribes("", written="same array", kind=kind)
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"
    callback = Terminals()
    A3C(policy, venv, backend=backend, seed=1).learn(120, callback)
    assert callback.n_compared > 10


class Plain(gym.Env):
    """Does nothing by itself."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.n_steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        self.n_steps += 1
        return np.zeros(1, np.float32), 1.0, self.n_steps % 7 == 0, False, {}


class Meta(Plain):
    """Tells of an episode in the middle of one, as a wrapper around several episodes does, and of success at each step."""

    def step(self, action: int) -> Any:
        self.n_steps += 1
        info: dict[str, Any] = {"is_success": self.n_steps % 3 == 0}
        if self.n_steps % 5 == 0:
            info["episode"] = {"r": float(self.n_steps), "l": 5, "t": 0.0}
        return np.zeros(1, np.float32), 1.0, self.n_steps == 12, False, info


class Looks(BaseCallback):
    """Has every step shown."""

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("callback", [None, Looks()], ids=["no callback", "a callback"])
@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_episodes_that_are_told_of_at_any_step_are_counted(backend: str, callback: BaseCallback | None) -> None:
    a2c = A2C("MlpPolicy", DummyVecEnv([Meta, Meta]), device="cpu").learn(120)
    a3c = A3C("MlpPolicy", DummyVecEnv([Meta, Meta]), backend=backend).learn(120, callback)
    assert a2c.ep_info_buffer and a2c.ep_success_buffer and a3c.ep_info_buffer and a3c.ep_success_buffer
    assert list(a3c.ep_info_buffer) == list(a2c.ep_info_buffer)
    assert list(a3c.ep_success_buffer) == list(a2c.ep_success_buffer)


class Spaces(gym.Env):
    """Observes and takes whatever the spaces have."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(1)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 1.0, False, False, {}


BINARY, CHOICE = spaces.MultiBinary(2), spaces.Discrete(2)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "match"),
    [
        (spaces.Discrete(3, start=1), CHOICE, r"observation_space has Discrete\(3, start=1\).*subtract 'start'"),
        (spaces.MultiDiscrete([3, 3], start=[0, 1]), CHOICE, r"observation_space has MultiDiscrete.*subtract 'start'"),
        (spaces.Dict(one=spaces.Discrete(3, start=-1)), CHOICE, r"observation_space has Discrete\(3, start=-1\)"),
        (BINARY, spaces.Discrete(3, start=-1), r"action_space is Discrete\(3, start=-1\).*add 'start'"),
        (BINARY, spaces.MultiDiscrete([3, 3], start=[0, 1]), r"action_space is MultiDiscrete.*add 'start'"),
        (BINARY, spaces.Box(0, 5, (1,), np.int64), r"action_space is Box.*round them"),
    ],
)
def test_spaces_that_policies_treat_otherwise_are_warned_of(
    observation_space: spaces.Space, action_space: spaces.Space, match: str
) -> None:
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    venv = DummyVecEnv([lambda: Spaces(observation_space, action_space)])
    with pytest.warns(UserWarning, match=match) as warned:
        A3C(policy, venv)
    assert len(warned) == 1 and warned[0].filename == __file__


@pytest.mark.filterwarnings("ignore:observation_space has")
@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([3, 3], start=[1, 1])])
def test_an_observation_that_is_in_its_space_is_not_said_not_to_be(space: spaces.Space) -> None:
    """A2C's policies can't read the highest value, and say so in torch's words."""
    for algorithm in (A2C, A3C):
        venv = DummyVecEnv([lambda: Spaces(space, CHOICE)] * 2)
        with pytest.raises(RuntimeError, match="Class values must be smaller than num_classes"):
            algorithm("MlpPolicy", venv, device="cpu").learn(100)
    with pytest.raises(ValueError, match="observations do not start at 0"):
        A3C("MlpPolicy", venv, engine="fused")


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_action_masks_are_warned_of(vec_env_cls: Callable[..., VecEnv], tmp_path: Path) -> None:
    """When the model gets its environments, once each time."""
    masked = make_vec_env(lambda: ActionMasker(gym.make("CartPole-v1"), lambda env: np.ones(2)), vec_env_cls=vec_env_cls)
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1"))
    model.save(tmp_path / "model")
    for take in (
        lambda: A3C("MlpPolicy", masked),
        lambda: A3C.load(tmp_path / "model", masked),
        lambda: model.set_env(masked),
    ):
        with pytest.warns(UserWarning, match="A3C does not use action masks: invalid actions will be chosen") as warned:
            take()
        assert len(warned) == 1 and warned[0].filename == __file__
    masked.close()


def test_a_vec_env_that_can_not_be_asked_for_action_masks() -> None:
    class RenderModeOnly(DummyVecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            if attr_name != "render_mode":
                raise NotImplementedError
            return [None] * self.num_envs

    A3C("MlpPolicy", RenderModeOnly([lambda: gym.make("CartPole-v1")]))


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_a_wrapper_that_is_declared_here_is_known_in_every_worker(backend: str) -> None:
    class Ages(VecEnvWrapper):
        """Of no module, so that a process gets another copy of the class."""

        def __init__(self, venv: VecEnv) -> None:
            super().__init__(venv)
            self.ages = np.zeros(venv.num_envs)

        def reset(self) -> Any:
            self.ages = np.zeros(self.num_envs)
            return self.venv.reset()

        def step_wait(self) -> Any:
            obs, rewards, dones, infos = self.venv.step_wait()
            self.ages = np.where(dones, 0, self.ages + 1)
            return obs, rewards, dones, infos

    class Records(BaseCallback):
        def _on_training_start(self) -> None:
            self.seen: list[list[float]] = []

        def _on_step(self) -> bool:
            self.seen.append(self.training_env.ages.tolist())
            return True

    register_vec_env(Ages, state=["ages"])
    venv, records = Ages(make_vec_env("CartPole-v1", n_envs=2, seed=1)), Records()
    A3C("MlpPolicy", venv, backend=backend).learn(20, records)
    assert records.seen == [[step, step] for step in range(1, 11)]
    assert venv.ages.tolist() == [10, 10]


class Database(Plain):
    """Only the thread that made it can step it."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")

    def step(self, action: int) -> Any:
        self.connection.execute("select 1")
        return super().step(action)

    def close(self) -> None:
        self.connection.close()


class Signals(Plain):
    """Only the main thread can reset it."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        return super().reset(seed=seed)


class Client(Plain):
    """Its copies are not connected to anything, as PyBullet's are not."""

    def __init__(self, broken: str = "step") -> None:
        self.connected, self.broken = True, broken

    def __getstate__(self) -> dict[str, Any]:
        return {"connected": False, "broken": self.broken}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.broken == "unpickling":
            raise ConnectionError("not connected to the simulator")

    def step(self, action: int) -> Any:
        if not self.connected:
            raise ConnectionError("not connected to the simulator")
        return super().step(action)


class Late(Plain):
    """Fails in the middle of its second episode."""

    total = 0

    def step(self, action: int) -> Any:
        self.total += 1
        if self.total == 9:
            raise ConnectionError("late")
        return super().step(action)


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


@pytest.mark.parametrize("env_class", [Database, Signals])
def test_what_only_its_own_thread_can_use_is_told_where_it_can_be_stepped(env_class: type[gym.Env]) -> None:
    venv = DummyVecEnv([env_class, env_class])
    with pytest.raises((sqlite3.ProgrammingError, ValueError), match="thread") as error:
        A3C("MlpPolicy", venv, backend="thread").learn(40)
    assert "made in another thread" in notes_of(error.value)
    assert "backend='serial', or a SubprocVecEnv" in notes_of(error.value)
    A3C("MlpPolicy", venv, backend="serial").learn(40)
    if env_class is Database:
        with pytest.raises(TypeError, match=r"can't be pickled.*Use a SubprocVecEnv.*backend='serial' if only the thread"):
            A3C("MlpPolicy", venv, backend="process").learn(40)
    venv.close()
    processes = SubprocVecEnv([env_class, env_class])
    A3C("MlpPolicy", processes, backend="thread").learn(40)
    processes.close()


@pytest.mark.parametrize("broken", ["step", "unpickling"])
def test_a_copy_that_is_not_whole_is_told_to_be_a_copy(broken: str) -> None:
    venv = DummyVecEnv([lambda: Client(broken)] * 2)
    with pytest.raises(ConnectionError, match="not connected") as error:
        A3C("MlpPolicy", venv, backend="process").learn(40)
    assert "has a copy of it" in notes_of(error.value) and "use a SubprocVecEnv" in notes_of(error.value)
    assert venv.get_attr("connected") == [True, True]  # the copy did nothing, so the original stays
    A3C("MlpPolicy", venv, backend="thread").learn(40)


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_an_error_that_comes_later_has_no_such_note(backend: str) -> None:
    with pytest.raises(ConnectionError, match="late") as error:
        A3C("MlpPolicy", DummyVecEnv([Late, Late]), backend=backend).learn(40)
    assert "first" not in notes_of(error.value)


TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


class Divides(Plain):
    """Depends on a context variable, on NumPy's error handling and on an environment variable."""

    seen = ""

    def step(self, action: int) -> Any:
        self.seen = f"{TENANT.get()} {np.geterr()['divide']} {os.environ.get('A3C_TENANT')} {'A3C_GONE' in os.environ}"
        return super().step(action)


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_workers_have_the_callers_surroundings(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A3C_GONE", "1")
    model = A3C("MlpPolicy", DummyVecEnv([Divides, Divides]), backend=backend)
    model.learn(20)  # a fork server has started by now
    monkeypatch.delenv("A3C_GONE")
    for tenant, division in (("one", "raise"), ("two", "ignore")):
        monkeypatch.setenv("A3C_TENANT", tenant)
        token = TENANT.set(tenant)
        try:
            with np.errstate(divide=division):  # type: ignore[call-overload]
                model.learn(20)
        finally:
            TENANT.reset(token)
        name = "nobody" if backend == "process" else tenant  # context variables can't be pickled
        assert model.env is not None
        assert model.env.get_attr("seen") == [f"{name} {division} {tenant} False"] * 2

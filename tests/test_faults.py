"""Every fault ends a run within seconds, as the caller's own error, and leaves a model that predicts, saves and learns on."""

import _thread
import os
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_a3c import A3C, NonFiniteError
from sb3_a3c.envs.normalization import running_statistics
from sb3_a3c.system.cleanup import CleanupStack

N_ENVS = 4
#: One worker is in the caller's thread, whatever the backend; a process takes a while to start, so two have to do.
PLACES = [("serial", 1), ("serial", 2), ("serial", 4), ("thread", 1), ("thread", 2), ("thread", 4), ("process", 2)]


class Trouble(Exception):
    """An error of the user's own, with a constructor of its own."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


@dataclass(frozen=True)
class Frozen(Exception):
    """An error of which no attribute can be set, not even its notes."""

    code: int


class Mute(Exception):
    """An error that can't be shown."""

    def __repr__(self) -> str:
        raise AttributeError("no code")


class Faulty(gym.Env):
    """An environment that fails in some way once it has made so many steps."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str = "", at_step: int = 23, episode_length: int = 9, seconds: float = 0.0) -> None:
        self.fault, self.at_step, self.episode_length, self.seconds = fault, at_step, episode_length, seconds
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.fault == "reset" and self.n_steps >= self.at_step:
            raise Trouble(8, detail="in reset")
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n_steps += 1
        time.sleep(self.seconds)
        now = self.n_steps >= self.at_step
        obs, reward = self.np_random.normal(size=2).astype(np.float32), 1.0
        if self.fault == "step" and now:
            raise Trouble(7, detail="in step")
        if self.fault == "exit" and now:
            raise SystemExit(3)
        if self.fault == "frozen" and now:
            raise Frozen(9)
        if self.fault == "mute" and now:
            raise Mute("in step")
        if self.fault == "nan observation" and now:
            obs[1] = np.nan
        if self.fault == "inf reward" and now:
            reward = np.inf
        if self.fault == "huge reward" and now:
            reward = 1e39  # too much for a buffer of float32
        if self.fault == "wrong shape" and now:
            obs = np.zeros(3, np.float32)
        if self.fault == "wrong dtype" and now:
            obs = np.array(["left", "right"])
        return obs, reward, self.n_steps % self.episode_length == 0, False, {}

    def pid(self) -> int:
        return os.getpid()


def make_env(fault: str, faulty: int = 2, n_envs: int = N_ENVS, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv(
        [lambda i=i: Monitor(Faulty(fault if i == faulty else "", **kwargs)) for i in range(n_envs)]  # type: ignore[misc]
    )


def make_model(env: Any, backend: str, n_workers: int, **kwargs: Any) -> A3C:
    return A3C("MlpPolicy", env, backend=backend, n_workers=n_workers, seed=0, **kwargs)


def assert_ends(model: A3C, error: type[BaseException], match: str | None = None, **learn: Any) -> BaseException:
    """``learn()`` raises the error, long before it would have ended, and no worker is left."""
    with pytest.raises(error, match=match) as caught:
        model.learn(10_000_000, **learn)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("A3C worker")]
    return caught.value


def assert_whole(model: A3C, tmp_path: Any, heal: Callable[[], None] | None = None) -> None:
    """The model predicts, saves, loads and learns on; ``heal`` takes the fault out of its environments."""
    assert all(th.isfinite(param).all() for param in model.policy.parameters())
    if heal is not None:
        heal()
    assert model.env is not None
    model.predict(model.env.reset())  # type: ignore[arg-type]
    model.save(tmp_path / "model")
    A3C.load(tmp_path / "model")
    num_timesteps = model.num_timesteps
    model.learn(200, reset_num_timesteps=False)
    assert model.num_timesteps >= num_timesteps + 200
    assert all(th.isfinite(param).all() for param in model.policy.parameters())


def healed(model: A3C) -> Callable[[], None]:
    def heal() -> None:
        for env in model.env.unwrapped.envs:  # type: ignore[union-attr]
            env.unwrapped.fault = ""

    return heal


@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
@pytest.mark.parametrize("fault", ["step", "reset"])
def test_an_environments_error_is_the_callers(fault: str, backend: str, n_workers: int, tmp_path: Any) -> None:
    model = make_model(make_env(fault), backend, n_workers)
    error = assert_ends(model, Trouble, f"in {fault}")
    assert isinstance(error, Trouble) and error.code == (7 if fault == "step" else 8)
    worker = {1: 0, 2: 1, 4: 2}[n_workers]
    assert error.__notes__ == [f"raised in worker {worker} of A3C, environment 2"]
    shown = "".join(traceback.format_exception(error))
    assert "test_faults.py" in shown and f"in {fault}\n" in shown  # the worker's own traceback
    assert_whole(model, tmp_path, healed(model))


@pytest.mark.parametrize(("backend", "n_workers"), [*PLACES, pytest.param("ray", 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("fault", "error"), [("frozen", Frozen), ("mute", Mute)])
def test_an_error_that_is_hard_to_note(fault: str, error: type[Exception], backend: str, n_workers: int) -> None:
    """It is the caller's, and not an error of the notes."""
    raised = assert_ends(make_model(make_env(fault), backend, n_workers), error)
    assert any("raised in worker" in note for note in raised.__notes__)
    assert raised.args == ((9,) if error is Frozen else ("in step",))


@pytest.mark.parametrize("make_first", [partial(Frozen, 1), partial(Mute, "a"), partial(ValueError, "a")])
@pytest.mark.parametrize("make_second", [partial(Frozen, 2), partial(Mute, "b"), partial(ValueError, "b")])
def test_errors_that_are_hard_to_note_together(make_first: Callable, make_second: Callable) -> None:
    first, second = make_first(), make_second()
    stack = CleanupStack()
    stack.callback(partial(_raise, second))
    with pytest.raises(type(first)) as caught, stack, stack:
        raise first
    assert caught.value is first
    are_mute = isinstance(first, Mute) and isinstance(second, Mute)  # and seem to be the same
    assert len(getattr(first, "__notes__", [])) == (0 if are_mute else 1)


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
def test_an_environment_that_exits_ends_the_program_and_not_a_thread(backend: str, n_workers: int, tmp_path: Any) -> None:
    model = make_model(make_env("exit"), backend, n_workers)
    assert_ends(model, SystemExit)
    assert_whole(model, tmp_path, healed(model))


@pytest.mark.parametrize(("backend", "n_workers"), [("serial", 1), ("serial", 2), ("thread", 2), ("process", 2)])
def test_an_error_in_a_subprocess(backend: str, n_workers: int, tmp_path: Any, no_new_process: None) -> None:
    env = SubprocVecEnv([lambda i=i: Faulty("step" if i == 1 else "") for i in range(2)])  # type: ignore[misc]
    model = make_model(env, backend, n_workers)
    assert_ends(model, (EOFError, ConnectionError))  # type: ignore[arg-type]
    env.processes[0].terminate()  # SB3's close() would write to the process that failed
    for process in env.processes:
        process.join()
    model.set_env(make_env("", n_envs=2))
    assert_whole(model, tmp_path)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # VecNormalize's, of infinite rewards
@pytest.mark.parametrize(
    ("engine", "normalize"),
    [
        ("torch", False),
        ("fused", True),
        pytest.param("torch", True, marks=pytest.mark.slow),
        pytest.param("fused", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
@pytest.mark.parametrize("fault", ["nan observation", "inf reward"])
def test_a_gradient_that_is_not_finite_is_not_applied(
    fault: str, backend: str, n_workers: int, normalize: bool, engine: str, tmp_path: Any
) -> None:
    env = make_env(fault)
    model = make_model(VecNormalize(env) if normalize else env, backend, n_workers, engine=engine)
    error = assert_ends(model, NonFiniteError, f"environment 2 gave an? {fault.split()[1]} of ")
    text = str(error) + str(error.__notes__)
    assert "environment 2 " in text and "inf" in text and fault.split()[1] in text
    assert re.search(f"worker { ({1: 0, 2: 1, 4: 2}[n_workers]) } ", text)
    if normalize:
        assert model.env is not None
        assert all(np.isfinite(rms.mean).all() and np.isfinite(rms.var).all() for rms in running_statistics(model.env))
    assert_whole(model, tmp_path, healed(model))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's
@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
@pytest.mark.parametrize(
    ("fault", "kind", "match"),
    [
        ("huge reward", NonFiniteError, "gave a reward of inf"),
        ("wrong shape", ValueError, "could not broadcast"),
        ("wrong dtype", ValueError, "could not convert string"),
    ],
)
def test_what_environments_must_not_return(
    fault: str, kind: type[Exception], match: str, backend: str, n_workers: int, engine: str, tmp_path: Any
) -> None:
    model = make_model(make_env(fault), backend, n_workers, engine=engine)
    error = assert_ends(model, kind, match)
    text = str(error) + str(error.__notes__)
    assert "environment 2" in text and f"worker { ({1: 0, 2: 1, 4: 2}[n_workers]) } " in text
    assert_whole(model, tmp_path, healed(model))


class NaNAfter(FlattenExtractor):
    """A network whose gradient is NaN once it has been computed so often."""

    n_backward = 0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features = super().forward(observations).requires_grad_(True)
        if features.requires_grad and th.is_grad_enabled():
            features.register_hook(self.spoil)
        return features * self.scale

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space)
        self.scale = th.nn.Parameter(th.ones(1))

    def spoil(self, grad: th.Tensor) -> None:
        self.n_backward += 1
        if self.n_backward == 5:
            self.scale.register_hook(lambda grad: grad * th.nan)


@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
def test_a_gradient_that_goes_wrong_by_itself(backend: str, n_workers: int, tmp_path: Any) -> None:
    model = make_model(make_env(""), backend, n_workers, policy_kwargs=dict(features_extractor_class=NaNAfter))
    error = assert_ends(model, NonFiniteError, "though observations, rewards and values are")
    assert "worker" in error.__notes__[0]
    assert all(th.isfinite(param).all() for param in model.policy.parameters())
    model.save(tmp_path / "model")


class ZeroOverZero(FlattenExtractor):
    """Its weights have a gradient of zero, so that RMSprop with eps=0 divides zero by zero."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.unused = th.nn.Linear(2, 2)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations) + 0.0 * self.unused(observations)


@pytest.mark.parametrize(("backend", "n_workers"), [*PLACES, pytest.param("ray", 2, marks=pytest.mark.slow)])
def test_a_step_that_makes_parameters_not_finite_is_not_applied(backend: str, n_workers: int, tmp_path: Any) -> None:
    kwargs = dict(rms_prop_eps=0.0, policy_kwargs=dict(features_extractor_class=ZeroOverZero), engine="torch")
    model = make_model(make_env(""), backend, n_workers, **kwargs)
    error = assert_ends(
        model,
        NonFiniteError,
        r"the optimizer's step has made parameter \S*unused\.weight nan, .* \(RMSprop\w* with learning rate 0\.0007, "
        r".*eps=0\.0.*\)\. The step was not applied",
    )
    assert any("raised in worker" in note for note in error.__notes__)
    assert model._n_updates == 0
    model.policy.optimizer.param_groups[0]["eps"] = 1e-5
    assert_whole(model, tmp_path)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_in_place_that_makes_parameters_not_finite_is_told(compiled: bool) -> None:
    """After Hogwild's first step, which creates statistics."""
    kwargs = dict(rms_prop_eps=0.0, use_rms_prop=True, policy_kwargs=dict(activation_fn=th.nn.ReLU), use_locking=False)
    engine = "fused" if compiled else "torch"
    with pytest.raises(NonFiniteError, match=r"the optimizer's step has made parameter .* The step was applied"):
        make_model("CartPole-v1", "serial", 2, engine=engine, **kwargs).learn(2000)


def test_a_sum_of_parameters_that_overflows_is_no_error() -> None:
    """Nor are gaps between parameters that are not finite: RMSprop with eps=0 divides zero by zero there."""
    model = make_model("CartPole-v1", "serial", 2, engine="torch", rms_prop_eps=0.0)
    with th.no_grad():
        model.policy.action_net.bias.fill_(3e38)
    model.learn(200)
    assert th.isfinite(model.policy.action_net.bias).all()


@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
def test_an_error_in_a_callback(backend: str, n_workers: int, tmp_path: Any) -> None:
    class Failing(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 48:
                raise Trouble(9, detail="in a callback")
            return True

    model = make_model(make_env(""), backend, n_workers)
    error = assert_ends(model, Trouble, "in a callback", callback=Failing())
    assert not hasattr(error, "__notes__")  # no worker is to blame
    assert model.num_timesteps == 48
    assert_whole(model, tmp_path)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
def test_ctrl_c(backend: str, n_workers: int, watched: bool, tmp_path: Any) -> None:
    model = make_model(make_env("", seconds=0.001), backend, n_workers)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    assert_ends(model, KeyboardInterrupt, callback=(lambda *_: True) if watched else None)
    timer.join()
    assert_whole(model, tmp_path)


@pytest.mark.parametrize(("backend", "n_workers"), PLACES)
def test_a_callback_that_stops(backend: str, n_workers: int, tmp_path: Any) -> None:
    class Stop(BaseCallback):
        ended = 0
        rollouts = 0

        def _on_step(self) -> bool:
            return self.num_timesteps < 48

        def _on_rollout_end(self) -> None:
            self.rollouts += 1

        def _on_training_end(self) -> None:
            self.ended += 1

    model, stop = make_model(make_env(""), backend, n_workers), Stop()
    model.learn(1_000_000, callback=stop)
    assert (model.num_timesteps, stop.ended, stop.rollouts) == (48, 1, 2)  # 12 steps of 4 environments: 2 rollouts and 2 steps
    assert_whole(model, tmp_path)


def test_a_slow_environment_does_not_hide_anothers_error() -> None:
    """The main thread waits for worker 0, which is slow; worker 2's error ends the run all the same."""
    slow = [Faulty(seconds=0.5)] + [Faulty("step" if index == 2 else "") for index in range(1, N_ENVS)]
    model = make_model(DummyVecEnv([lambda env=env: env for env in slow]), "thread", N_ENVS, n_steps=100)  # type: ignore[misc]
    assert_ends(model, Trouble)
    assert slow[0].n_steps < 100  # it has not finished its rollout


def test_two_errors_are_both_told() -> None:
    both = threading.Barrier(2)

    class Together(Faulty):
        def step(self, action: np.ndarray) -> Any:
            if self.n_steps == 8:
                both.wait()
                raise Trouble(1, detail="together")
            return super().step(action)

    model = make_model(DummyVecEnv([Together, Together]), "thread", 2)
    error = assert_ends(model, Trouble)
    assert any("another worker failed too: Trouble" in note for note in error.__notes__)


def test_an_error_after_a_callback_stopped_is_still_raised() -> None:
    """Worker 1 fails while the main thread is still in the callback that will stop."""
    failed = threading.Event()

    class Late(Faulty):
        def step(self, action: np.ndarray) -> Any:
            if self.n_steps == 30:
                failed.set()
                raise Trouble(2, detail="late")
            return super().step(action)

    def stop(locals_: dict, _: dict) -> bool:
        failed.wait()
        time.sleep(0.1)
        return False

    model = make_model(DummyVecEnv([Faulty, Late]), "thread", 2)
    assert_ends(model, Trouble, "late", callback=stop)


def test_a_step_that_takes_long_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.backends.threads._PATIENCE", 0.05)
    model = make_model(DummyVecEnv([lambda: Faulty(seconds=0.5), lambda: Faulty("step")]), "thread", 2)
    with pytest.warns(UserWarning, match="A3C worker 0 is still in a step of its environment"):
        assert_ends(model, Trouble)

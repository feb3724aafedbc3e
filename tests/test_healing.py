"""A worker process that dies is replaced: training goes on, each rollout counts once, and nobody waits for ever."""

import ctypes
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_a3c import A3C, WorkerDied

REPLACED = "ignore:the process of worker .* is replaced:UserWarning"
START_METHODS = ["forkserver", "spawn", "fork"]


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.backends.process.restarts._FIRST_DELAY", 0.01)


class Counting(gym.Env):
    """An environment whose steps can be told apart: by the process that made them, their number and their noise."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.n_steps, self.mark = seconds, 0, "old"

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self.seconds)
        self.n_steps += 1
        obs = self.np_random.normal(size=2).astype(np.float32)
        return obs, 1.0, self.n_steps % 9 == 0, False, {"pid": os.getpid(), "n_steps": self.n_steps}

    def pid(self) -> int:
        return os.getpid()


class Watching(BaseCallback):
    """Notes all that it sees, and does something once in so many calls."""

    def __init__(self, every: int = 1, act: Callable[[int], None] = lambda n_calls: None) -> None:
        super().__init__()
        self.every, self.act, self.is_over = every, act, False
        self.n_steps_seen: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.observations: list[np.ndarray] = []

    def _on_step(self) -> bool:
        for env, info in zip(self.locals["env_indices"], self.locals["infos"], strict=True):
            self.n_steps_seen[env, info["pid"]].append(info["n_steps"])
        self.observations.append(self.locals["new_obs"])
        if self.n_calls % self.every == 0:
            self.act(self.n_calls // self.every)
        return not self.is_over


def make_model(env: VecEnv, start_method: str = "forkserver", max_restarts: int = 10, **kwargs: Any) -> A3C:
    """Workers are not far ahead, so that one that is killed still has something to do."""
    options = dict(start_method=start_method, max_restarts=max_restarts, **kwargs.pop("backend_kwargs", {}))
    return A3C("MlpPolicy", env, backend="process", backend_kwargs=options, seed=0, **{"max_lead": 0, **kwargs})


def make_env(n_envs: int = 4, seconds: float = 0.0) -> DummyVecEnv:
    return DummyVecEnv([lambda: Counting(seconds)] * n_envs)


def processes(worker: int | str = "") -> list[Any]:
    return [p for p in multiprocessing.active_children() if p.name.startswith(f"A3C worker {worker}")]


def assert_counted_once(model: A3C, watching: Watching, total_timesteps: int, in_order: bool = True) -> None:
    """
    Callbacks have seen as many steps as there should be; of each process a beginning without gaps, each step once. (In order
    "arrival" two rollouts of a worker may be shown beside each other.)
    """
    n_envs = model.n_envs
    assert model.num_timesteps == total_timesteps
    assert watching.n_calls == total_timesteps // n_envs
    for seen in watching.n_steps_seen.values():
        assert (seen if in_order else sorted(seen)) == list(range(1, len(seen) + 1))
    assert all(th.isfinite(param).all() for param in model.policy.parameters())


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.filterwarnings("ignore:environment . will begin anew")
def test_many_kills(start_method: str = "forkserver", rollout_order: str = "arrival", n_kills: int = 20) -> None:
    """At random points of the workers' lives; some have just been started."""
    rng = random.Random(0)
    killed: set[int] = set()
    n_calls_at_the_end: list[int] = []

    def kill(n_calls: int) -> None:
        """One process at a time, until there have been so many; then go on until a replacement has been seen, and a while."""
        alive = [process for process in processes() if process.pid not in killed]
        if len(killed) < n_kills and alive:
            time.sleep(rng.uniform(0, 0.003))
            process = rng.choice(alive)
            killed.add(process.pid)
            process.kill()
        if len(killed) == n_kills:
            n_calls_at_the_end.append(n_calls)
            replaced = len(watching.n_steps_seen) > model.n_envs
            watching.is_over = replaced and n_calls >= n_calls_at_the_end[0] + 10

    model = make_model(
        make_env(seconds=0.0005), start_method, max_restarts=2 * n_kills, rollout_order=rollout_order, max_lead=3
    )
    watching = Watching(20, kill)
    model.learn(10_000_000, callback=watching, log_interval=None)
    assert_counted_once(model, watching, watching.n_calls * model.n_envs, in_order=rollout_order == "env")
    # The last death of each of the four workers may not have been found before the end.
    assert n_kills - 4 <= model.logger.name_to_value["async/restarts"] <= n_kills
    observations = np.concatenate(watching.observations)
    assert len(np.unique(observations, axis=0)) == len(observations)  # no process repeats another's noise


@pytest.mark.slow
@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.filterwarnings("ignore:environment . will begin anew")
@pytest.mark.parametrize(
    ("start_method", "rollout_order", "n_kills"),
    [
        ("forkserver", "arrival", 100),
        ("forkserver", "env", 100),
        ("spawn", "env", 12),
        ("spawn", "arrival", 12),
        ("fork", "env", 30),
        ("fork", "arrival", 30),
    ],
)
def test_kills_by_start_method_and_order(start_method: str, rollout_order: str, n_kills: int) -> None:
    test_many_kills(start_method, rollout_order, n_kills)


class Dying(Counting):
    """An environment that ends the process that it is in, once, in the middle of a rollout."""

    def __init__(self, flag: Path) -> None:
        super().__init__(seconds=0.01)  # so that its rollouts are sent by then
        self.flag = str(flag)

    def step(self, action: np.ndarray) -> Any:
        if self.n_steps == 23 and os.path.exists(self.flag):
            os.remove(self.flag)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


@pytest.mark.parametrize(
    "start_method", [pytest.param(method, marks=[pytest.mark.slow] if method == "spawn" else []) for method in START_METHODS]
)
@pytest.mark.parametrize("watched", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_killed_worker_is_replaced(start_method: str, watched: bool, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    model = make_model(DummyVecEnv([Counting, lambda: Dying(flag), Counting]), start_method)
    watching = Watching()
    message = (
        r"the process of worker 1, which steps environment 1, was killed by SIGKILL\. It is replaced now, and its "
        r"environments begin anew \(restart 1 of at most 10\)"
    )
    with pytest.warns(UserWarning, match=message):
        model.learn(600, callback=watching if watched else None)
    assert not flag.exists()
    assert model.num_timesteps == 600
    if watched:
        assert_counted_once(model, watching, 600)
        assert len(watching.n_steps_seen) == 4
    assert model._last_obs is not None and model.env is not None
    assert [env.n_steps for env in model.env.envs][::2] == [200, 200]  # type: ignore[attr-defined]
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 660


class Suicidal(Counting):
    """An environment that ends each process that it is in."""

    def __init__(self, at_step: int) -> None:
        super().__init__()
        self.at_step = at_step

    def step(self, action: np.ndarray) -> Any:
        if self.n_steps == self.at_step:
            os._exit(7)
        return super().step(action)


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.parametrize("at_step", [2, 12])
def test_there_is_an_end_to_it(at_step: int) -> None:
    """Whether or not the processes finish rollouts before they die."""
    model = make_model(DummyVecEnv([Counting, lambda: Suicidal(at_step)]), max_restarts=2)
    with pytest.raises(WorkerDied, match=r"It was not restarted again: max_restarts=2 is reached") as caught:
        model.learn(10_000_000)
    deaths = re.findall(r"^\d+\.\d s: the process of worker 1, .* ended by itself \(exit code 7\)$", str(caught.value), re.M)
    assert len(deaths) == 3
    model.predict(np.zeros((2, 2), np.float32))
    model.set_env(make_env(2))
    model.learn(40, reset_num_timesteps=False)


class Grudging(Counting):
    """An environment that can't be reset a second time."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        if self.n_steps == 0 and getattr(self, "was_reset", False):
            raise LookupError("not again")
        self.was_reset = True
        return super().reset(seed=seed)


@pytest.mark.filterwarnings(REPLACED)
def test_an_error_while_a_worker_is_replaced_is_the_callers() -> None:
    model = make_model(DummyVecEnv([Counting, Grudging]))
    watching = Watching(4, lambda n: processes(1)[0].kill() if n == 1 else None)
    with pytest.raises(LookupError, match="not again") as caught:
        model.learn(10_000_000, callback=watching)
    assert "raised while the process of A3C worker 1 was starting" in caught.value.__notes__


@pytest.mark.filterwarnings(REPLACED)
def test_calls_of_environments_while_a_worker_is_replaced() -> None:
    """They are asked of the new one."""
    old: list[int] = []

    def act(n_calls: int) -> None:
        assert model.env is not None
        if n_calls == 1:
            old.extend(model.env.env_method("pid"))
            os.kill(old[1], signal.SIGKILL)
            model.env.set_attr("mark", "new")
            assert model.env.get_attr("mark") == ["new"] * 3
            new = model.env.env_method("pid")
            assert new[1] != old[1] and new[::2] == old[::2]

    model = make_model(make_env(3, seconds=0.01))
    watching = Watching(10, act)
    model.learn(150, callback=watching)
    assert_counted_once(model, watching, 150)


@pytest.mark.filterwarnings(REPLACED)
def test_a_call_that_kills_is_an_error_in_the_end() -> None:
    class Fragile(Counting):
        def touch(self) -> None:
            os._exit(5)

    def touch(_: int) -> None:
        assert model.env is not None
        model.env.env_method("touch", indices=1)

    model = make_model(DummyVecEnv([Fragile] * 2), max_restarts=2)
    with pytest.raises(WorkerDied, match=r"exit code 5(.|\n)*max_restarts=2"):
        model.learn(1_000_000, callback=Watching(20, touch))


@pytest.mark.filterwarnings(REPLACED)
def test_a_new_worker_learns_with_the_hyperparameters_of_now() -> None:
    rates: list[float] = []

    def act(n_calls: int) -> None:
        if n_calls == 1:
            model.lr_schedule = lambda _: 0.25
        if n_calls == 4:
            processes(1)[0].kill()
        rates.append(model.logger.name_to_value["train/learning_rate"])

    model = make_model(make_env(2))
    model.learn(400, callback=Watching(10, act), log_interval=None)
    assert rates[-5:] == [0.25] * 5


class Marathon(Counting):
    """An environment in a process of its own, which may be in the middle of a step."""

    def __init__(self) -> None:
        super().__init__(seconds=0.01)


@pytest.mark.filterwarnings(REPLACED)
def test_environments_in_processes_of_their_own_go_on() -> None:
    env = SubprocVecEnv([Marathon] * 4)
    pids = env.env_method("pid")
    watching = Watching(7, lambda n: processes(n % 2)[0].kill() if n in (2, 3, 4) else None)
    model = make_model(env, n_workers=2)
    model.learn(400, callback=watching)
    assert model.num_timesteps == 400 and watching.n_calls == 100
    assert env.env_method("pid") == pids
    # What a worker had not sent was made, but nobody has seen it; nothing was seen twice.
    assert all(sorted(set(seen)) == seen for seen in watching.n_steps_seen.values())
    model.learn(40, reset_num_timesteps=False)
    env.close()


@pytest.mark.filterwarnings(REPLACED)
def test_an_environments_own_process_that_dies_is_an_error() -> None:
    env = SubprocVecEnv([Marathon] * 2)
    pids = env.env_method("pid")
    model = make_model(env)
    with pytest.raises((EOFError, ConnectionResetError, BrokenPipeError)):
        model.learn(10_000_000, callback=Watching(9, lambda n: os.kill(pids[1], signal.SIGKILL) if n == 1 else None))
    env.processes[1].join()


@pytest.mark.filterwarnings(REPLACED)
def test_when_the_fork_server_dies_others_take_its_place() -> None:
    def act(n_calls: int) -> None:
        assert model.env is not None
        if n_calls == 1:
            server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
            os.kill(server, signal.SIGKILL)
        if n_calls == 2:
            os.kill(model.env.env_method("pid")[1], signal.SIGKILL)

    model = make_model(make_env(3, seconds=0.001))
    watching = Watching(30, act)
    model.learn(300, callback=watching)
    assert_counted_once(model, watching, 300)
    assert len(watching.n_steps_seen) == 4


class Hanging(Counting):
    """An environment that never returns from a step, in one process."""

    def __init__(self, flag: Path, holds_the_gil: bool = False) -> None:
        super().__init__()
        self.flag, self.holds_the_gil = str(flag), holds_the_gil

    def step(self, action: np.ndarray) -> Any:
        if self.n_steps == 12 and os.path.exists(self.flag):
            os.remove(self.flag)
            ctypes.PyDLL(None).sleep(1000) if self.holds_the_gil else time.sleep(1000)
        return super().step(action)


@pytest.mark.filterwarnings(REPLACED)  # on a busy machine, the other worker may be late, too
@pytest.mark.parametrize("holds_the_gil", [False, True])
def test_a_worker_that_does_not_answer_is_replaced(holds_the_gil: bool, tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    model = make_model(
        DummyVecEnv([Counting, lambda: Hanging(tmp_path / "flag", holds_the_gil)]),
        max_restarts=1000,
        backend_kwargs=dict(worker_timeout=1.0),
    )
    watching = Watching()
    where = r"does not answer" if holds_the_gil else r"in the middle of:(.|\n)*time\.sleep\(1000\)"
    message = (
        rf"worker 1, .* was killed, because it had not finished a rollout for [0-9.]* s \(worker_timeout=1\)\. (.|\n)*{where}"
    )
    with pytest.warns(UserWarning, match=message):
        model.learn(200, callback=watching)
    assert_counted_once(model, watching, 200)


class Pausing(Counting):
    """An environment with one step that takes long."""

    def step(self, action: np.ndarray) -> Any:
        if self.n_steps == 12:
            time.sleep(2.5)
        return super().step(action)


@pytest.mark.filterwarnings("ignore:worker ., which steps environment ., has not:UserWarning")
def test_a_worker_that_does_not_answer_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.backends.process.watchdog._REPORT_AFTER", 0.5)
    monkeypatch.setattr("sb3_a3c.backends.process.watchdog._CHECK_EVERY", 0.1)

    model = make_model(DummyVecEnv([Counting, Pausing]))
    with pytest.warns(
        UserWarning, match=r"worker 1, .* has not finished a rollout for \d+ s(.|\n)*time\.sleep\(2\.5\)"
    ) as told:
        model.learn(100)
    assert sum("time.sleep(2.5)" in str(warning.message) for warning in told) == 1 and model.num_timesteps == 100


@pytest.mark.filterwarnings(REPLACED)
def test_a_call_that_never_returns_is_ended(tmp_path: Path) -> None:
    class Endless(Counting):
        def wait(self) -> None:
            if os.path.exists(tmp_path / "flag"):
                os.remove(tmp_path / "flag")
                time.sleep(1000)

    def ask(n_calls: int) -> None:
        assert model.env is not None
        model.env.env_method("wait", indices=1)

    (tmp_path / "flag").touch()
    model = make_model(DummyVecEnv([Endless] * 2), max_restarts=1000, backend_kwargs=dict(worker_timeout=0.5))
    watching = Watching(20, ask)
    with pytest.warns(
        UserWarning,
        match=r"was killed, because it had not (answered a call|finished a rollout) for .* s \(worker_timeout=0.5\)",
    ):
        model.learn(200, callback=watching)
    assert_counted_once(model, watching, 200)


@pytest.mark.filterwarnings(REPLACED)
def test_statistics_go_on() -> None:
    """Each update's batches are counted once, also where its rollout was lost; those of unfinished rollouts are not."""
    env = VecNormalize(make_env(2, seconds=0.001))
    killed: set[int] = set()

    def kill(n_calls: int) -> None:
        alive = processes(1)
        if n_calls % 2 and alive:
            killed.add(alive[0].pid)
            alive[0].kill()

    watching = Watching(20, kill)
    model = make_model(env)
    model.learn(400, callback=watching, log_interval=None)
    n_restarts = model.logger.name_to_value["async/restarts"]
    assert 1 <= len(killed) - 1 <= n_restarts <= len(killed)  # the last death may not have been found before the end
    n_known = 400 + 2 + n_restarts
    assert n_known <= round(env.obs_rms.count) <= n_known + n_restarts * 65 * 5  # type: ignore[union-attr]
    assert (round(env.obs_rms.count) - n_known) % 5 == 0  # type: ignore[union-attr]


@pytest.mark.filterwarnings(REPLACED)
def test_restarts_leave_nothing_behind() -> None:
    """No thread, and no file handle, of which shared memory is made too."""
    process, counts = psutil.Process(), []
    for n_kills in (1, 1, 4):
        model = make_model(make_env(2))
        watching = Watching(10, lambda n, n_kills=n_kills: processes(1)[0].kill() if n <= n_kills else None)  # type: ignore[misc]
        model.learn(120, callback=watching)
        assert_counted_once(model, watching, 120)
        counts.append((process.num_fds(), threading.active_count()))
    assert counts[1] == counts[2]


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("max_restarts", -1, "a whole number of at least 0"),
        ("max_restarts", 1.5, "a whole number of at least 0"),
        ("max_restarts", True, "a whole number of at least 0"),
        ("max_restarts", None, "a whole number of at least 0"),
        ("worker_timeout", 0, "None or a number of seconds above 0"),
        ("worker_timeout", float("nan"), "None or a number of seconds above 0"),
        ("worker_timeout", float("inf"), "None or a number of seconds above 0"),
        ("worker_timeout", "60", "None or a number of seconds above 0"),
    ],
)
def test_bad_options(option: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"backend_kwargs['{option}'] must be {allowed}, but it is {value!r}")):
        A3C("MlpPolicy", make_env(2), backend="process", backend_kwargs={option: value})

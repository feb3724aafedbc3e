"""Environments that own processes, files or connections: whoever drops one closes it, and nothing that is still used."""

import os
import subprocess
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_a3c import A3C

#: Seconds that a simulator sleeps. Tells those of this test process from others.
_NAME = f"{1000 + os.getpid() / 10**7:.7f}"


def simulators() -> list[psutil.Process]:
    """Those that are alive, whoever has started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[1:] == [_NAME] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True)
def no_simulator_is_left() -> Iterator[None]:
    yield
    left = simulators()
    for process in left:
        process.kill()
    assert not left


class Simulated(gym.Env):
    """Owns a simulator, a process; so does each copy of it."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    trouble = ""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        self.start()

    def start(self) -> None:
        self.simulator: subprocess.Popen | None = subprocess.Popen(["sleep", _NAME])
        self.total = 0

    def __getstate__(self) -> dict[str, Any]:
        if self.trouble == "return" and self.total > 0:
            raise RuntimeError("can't be pickled any more")
        return {name: value for name, value in vars(self).items() if name != "simulator"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.start()
        vars(self).update(state)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        assert self.simulator is not None and self.simulator.poll() is None
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        assert self.simulator is not None and self.simulator.poll() is None
        self.total += 1
        if (self.trouble, self.total) in (("first step", 1), ("step", 7)):
            raise ArithmeticError(self.trouble)
        return np.zeros(1, np.float32), 1.0, self.total % 5 == 0, False, {}

    def close(self) -> None:
        if self.simulator is not None:
            self.simulator.kill()
            self.simulator.wait()
            self.simulator = None
            if self.trouble == "close":
                raise OSError("the simulator does not answer")


def simulated(trouble: str = "", n_envs: int = 2) -> DummyVecEnv:
    return DummyVecEnv([lambda: Simulated(trouble)] * n_envs)


def closed(venv: Any) -> None:
    venv.close()
    assert not simulators()


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_as_many_simulators_as_environments(backend: str) -> None:
    venv = VecNormalize(simulated())
    model = A3C("MlpPolicy", venv, backend=backend)
    for n_runs in (1, 2, 3):
        model.learn(20, reset_num_timesteps=False)
        assert len(simulators()) == 2
        assert venv.get_attr("total") == [10 * n_runs] * 2
    closed(venv)


@pytest.mark.parametrize("trouble", ["first step", "step"])
def test_after_an_error_too(trouble: str) -> None:
    venv = simulated(trouble)
    model = A3C("MlpPolicy", venv, backend="process")
    with pytest.raises(ArithmeticError, match=trouble):
        model.learn(40)
    assert len(simulators()) == 2
    venv.set_attr("trouble", "")
    model.learn(20)
    assert len(simulators()) == 2
    closed(venv)


def test_of_environments_that_cannot_come_back_the_originals_stay() -> None:
    venv = simulated("return")
    model = A3C("MlpPolicy", venv, backend="process")
    with pytest.warns(UserWarning, match="begin anew: it can't be brought back"):
        model.learn(20)
    assert len(simulators()) == 2
    assert venv.get_attr("total") == [0, 0]
    closed(venv)


def test_a_worker_that_dies_has_taken_its_simulators_along_and_the_originals_stay() -> None:
    class Dies(Simulated):
        def step(self, action: int) -> Any:
            if self.total == 7:
                self.close()  # the system gives orphans to whoever has them next: nobody can close these
                os._exit(3)
            return super().step(action)

    venv = DummyVecEnv([Dies, Simulated])
    with pytest.raises(RuntimeError, match="exit code 3"):
        A3C("MlpPolicy", venv, backend="process", backend_kwargs=dict(max_restarts=0)).learn(40)
    assert len(simulators()) == 2
    closed(venv)


def test_a_close_that_fails_is_a_warning() -> None:
    venv = simulated("close")
    model = A3C("MlpPolicy", venv, backend="process")
    with pytest.warns(UserWarning, match=r"Simulated.close\(\) failed \(OSError: the simulator does not answer\)") as warned:
        model.learn(20)
    texts = {str(warning.message).split(",")[0] for warning in warned}
    assert texts == {"in a worker's process", "environments were replaced by their copies from a worker's process"}
    venv.set_attr("trouble", "")
    closed(venv)


class Connected(Simulated):
    """Has a pipe to a simulator that is not its own, and tells it when it closes."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.total = connection, 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def step(self, action: int) -> Any:
        self.total += 1
        self.connection.send("step")
        return np.zeros(1, np.float32), 1.0, self.total % 5 == 0, False, {}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return np.zeros(1, np.float32), {}

    def close(self) -> None:
        self.connection.send("close")
        self.connection.close()


def test_what_is_shared_stays_open(tmp_path: Path) -> None:
    """The file that Monitor writes, and a pipe: the environment that has come back has the very same."""
    ours, theirs = Pipe()
    envs = [Monitor(Simulated(), str(tmp_path / "one")), Monitor(Connected(theirs), str(tmp_path / "two"))]
    venv = DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]
    model = A3C("MlpPolicy", venv, backend="process")
    for n_runs in (1, 2):
        model.learn(20, reset_num_timesteps=n_runs == 1)
        assert len(load_results(str(tmp_path))) == 4 * n_runs
    closed(venv)
    heard = []
    with pytest.raises(EOFError):
        while True:
            heard.append(ours.recv())
    assert heard == ["step"] * 20 + ["close"]
    ours.close()


def test_a_worker_that_has_done_nothing_leaves_its_environments_as_they_were() -> None:
    """The first worker fails at its first step, and the second has waited for it."""
    venv = DummyVecEnv([lambda: Simulated("first step"), lambda: Simulated()])
    model = A3C("MlpPolicy", venv, backend="process", max_lead=0)
    originals = list(venv.envs)
    with pytest.raises(ArithmeticError, match="first step"):
        model.learn(40)
    assert venv.envs[0] is originals[0]
    assert venv.envs[1] is originals[1] or venv.get_attr("total", 1)[0] > 0
    assert len(simulators()) == 2
    closed(venv)


def test_what_a_callback_sets_comes_back_though_no_step_was_made() -> None:
    class Sets(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.training_env.set_attr("trouble", "none any more")
            raise InterruptedError

    venv = simulated("return")
    with pytest.raises(InterruptedError):
        A3C("MlpPolicy", venv, backend="process").learn(20, Sets())
    assert venv.get_attr("trouble") == ["none any more"] * 2
    closed(venv)

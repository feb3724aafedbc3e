"""What is particular to workers in processes: how they start, what they are handed and give back, and how they die."""

import gc
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from test_faults import Faulty, Frozen, make_env

from sb3_a3c import A3C, WorkerDied
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.messages import Rollouts, decode, encode
from sb3_a3c.backends.process.runner import explained
from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.system.notes import add_note
from sb3_a3c.worker.rollout import Rollout, States, Steps, arrays_of, lighten
from sb3_a3c.worker.worker import Worker

SHARED_MEMORY = Path("/dev/shm")
#: Workers that die are not replaced (``test_healing.py`` has those that are).
MORTAL = dict(backend_kwargs=dict(max_restarts=0))


def make_model(env: Any, **kwargs: Any) -> A3C:
    return A3C("MlpPolicy", env, backend="process", seed=0, **kwargs)


def shared_memory() -> set[str]:
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.exists() else set()


def run_script(tmp_path: Path, text: str, **kwargs: Any) -> subprocess.Popen:
    """Start a program of its own, of which each process imports the script again."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_start_after_a_backward_pass(start_method: str) -> None:
    th.ones(1, requires_grad=True).sum().backward()
    model = make_model(make_vec_env("CartPole-v1", n_envs=2), backend_kwargs=dict(start_method=start_method)).learn(200)
    assert model.num_timesteps == 200 and model._n_updates == 40


def test_a_fork_after_a_backward_pass_works_or_is_explained() -> None:
    """It is refused where torch has threads for devices, which a fork loses: with a GPU, and not on the CPU alone."""
    th.ones(1, requires_grad=True).sum().backward()
    model = make_model(make_vec_env("CartPole-v1", n_envs=2), backend_kwargs=dict(start_method="fork"))
    explanation = r"once this program has made a backward pass with torch .* Use 'forkserver' or 'spawn'"
    try:
        assert model.learn(200).num_timesteps == 200
    except RuntimeError as error:
        assert re.search(explanation, str(error)) and "raised in worker" in error.__notes__[0]
    theirs = "Unable to handle autograd's threading in combination with fork-based multiprocessing. See https://pytorch.org"
    assert re.search(explanation, str(explained(RuntimeError(theirs))))
    other = RuntimeError("fork")
    assert explained(other) is other


SCRIPT = """
    from stable_baselines3.common.env_util import make_vec_env
    from sb3_a3c import A3C

    def learn(**kwargs):
        model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), backend="process", **kwargs)
        print(model.learn(200, log_interval=None).num_timesteps)
"""


def test_a_fork_before_any_backward_pass(tmp_path: Path) -> None:
    process = run_script(tmp_path, SCRIPT + "\n    learn(backend_kwargs=dict(start_method='fork'))")
    out, err = process.communicate(timeout=600)
    assert (out, err, process.returncode) == ("200\n", "", 0)


@pytest.mark.parametrize("width", [64, 256], ids=["small", "large"])
@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_script_without_a_guard_is_told(start_method: str, width: int, tmp_path: Path) -> None:
    """Its processes exit before they have read anything. The large policy is larger than the buffer of a pipe (64 kB)."""
    kwargs = dict(backend_kwargs=dict(start_method=start_method), policy_kwargs=dict(net_arch=[width, width]))
    process = run_script(tmp_path, SCRIPT + f"\n    learn(**{kwargs})")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "will begin anew" not in err  # the environments have made no step
    last = err[err.rindex("WorkerDied") :]
    assert "ended by itself (exit code 1) before it was ready" in last and 'if __name__ == "__main__":' in last


@pytest.mark.slow
def test_a_script_without_a_guard_that_learns_in_threads_first_is_told(tmp_path: Path) -> None:
    """Each new process learns again, in silence, before it gets to the line that would start another."""
    first = '\n    A3C("MlpPolicy", "CartPole-v1", n_workers=1).learn(20)'
    process = run_script(tmp_path, SCRIPT + first + "\n    learn(backend_kwargs=dict(start_method='spawn'))")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err.count("UserWarning: learn() is called while a new process imports the script that started it.") >= 1
    assert "The script that is run needs a guard" in err


def test_a_script_on_standard_input_is_told_what_to_do() -> None:
    script = textwrap.dedent(SCRIPT + "\n    learn()")
    process = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    assert process.returncode == 1 and "The program is not in a file that new processes can import" in process.stderr


def _learn_twice(_: int) -> tuple[str, int]:
    model = make_model(make_vec_env("CartPole-v1", n_envs=2))
    try:
        model.learn(20)
    except ValueError as error:
        model.backend = "thread"
        return str(error), model.learn(20).num_timesteps
    return "", model.num_timesteps


def test_a_process_that_may_have_no_children_is_told() -> None:
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        message, num_timesteps = pool.map(_learn_twice, [0])[0]
    assert message.startswith("backend must be 'thread' or 'serial' in a daemonic process") and num_timesteps == 20


class StartsProcesses(gym.Wrapper):
    """Its first step starts a process, as environments with a simulator do."""

    has_stepped = False

    def step(self, action: Any) -> Any:
        if not self.has_stepped:
            self.has_stepped = True
            process = multiprocessing.Process(target=os._exit, args=(3,))
            process.start()
            process.join()
            assert process.exitcode == 3
        return super().step(action)


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_environments_may_start_processes(start_method: str) -> None:
    """``current_process().daemon`` can be set by a process about itself. Checked against Python 3.11."""
    env = make_vec_env("CartPole-v1", n_envs=2, wrapper_class=StartsProcesses)
    model = make_model(env, backend_kwargs=dict(start_method=start_method)).learn(40)
    assert model.num_timesteps == 40


@pytest.mark.filterwarnings("ignore:the process of worker .* is replaced:UserWarning")
@pytest.mark.filterwarnings("ignore:environments . to . will begin anew:UserWarning")
def test_processes_of_an_asynchronous_vector_env_end_with_their_worker() -> None:
    """At the end of the run, and if the worker is killed: nobody holds the other ends of their pipes any more."""
    found: dict[int, list[psutil.Process]] = {}

    def kill_one(locals_: dict[str, Any], _: dict[str, Any]) -> bool:
        workers = [p for p in multiprocessing.active_children() if p.name.startswith("A3C worker") and p.pid not in found]
        for worker in workers:
            if len(children := psutil.Process(worker.pid).children(recursive=True)) == 3:  # one is a fork server
                found[worker.pid] = children
                if len(found) == 2:
                    worker.kill()
        return len(found) < 3

    make = partial(gym.make_vec, "CartPole-v1", num_envs=2, vectorization_mode="async")
    model = A3C("MlpPolicy", make, n_workers=2, backend="process", seed=0, max_lead=0)
    model.learn(10_000_000, callback=kill_one, log_interval=None)
    _, alive = psutil.wait_procs([child for children in found.values() for child in children], timeout=300)
    assert not alive
    assert model.env is not None
    model.env.close()


@pytest.mark.slow
def test_a_script_with_a_guard_and_its_own_classes(tmp_path: Path) -> None:
    """Environments, errors and schedules are defined in the script itself."""
    process = run_script(
        tmp_path,
        """
        import gymnasium as gym
        from stable_baselines3.common.vec_env import DummyVecEnv
        from sb3_a3c import A3C

        class Odd(Exception):
            pass

        class Env(gym.Wrapper):
            n_steps = 0
            def step(self, action):
                self.n_steps += 1
                if self.n_steps == 100:
                    raise Odd("as it was")
                return super().step(action)

        if __name__ == "__main__":
            env = DummyVecEnv([lambda: Env(gym.make("CartPole-v1"))] * 2)
            model = A3C("MlpPolicy", env, learning_rate=lambda left: 1e-3 * left, backend="process")
            try:
                model.learn(1000)
            except Odd as error:
                print(error)
        """,
    )
    out, err = process.communicate(timeout=600)
    assert (out, err, process.returncode) == ("as it was\n", "", 0)


class Killer(Faulty):
    """An environment that ends its own process, as the system does when memory is short."""

    def step(self, action: np.ndarray) -> Any:
        if self.fault and self.n_steps == self.at_step:
            os.kill(os.getpid(), signal.SIGKILL) if self.fault == "kill" else os._exit(3)
        return super().step(action)


@pytest.mark.parametrize(("fault", "how"), [("kill", "was killed by SIGKILL"), ("die", r"ended by itself \(exit code 3\)")])
@pytest.mark.parametrize("watched", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_is_found_at_once(fault: str, how: str, watched: bool, tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda f=f: Killer(f) for f in ("", fault, "")]))  # type: ignore[misc]
    model = make_model(env, **MORTAL)
    with pytest.raises(WorkerDied, match=f"the process of worker 1, which steps environment 1, {how}"):
        model.learn(10_000_000, callback=(lambda *_: True) if watched else None)
    model.save(tmp_path / "model")
    env.env_method("__setattr__", "fault", "")
    model.learn(300, reset_num_timesteps=False)


def test_a_worker_killed_from_outside() -> None:
    model = make_model(make_env("", seconds=0.001), **MORTAL)

    def kill(locals_: dict, _: dict) -> bool:
        if model.num_timesteps == 200:
            pid = model.env.env_method("pid", indices=3)  # type: ignore[union-attr]
            os.kill(pid[0], signal.SIGKILL)
        return True

    with pytest.raises(WorkerDied, match=r"worker 3, .* was killed by SIGKILL"):
        model.learn(10_000_000, callback=kill)


def test_a_subproc_vec_env_can_be_used_after_its_worker_was_killed() -> None:
    env = SubprocVecEnv([lambda: Faulty(seconds=0.02)] * 4)
    model = make_model(env, n_workers=2, **MORTAL)

    def kill(*_: Any) -> bool:
        if model.num_timesteps == 40:
            (worker,) = [p for p in multiprocessing.active_children() if p.name == "A3C worker 1"]
            time.sleep(0.01)
            worker.kill()
        return True

    with pytest.raises(WorkerDied, match="worker 1, which steps environments 2 to 3, was killed by SIGKILL"):
        model.learn(10_000, callback=kill)
    assert env.reset().shape == (4, 2)
    model.learn(100, reset_num_timesteps=False)
    env.close()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_ends_the_main_one(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        """
        from stable_baselines3.common.env_util import make_vec_env
        from sb3_a3c import A3C

        def tell(*_):
            if model.num_timesteps == 200:
                print("here", flush=True)
            return True

        if __name__ == "__main__":
            model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), backend="process")
            try:
                model.learn(10_000_000, callback=tell, log_interval=None)
            except KeyboardInterrupt:
                print(model._last_obs.shape)
        """,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert (out, err, process.returncode) == ("(2, 4)\n", "", 0)


def test_environments_that_cannot_be_handed_over() -> None:
    env = make_env("")
    env.envs[1].unwrapped.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"environment 1, .*cannot pickle.*SubprocVecEnv, which takes constructors"):
        make_model(env).learn(100)
    make_model(SubprocVecEnv([Faulty, Faulty])).learn(100).env.close()  # type: ignore[union-attr]


class Homebound(Faulty):
    """An environment that can't be unpickled elsewhere."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "home": os.getpid()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["home"] != os.getpid():
            raise LookupError("away from home")
        self.__dict__.update(state)


def test_environments_that_cannot_be_received() -> None:
    env = DummyVecEnv([Faulty, Homebound])
    model = make_model(env)
    with pytest.raises(LookupError, match="away from home") as caught:
        model.learn(100)
    advice, place = caught.value.__notes__
    assert "were unpickled" in advice and "use a SubprocVecEnv" in advice
    assert place == "raised while the process of A3C worker 1 was starting"
    model.backend = "thread"
    assert model.learn(100).num_timesteps == 100


class Thawing(Homebound):
    """An environment that can't be unpickled elsewhere, either."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["home"] != os.getpid():
            raise Frozen(5)
        super().__setstate__(state)


def test_an_error_of_the_start_that_is_hard_to_note() -> None:
    with pytest.raises(Frozen) as caught:
        make_model(DummyVecEnv([Faulty, Thawing])).learn(100)
    assert caught.value.code == 5 and len(caught.value.__notes__) == 2


def test_values_that_cannot_be_received() -> None:
    env = DummyVecEnv([Faulty, Faulty])
    with pytest.raises(LookupError, match="away from home"):
        make_model(env).learn(100, callback=lambda *_: env.set_attr("companion", Homebound()))


class OneWay(Faulty):
    """An environment that holds something that can't be pickled, once it has been stepped."""

    def step(self, action: np.ndarray) -> Any:
        self.lock = threading.Lock()
        return super().step(action)


def test_environments_that_cannot_be_brought_back_begin_anew() -> None:
    env = DummyVecEnv([Faulty, OneWay])
    model = make_model(env)
    with pytest.warns(UserWarning, match=r"environment 1 will begin anew: .* can't be brought back .*cannot pickle"):
        model.learn(100)
    assert model.num_timesteps == 100 and model._last_obs is None
    model.set_env(make_env("", n_envs=2))
    model.learn(20, reset_num_timesteps=False)


class Secret:
    """It can be copied, as SB3 copies infos, and not pickled."""

    def __deepcopy__(self, memo: dict) -> "Secret":
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a secret")


class Secretive(Faulty):
    """An environment that tells callbacks something that can't be pickled."""

    def step(self, action: np.ndarray) -> Any:
        *told, info = super().step(action)
        return *told, {**info, "secret": Secret()}


class Panic(BaseException):
    """No ``Exception``, like those of tests and debuggers."""


def _panic() -> None:
    raise Panic("while it was unpickled")


class Panicking(Secret):
    """Its pickle can be made, and not be loaded."""

    def __reduce__(self) -> Any:
        return _panic, ()


class Alarming(Faulty):
    """An environment that tells callbacks something whose unpickling raises no ``Exception``."""

    def step(self, action: np.ndarray) -> Any:
        *told, info = super().step(action)
        return *told, {**info, "alarm": Panicking()}


def test_infos_that_cannot_be_received() -> None:
    with pytest.raises(Panic, match="while it was unpickled"):
        make_model(DummyVecEnv([Faulty, Alarming])).learn(100, callback=lambda *_: True)


@pytest.mark.filterwarnings("ignore:environment 1 will begin anew")
def test_infos_that_cannot_be_sent() -> None:
    model = make_model(DummyVecEnv([Faulty, Secretive]))
    assert model.learn(100).num_timesteps == 100  # nobody reads them
    with pytest.raises(TypeError, match=r"infos, or something else that callbacks see of a step, can't be sent .*: a secret"):
        model.learn(100, callback=lambda *_: True)


class Dicing(Faulty):
    """An environment that draws from NumPy's global generator."""

    def step(self, action: np.ndarray) -> Any:
        _, *told = super().step(action)
        return np.random.normal(size=2).astype(np.float32), *told


def test_environments_that_draw_from_a_global_generator_draw_differently_and_again() -> None:
    seen: list[np.ndarray] = []

    def look(locals_: dict[str, Any], _: dict) -> bool:
        seen.append(locals_["new_obs"])
        return False

    for _ in range(2):
        make_model(DummyVecEnv([Dicing] * 3)).learn(15, callback=look)
    assert len(np.unique(seen[0])) == 6
    np.testing.assert_array_equal(*seen)


def test_an_answer_from_an_environment_in_a_step_is_waited_for() -> None:
    def ask(*_: Any) -> bool:
        assert model.env is not None
        with pytest.raises(AttributeError, match="nothing"):
            model.env.env_method("nothing")
        with pytest.raises(TypeError, match="lock"):
            model.env.env_method("locked")
        return True

    class Slow(Faulty):
        def locked(self) -> Any:
            return threading.Lock()

    model = make_model(DummyVecEnv([lambda: Slow(seconds=0.05)] * 2))
    model.learn(20, callback=ask)


class Wanderer(gym.Env):
    """An environment whose observation says how many steps it has made."""

    observation_space = spaces.Box(-1e6, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return np.full(1, self.n_steps, np.float32), {"began_at": self.n_steps}

    def step(self, action: int) -> Any:
        self.n_steps += 1
        return np.full(1, self.n_steps, np.float32), 1.0, self.n_steps % 7 == 0, False, {}


def test_the_vec_env_is_where_its_environments_have_come_to(tmp_path: Path) -> None:
    inner = DummyVecEnv([Wanderer] * 5)
    env = VecNormalize(VecFrameStack(VecMonitor(inner, str(tmp_path)), 3), norm_obs=False, norm_reward=False)
    model = make_model(env, n_workers=2)
    model.learn(5 * 30)
    assert [e.n_steps for e in inner.envs] == [30] * 5  # type: ignore[attr-defined]
    np.testing.assert_array_equal(model._last_obs, [[28.0, 29.0, 30.0]] * 5)
    assert env.env_method("__getattribute__", "n_steps") == [30] * 5
    obs = env.step(np.zeros(5, int))[0]
    np.testing.assert_array_equal(obs, [[29.0, 30.0, 31.0]] * 5)
    assert inner.reset_infos == [{"began_at": 28}] * 5
    model.learn(5 * 20, reset_num_timesteps=False)
    env.close()
    assert len(load_results(str(tmp_path))) == 5 * (51 // 7)


DICING = """
import multiprocessing
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv

class Dicing(gym.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.random.random(1).astype(np.float32), {}

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["sb3_a3c.backends.process.preloaded"])
    venv = SubprocVecEnv([Dicing] * 3, start_method="forkserver")
    print(len(set(venv.reset().ravel().tolist())))
    venv.close()
"""


def test_environments_of_a_subproc_vec_env_draw_differently_if_its_server_has_loaded_the_package(tmp_path: Path) -> None:
    """They begin with different global generators, as if each process had loaded NumPy itself."""
    process = run_script(tmp_path, DICING)
    output, errors = process.communicate(timeout=120)
    assert output.strip() == "3", errors


class Reborn(gym.Env, EzPickle):
    """As Box2D's environments: pickled, it is its constructor's arguments, and it can't be stepped before it is reset."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        EzPickle.__init__(self)
        self.n_steps: int | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.n_steps = 0
        return self.np_random.normal(size=1).astype(np.float32), {}

    def step(self, action: int) -> Any:
        assert self.n_steps is not None
        self.n_steps += 1
        return np.zeros(1, np.float32), 1.0, self.n_steps == 7, False, {}


def test_environments_that_are_made_anew_elsewhere_are_reset_there_and_here() -> None:
    seen: list[dict[str, Any]] = []
    model = make_model(VecNormalize(DummyVecEnv([lambda: Monitor(Reborn())] * 3)))
    for _ in range(2):
        model.learn(15, callback=lambda locals_, _: seen.append(dict(locals_)) or True, reset_num_timesteps=False)  # type: ignore[func-returns-value]
    assert len(np.unique(np.array([seen[0]["obs_tensor"], seen[5]["obs_tensor"]]))) == 6  # each had a seed of its own
    np.testing.assert_array_equal(model.rollout_buffer.episode_starts[0], [1, 1, 1])
    assert model.num_timesteps == 30 and model.env is not None
    model.env.reset()
    model.env.step(np.zeros(3, int))


def test_monitors_files_are_written_there_and_here(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda i=i: Monitor(Wanderer(), str(tmp_path / str(i))) for i in range(2)])  # type: ignore[misc]
    model = make_model(env)
    model.learn(2 * 70)
    for _ in range(7):
        env.step(np.zeros(2, int))
    model.learn(2 * 35, reset_num_timesteps=False)
    assert len(load_results(str(tmp_path))) == 2 * 16
    env.close()


class Endless(Faulty):
    """An environment that says when it begins a step that takes long."""

    def step(self, action: np.ndarray) -> Any:
        Path(self.fault).touch()
        return super().step(action)


@pytest.mark.filterwarnings("ignore:learn.. waits for processes that have been killed:UserWarning")
def test_a_step_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sb3_a3c.backends.process.backend._PATIENCE", 0.2)
    flag = tmp_path / "in a step"
    model = make_model(DummyVecEnv([lambda: Endless(str(flag), seconds=1000.0), Faulty]), max_lead=0)

    def interrupt() -> None:
        while not flag.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt, daemon=True)
    interrupting.start()
    with (
        pytest.warns(UserWarning, match=r"environment 0 will begin anew: .* still in a step"),
        pytest.raises(KeyboardInterrupt),
    ):
        model.learn(100)
    interrupting.join()
    assert model._last_obs is None


def test_an_optimizer_with_statistics_of_its_own_is_refused() -> None:
    model = make_model(make_env(""), policy_kwargs=dict(optimizer_class=th.optim.Adafactor))
    with pytest.raises(ValueError, match=r"backend must be 'thread' or 'serial' for this optimizer, .* Adafactor .* does not"):
        model.learn(100)


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.NAdam])
def test_optimizer_statistics_are_shared(optimizer_class: type[th.optim.Optimizer], tmp_path: Path) -> None:
    model = make_model(make_env(""), policy_kwargs=dict(optimizer_class=optimizer_class)).learn(400)
    states = model.policy.optimizer.state.values()
    assert {float(state["step"]) for state in states} == {80.0}
    model.save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model", env=make_env("")).learn(200, reset_num_timesteps=False)
    assert {float(state["step"]) for state in loaded.policy.optimizer.state.values()} == {120.0}
    assert not any(param.is_shared() for param in loaded.policy.parameters())


@pytest.mark.slow
def test_shared_memory_is_given_back_at_once() -> None:
    """And not when the garbage collector finds it: each piece is a file handle."""
    process = psutil.Process()
    gc.collect()
    gc.disable()
    try:
        counts = []
        for fault in ("", "step", "step", ""):
            env = make_env(fault, n_envs=3)
            with pytest.raises(Exception, match="in step") if fault else nullcontext():
                make_model(env).learn(300)
            counts.append(process.num_fds())
        assert len(set(counts)) == 1
    finally:
        gc.enable()


class ManyBuffers(FlattenExtractor):
    """More buffers than a process can get descriptors from the fork server. Each counts the forward passes in training."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        for index in range(300):
            self.register_buffer(f"count_{index}", th.tensor(index, dtype=[th.int64, th.float32][index % 2]))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        if self.training:
            for buffer in self.buffers():
                buffer += 1
        return super().forward(observations)


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_policy_with_many_buffers(start_method: str) -> None:
    """A process gets all of them with one file descriptor."""
    kwargs = dict(backend_kwargs=dict(start_method=start_method), engine="torch")
    model = make_model(make_env(""), policy_kwargs=dict(features_extractor_class=ManyBuffers), **kwargs)
    model.learn(200)
    differences = {float(buffer) - index for index, buffer in enumerate(model.policy.features_extractor.buffers())}
    assert len(differences) == 1 and differences.pop() > 0


def test_one_worker_needs_no_process(no_new_process: None) -> None:
    env = make_env("")
    env.envs[1].unwrapped.lock = threading.Lock()  # type: ignore[attr-defined]
    assert make_model(env, n_workers=1).learn(100).num_timesteps == 100


class Wilful(Exception):
    """An error whose constructor does not take what it passes on."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class Holding(Exception):
    """An error that holds something that can't be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Explosive(Exception):
    """An error that can be pickled, and whose unpickling raises no ``Exception``."""

    def __reduce__(self) -> Any:
        return _panic, ()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a", 2), ValueError),
        (Wilful(7, detail="x"), Wilful),
        (FileNotFoundError(2, "no such", "file"), FileNotFoundError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeDecodeError),
        (SystemExit(3), SystemExit),
        (Holding("held"), RuntimeError),
        (Explosive("bang"), Explosive),
        (Frozen(7), Frozen),
    ],
)
def test_errors_on_their_way_between_processes(error: Exception, expected: type[BaseException]) -> None:
    add_note(error, "a note")
    try:
        raise error
    except BaseException as caught:
        failure = pickle.loads(pickle.dumps(Failure.of(caught)))
    arrived = failure.error()
    assert type(arrived) is expected and arrived.__notes__ == ["a note"]
    assert str(error) in str(arrived)
    assert "test_errors_on_their_way" in str(arrived.__cause__)
    assert vars(arrived).get("code") == vars(error).get("code")


@pytest.mark.parametrize("notes", [5, [threading.Lock(), "a note"]])
def test_notes_that_are_no_strings_stay_behind(notes: Any) -> None:
    error = ValueError("a")
    error.__notes__ = notes
    arrived = pickle.loads(pickle.dumps(Failure.of(error))).error()
    assert str(arrived).endswith("a") and getattr(arrived, "__notes__", []) in (5, ["a note"])


def test_a_lock_can_be_used_while_the_program_exits(tmp_path: Path) -> None:
    """As a daemonic thread does that learns. (Functions that were registered first are called last.)"""
    script = run_script(
        tmp_path,
        """
        import atexit

        def use() -> None:
            with lock:
                print("used")

        atexit.register(use)
        from sb3_a3c.system.file_lock import FileLock
        lock = FileLock()
        """,
    )
    output, errors = script.communicate(timeout=60)
    assert (output, errors, script.returncode) == ("used\n", "", 0)


def test_a_lock_is_free_when_its_holder_dies(tmp_path: Path) -> None:
    lock = FileLock()
    taken = [lock.acquire(blocking=False), lock.acquire(blocking=False)]
    assert taken == [True, True]  # it tells processes apart, and not threads
    child = os.fork()
    if child == 0:
        taken = lock.acquire(blocking=False)
        os._exit(1 if taken else 0)
    assert os.waitpid(child, 0)[1] == 0
    lock.release()
    ready, held = os.pipe()
    child = os.fork()
    if child == 0:
        lock.acquire()
        os.write(held, b"!")
        time.sleep(1000)
    os.read(ready, 1)
    is_free = lock.acquire(blocking=False)
    assert not is_free
    threading.Timer(0.2, os.kill, [child, signal.SIGKILL]).start()
    lock.acquire()  # returns when the child, which sleeps for much longer, is dead
    lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    os.close(ready)
    os.close(held)


@pytest.mark.slow
def test_memory_of_a_worker(capsys: pytest.CaptureFixture) -> None:
    """Printed and not asserted: it is the machine's as much as ours."""
    model, sizes = make_model(make_env("")), []

    def measure(*_: Any) -> bool:
        if not sizes:
            pids = model.env.env_method("pid")  # type: ignore[union-attr]
            sizes.extend(psutil.Process(pid).memory_full_info().pss / 2**20 for pid in pids)
        return True

    model.learn(100, callback=measure)
    with capsys.disabled():
        print(f"\nMB (PSS) of each worker: {[round(size) for size in sizes]}")  # noqa: T201
    assert len(sizes) == 4


class Collecting(Faulty):
    """Its infos tell how many pages a collection of Python's garbage has copied."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        gc.collect()
        n_pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"n_pages": n_pages}


def test_garbage_collection_in_a_worker_does_not_copy_shared_memory() -> None:
    """It would copy about 100 MB per worker, which stops all workers for most of a second."""
    infos: list[dict] = []
    make_model(make_vec_env(Collecting, n_envs=2)).learn(40, lambda local, _: infos.extend(local["infos"]) or True)
    assert len(infos) == 40 and max(info["n_pages"] for info in infos) < 4000


@pytest.mark.parametrize("env_class", [partial(gym.make, "CartPole-v1"), lambda: SimpleMultiObsEnv(channel_last=False)])
def test_rollouts_that_are_sent_together_arrive_as_they_were(
    env_class: Callable[[], gym.Env], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts: list[Rollout] = []
    step = Worker.step
    monkeypatch.setattr(Worker, "step", lambda worker: rollouts.append(step(worker)) or rollouts[-1])
    env = make_vec_env(env_class, n_envs=2)
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    A3C(policy, VecNormalize(env, norm_obs=policy == "MlpPolicy"), n_steps=3, backend="serial").learn(60, lambda *_: True)
    sent = [lighten(rollout) for rollout in rollouts]
    arrived = decode(encode(Rollouts(sent))).rollouts
    assert len(arrived) == len(sent) == 20
    assert_alike([leaves(each) for each in arrived], [leaves(each) for each in sent])
    arrays = arrays_of(arrived[0])
    assert len({id(array.base) for array in arrays} & {id(array.base) for array in arrays_of(arrived[1])}) > 5  # stacked
    arrays[0][:] = 7
    assert_alike(leaves(arrived[1]), leaves(sent[1]))  # of each rollout its own


def leaves(value: Any) -> list[Any]:
    """Its numbers, texts and arrays, in order."""
    if isinstance(value, States | Steps | RolloutBuffer):
        value = vars(value)
    if isinstance(value, dict):
        value = [entry for item in sorted(value.items()) for entry in item]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list | tuple) else [value]


def assert_alike(actual: list[Any], expected: list[Any]) -> None:
    for mine, other in zip(actual, expected, strict=True):
        if isinstance(other, list):
            assert_alike(mine, other)
        elif isinstance(other, np.ndarray | th.Tensor):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
        else:
            assert mine == other or (mine != mine and other != other)

"""An exception at any line of the main thread, and Ctrl-C at any time, leave nothing of a run behind."""

import gc
import itertools
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import sb3_a3c
from sb3_a3c import A3C
from sb3_a3c.envs.gate import Gate
from sb3_a3c.learning.reporter import Reporter
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.cleanup import CleanupStack
from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.system.locks import Lock, ThreadLock
from sb3_a3c.system.thread_group import ThreadGroup, call_in_thread

PACKAGE = str(Path(sb3_a3c.__file__).parent) + os.sep
Line = tuple[str, int]


class Interrupt(BaseException):
    """What a signal handler might raise."""


class Tracer:
    """
    Counts how often the main thread executes each line of the package, and raises an :class:`Interrupt` at one of them.

    :param line: The line, None: it raises nothing
    :param occurrence: At which occurrence of it, from 1
    """

    def __init__(self, line: Line | None = None, occurrence: int = 1) -> None:
        self.counts: Counter[Line] = Counter()
        self._line = line
        self._occurrence = occurrence

    def __enter__(self) -> "Tracer":
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._trace_line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _trace_line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            line = (frame.f_code.co_filename.removeprefix(PACKAGE), frame.f_lineno)
            self.counts[line] += 1
            if line == self._line and self.counts[line] == self._occurrence:
                raise Interrupt
        return self._trace_line


class AsksTheEnvironments(BaseCallback):
    def _on_step(self) -> bool:
        return self.n_calls % 4 != 3 or len(self.training_env.get_attr("spec")) == 2


class State:
    """What a run must leave as it was."""

    def __init__(self, model: A3C) -> None:
        self._model = model
        self._attributes = set(vars(model.env.unwrapped))
        self._threads = set(threading.enumerate())
        self._n_torch_threads = th.get_num_threads()
        self._children = _children()
        self._n_files = _n_files()

    def problems(self) -> list[str]:
        policy = self._model.policy
        tensors = [*policy.parameters(), *policy.buffers()]
        tensors += [v for state in policy.optimizer.state.values() for v in state.values() if isinstance(v, th.Tensor)]
        found = {
            "threads": [thread.name for thread in set(threading.enumerate()) - self._threads],
            "processes": [process.cmdline() for process in _children() - self._children],
            "attributes of the VecEnv": set(vars(self._model.env.unwrapped)) ^ self._attributes,
            "views": [t.shape for t in tensors if t.untyped_storage().nbytes() != t.numel() * t.element_size()],
            "values": [t.shape for t in tensors if not t.isfinite().all()],
            "threads of torch": th.get_num_threads() - self._n_torch_threads,
        }
        if _n_files() > self._n_files:
            gc.collect()  # what an exception's frames have held
            found["files"] = max(0, _n_files() - self._n_files)
        return [f"{what}: {value}" for what, value in found.items() if value]


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _n_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def make_model(backend: str, **vec_env: Any) -> A3C:
    return A3C("MlpPolicy", VecNormalize(make_vec_env("CartPole-v1", 2, 1, **vec_env)), n_steps=4, seed=1, backend=backend)


def learn(model: A3C) -> None:
    model.learn(16, callback=AsksTheEnvironments(), log_interval=1, reset_num_timesteps=False)


def interrupt(model: A3C, line: Line, occurrence: int) -> list[str]:
    """Learn until an exception comes there; then learn again."""
    state, raised = State(model), False
    try:
        with Tracer(line, occurrence) as tracer:
            learn(model)
    except Interrupt:
        raised = True
    problems = state.problems()
    if tracer.counts[line] >= occurrence and not raised:
        problems.append("the exception was lost")
    num_timesteps = model.num_timesteps
    model.learn(8, reset_num_timesteps=False)
    if model.num_timesteps - num_timesteps != 8:
        problems.append(f"{model.num_timesteps - num_timesteps} steps instead of 8")
    model.env.reset()
    model.env.step(np.zeros(2, dtype=int))
    model._last_obs = None
    return [f"{line} {occurrence}: {problem}" for problem in problems]


def interrupt_at_lines(backend: str, stride: int) -> None:
    """At the first and at the last occurrence of a line, for the lines of clean-up occur more than once."""
    model = make_model(backend)
    learn(model)
    with Tracer() as tracer:
        learn(model)
    places = sorted({(line, n) for line, count in tracer.counts.items() for n in (1, count)})
    assert len(places) > 500
    assert not [problem for line, n in places[::stride] for problem in interrupt(model, line, n)]


# An exception can come between the making of a file and its first use. Then Python closes the file, and says so in a warning.
# As an error, that warning would keep the frames that it came through, and all that they have.
_dropped_files_are_closed = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@_dropped_files_are_closed
@pytest.mark.parametrize(("backend", "stride"), [("serial", 97), ("thread", 97), ("process", 499)])
def test_an_exception_at_some_lines_leaves_nothing_behind(backend: str, stride: int) -> None:
    interrupt_at_lines(backend, stride)


@pytest.mark.slow
@_dropped_files_are_closed
@pytest.mark.parametrize(("backend", "stride"), [("serial", 7), ("thread", 7), ("process", 97)])
def test_an_exception_at_many_lines_leaves_nothing_behind(backend: str, stride: int) -> None:
    interrupt_at_lines(backend, stride)


@pytest.mark.exhaustive
@_dropped_files_are_closed
@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_an_exception_at_any_line_leaves_nothing_behind(backend: str) -> None:
    """With processes, each line takes more than a second, because processes are started twice."""
    interrupt_at_lines(backend, stride=1)


@pytest.mark.slow
@_dropped_files_are_closed
@pytest.mark.parametrize(
    ("backend", "options", "n_runs"),
    [
        ("serial", None, 100),
        ("thread", None, 100),
        ("process", dict(start_method="forkserver"), 20),
        ("process", dict(start_method="fork"), 20),
    ],
)
def test_ctrl_c_at_any_time_leaves_nothing_behind(
    backend: str, options: dict | None, n_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python drops an exception that comes in a finalizer. pytest's hook for these is in Python, and could be interrupted too.
    monkeypatch.setattr(sys, "unraisablehook", print)
    model = make_model(backend)
    model.backend_kwargs = options
    model.engine = "fused"  # torch computes no gradients in a fork
    learn(model)
    started = time.monotonic()
    learn(model)
    seconds = time.monotonic() - started
    generator = np.random.default_rng(0)
    problems: list[str] = []
    for _ in range(n_runs):
        state, moments = State(model), sorted(generator.uniform(0, 1.1 * seconds, 2))
        ctrl_c = CtrlC(*moments)
        try:
            with ctrl_c:
                learn(model)
        except KeyboardInterrupt:
            ctrl_c.stop()  # the first one may have come while it was entered or exited
        problems += [f"{moments}: {problem}" for problem in state.problems()]
    assert not problems
    learn(model)


def test_ctrl_c_during_a_system_call_does_not_lose_the_file_that_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    open_file, main_thread = os.open, threading.get_ident()

    def interrupted(*args: Any, **kwargs: Any) -> int:
        descriptor = open_file(*args, **kwargs)
        if threading.get_ident() == main_thread:
            raise KeyboardInterrupt
        return descriptor

    n_files = _n_files()
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, "open", interrupted)
        FileLock()
    assert _n_files() == n_files


def test_ctrl_c_while_a_lock_is_freed_does_not_lose_its_file() -> None:
    """Python drops an exception that comes in a finalizer, so none of its lines may be interrupted."""

    def interrupt(frame: Any, event: str, arg: Any) -> None:
        raise KeyboardInterrupt

    locks, n_files = [FileLock()], _n_files()
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        locks.clear()
    finally:
        sys.settrace(before)
    assert _n_files() == n_files - 1


def test_ctrl_c_while_a_process_is_closed_does_not_lose_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing takes a connection for closed, and a finalizer for done, whatever interrupts them."""
    main_thread = threading.get_ident()

    def interrupted(original: Callable) -> Callable:
        def method(*args: Any) -> None:
            if threading.get_ident() == main_thread:
                raise KeyboardInterrupt
            original(*args)

        return method

    model = make_model("process")
    learn(model)
    state = State(model)
    monkeypatch.setattr(Connection, "_close", interrupted(Connection._close))  # type: ignore[attr-defined]
    monkeypatch.setattr(multiprocessing.util, "close_fds", interrupted(multiprocessing.util.close_fds))
    with suppress(KeyboardInterrupt):
        learn(model)
    assert not state.problems()


def test_ctrl_c_while_memory_is_shared_does_not_leave_a_lock_of_torch_taken() -> None:
    """It has one for each tensor that is being shared. Another thread would wait for it forever."""
    locks = th.storage._share_memory_map

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename.endswith("torch/storage.py") and event == "line" and locks:
            raise KeyboardInterrupt
        return trace

    model = make_model("process")
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        learn(model)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    assert not locks


class CtrlC:
    """Presses it after so many seconds each, while it is entered."""

    def __init__(self, *moments: float) -> None:
        self._moments = moments
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._press)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        while self._thread.is_alive():
            try:
                self._over.set()
                self._thread.join()
            except KeyboardInterrupt:
                pass

    def _press(self) -> None:
        started = time.monotonic()
        for moment in self._moments:
            if self._over.wait(max(0.0, started + moment - time.monotonic())):
                return
            # To the process it could come later, when a sleeping thread that the system has chosen wakes up.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]


class Gated(gym.Env):
    """Its steps wait until they are let go."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        self.n_inside = 0

    def reset(self, **_: Any) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.n_inside += 1
        self.entered.set()
        self.released.wait(20)
        self.n_inside -= 1
        return np.zeros(2, np.float32), 0.0, False, False, {}


def worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("A3C")]


def test_ctrl_c_again_and_again_does_not_leave_a_thread_in_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.backends.threads._PATIENCE_AFTER_CTRL_C", 0.05)
    envs = [Gated(), Gated()]

    def press() -> None:
        envs[0].entered.wait()
        envs[1].entered.wait()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        for env in envs:
            env.released.set()

    model = A3C("MlpPolicy", DummyVecEnv([lambda: envs[0], lambda: envs[1]]), n_steps=1)
    state, presser = State(model), threading.Thread(target=press)
    told = pytest.warns(UserWarning, match="A3C worker 0 is still in a step of its environment.*A thread can't be ended")
    with told, pytest.raises(KeyboardInterrupt):
        presser.start()
        model.learn(1000)
    assert not worker_threads() and [env.n_inside for env in envs] == [0, 0]
    presser.join()
    assert not state.problems()
    model.learn(4, reset_num_timesteps=False)


def test_a_warning_that_is_an_error_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.backends.threads._PATIENCE", 0.05)
    env = Gated()
    env.released.set()
    late = Gated()
    timer = threading.Timer(0.5, late.released.set)

    def stop(locals_: dict, _: dict) -> bool:
        timer.start()
        return False

    model = A3C("MlpPolicy", DummyVecEnv([lambda: env, lambda: late]), n_steps=1, rollout_order="arrival", max_lead=1)
    state = State(model)
    with pytest.raises(UserWarning, match="A3C worker 1 is still in a step of its environment"):  # filterwarnings = error
        model.learn(1000, callback=stop)
    assert not worker_threads() and late.n_inside == 0
    timer.join()
    assert not state.problems()
    model.learn(4)


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
@pytest.mark.parametrize("method", ["__exit__", "refresh"])
def test_the_vec_env_is_put_back_though_the_replay_fails(backend: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(backend)
    state = State(model)

    stopped: list[bool] = []
    original = getattr(Reporter, method)

    def fail_after_stop(reporter: Reporter, *exc_info: object) -> None:
        if stopped:
            raise ValueError("no memory is left")
        original(reporter, *exc_info)

    def stop(*_: Any) -> bool:
        stopped.append(True)
        return False

    monkeypatch.setattr(Reporter, method, fail_after_stop)
    with pytest.raises(ValueError, match="no memory is left"):
        model.learn(1000, callback=stop)
    monkeypatch.undo()
    assert {problem.split(":")[0] for problem in state.problems()} <= ({"views"} if method == "__exit__" else set())
    assert model.env.obs_rms.count > 9  # of the reset, and of a rollout of each worker, of which one step was shown
    model.learn(8, reset_num_timesteps=False)


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.Adafactor])
def test_updates_count_once_though_bringing_the_policy_up_to_date_is_interrupted(
    optimizer_class: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs: Any = dict(n_steps=4, seed=1, backend="serial", policy_kwargs=dict(optimizer_class=optimizer_class))
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", 2, 1), **kwargs)
    reads = itertools.count()

    def interrupted(original: Callable) -> Callable:
        def method(self: SharedParameters, *args: Any) -> Any:
            result = original(self, *args)
            if next(reads) == 3:
                raise Interrupt
            return result

        return method

    monkeypatch.setattr(SharedParameters, "read", interrupted(SharedParameters.read))
    with pytest.raises(Interrupt):
        model.learn(1000, log_interval=1)
    monkeypatch.undo()
    twin = A3C("MlpPolicy", make_vec_env("CartPole-v1", 2, 1), **kwargs)
    twin.learn(model.num_timesteps)
    assert twin.num_timesteps == model.num_timesteps
    for param, other in zip(model.policy.parameters(), twin.policy.parameters(), strict=True):
        assert th.equal(param, other)


@pytest.mark.parametrize(("backend", "n_workers"), [("serial", 1), ("serial", 2), ("thread", 2)])
@pytest.mark.parametrize("where", ["step", "call"])
def test_no_answer_of_an_interrupted_call_is_taken_for_another_ones(backend: str, n_workers: int, where: str) -> None:
    model = make_model(backend, vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="fork"))
    model.n_workers = n_workers
    env, remote = model.env, model.env.unwrapped.remotes[1]
    state = State(model)

    n_calls = itertools.count()

    def recv() -> Any:
        if next(n_calls) == 5:
            raise Interrupt
        return type(remote).recv(remote)

    def ask(*_: Any) -> bool:
        if where == "call":
            env.get_attr("spec")
        return True

    remote.recv = recv
    with pytest.raises(Interrupt):
        model.learn(1000, callback=ask)
    del remote.recv
    assert not state.problems()
    assert env.get_attr("render_mode") == ["rgb_array"] * 2 and env.reset().shape == (2, 4)
    model.learn(8)
    env.close()


class Lingering(gym.Env):
    """A method of it takes long, and it can't be pickled meanwhile."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    is_inside, n_calls = False, 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getstate__(self) -> dict[str, Any]:
        if self.is_inside:
            raise RuntimeError("packed in the middle of a call")
        return vars(self)

    def reset(self, **_: Any) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def linger(self) -> None:
        self.is_inside = True
        self.path.touch()
        time.sleep(0.5)
        self.n_calls += 1
        self.is_inside = False


def test_environments_come_back_after_the_end_of_a_call_that_was_interrupted(tmp_path: Path) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    env = DummyVecEnv([lambda path=path: Lingering(path) for path in paths])  # type: ignore[misc]

    def press() -> None:
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press, daemon=True)
    presser.start()
    model = A3C("MlpPolicy", env, n_steps=1, backend="process")
    with pytest.raises(KeyboardInterrupt) as caught:
        model.learn(1000, callback=lambda *_: env.env_method("linger") is not None)
    assert not hasattr(caught.value, "__notes__")  # no environment was lost
    assert env.get_attr("n_calls") == [1, 1] and env.get_attr("is_inside") == [False, False]


def test_the_gate_keeps_what_the_user_has_replaced() -> None:
    env = make_vec_env("CartPole-v1", 2)
    env.render = own = lambda: None  # type: ignore[method-assign]
    with Gate(env, lambda method: lambda *args: method(*args)):
        assert env.render is not own
    assert env.render is own and "reset" not in vars(env)


def test_joining_threads_can_be_interrupted_and_repeated() -> None:
    release = threading.Event()
    group = ThreadGroup({"waiting": release.wait, "done": lambda: None})
    group.start()
    with pytest.raises(KeyboardInterrupt), CtrlC(0.1):
        group.join()
    assert group.join(0.0) == ["waiting"] and "waiting" in [thread.name for thread in threading.enumerate()]
    release.set()
    assert group.join() == [] and group.join(0.0) == []
    assert not {"waiting", "done"} & {thread.name for thread in threading.enumerate()}


def test_joined_threads_are_gone_though_the_join_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.11, such a thread counts as ended at once."""
    ending, delete = threading.Event(), threading.Thread._delete  # type: ignore[attr-defined]

    def delete_late(self: threading.Thread) -> None:
        if self.name == "late":
            ending.set()
            time.sleep(0.5)
        delete(self)

    monkeypatch.setattr(threading.Thread, "_delete", delete_late)
    group = ThreadGroup({"late": lambda: None})
    group.start()
    ending.wait()
    with pytest.raises(KeyboardInterrupt), CtrlC(0.1):
        group.join()
    assert group.join() == [] and "late" not in [thread.name for thread in threading.enumerate()]


def test_a_call_in_a_thread_has_ended_though_the_wait_was_interrupted() -> None:
    ended: list[bool] = []

    def call() -> None:
        time.sleep(0.5)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), CtrlC(0.1, 0.2):
        call_in_thread(call)
    assert ended


def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    group = ThreadGroup({"first": release.wait, "second": release.wait})
    started: list[Any] = []

    def start(self: threading.Thread, *, original: Any = threading.Thread.start) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        group.start()
    release.set()
    assert group.join() == [] and not started[0].is_alive()


@pytest.mark.parametrize("lock_class", [ThreadLock, FileLock])
def test_a_lock_is_free_whatever_line_is_interrupted(lock_class: type) -> None:
    def hold(lock: Lock) -> None:
        with lock as waited:
            assert waited >= 0.0

    lock: Lock = lock_class()
    with Tracer() as tracer:
        hold(lock)
    for line in tracer.counts:
        lock = lock_class()
        with pytest.raises(Interrupt), Tracer(line):
            hold(lock)
        lock.free()
        assert _other_takes(lock)


def test_only_the_holder_frees_a_lock() -> None:
    lock, taken, over = ThreadLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    lock.free()
    assert not lock._lock.acquire(False)
    over.set()
    thread.join()
    assert _other_takes(lock)


def _other_takes(lock: Lock) -> bool:
    """Whether another thread, or another process, can take a lock at once."""
    if isinstance(lock, FileLock):
        child = os.fork()
        if child == 0:
            os._exit(0 if lock.acquire(blocking=False) else 1)
        return os.waitpid(child, 0)[1] == 0
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(lock._lock.acquire(False)))  # type: ignore[attr-defined]
    thread.start()
    thread.join()
    return taken == [True]


class Step:
    """A context manager whose exit is interrupted so many times, and then raises an error of its own if there is one."""

    def __init__(self, done: list[str], name: str, interrupts: list[BaseException], error: Exception | None = None) -> None:
        self._done, self._name, self._interrupts, self._error = done, name, interrupts, error

    def __enter__(self) -> None: ...

    def __exit__(self, *exc_info: object) -> None:
        if self._interrupts:
            raise self._interrupts.pop()
        if self._error is not None:
            raise self._error
        self._done.append(self._name)


def test_clean_up_completes_however_often_it_is_interrupted() -> None:
    done: list[str] = []
    stack = CleanupStack()
    with pytest.raises(KeyboardInterrupt), stack, stack:
        stack.enter(Step(done, "first", []))
        stack.enter(Step(done, "second", [KeyboardInterrupt() for _ in range(5)]))
        stack.enter(Step(done, "third", [TimeoutError()]))
        raise OSError("in the body")
    assert done == ["third", "second", "first"]


def test_clean_up_goes_on_after_an_error_of_its_own() -> None:
    done: list[str] = []
    stack = CleanupStack()
    with pytest.raises(OSError, match="in the body") as caught, stack, stack:
        stack.callback(lambda: done.append("first"))
        stack.enter(Step(done, "second", [], ValueError("in an exit")))
        raise OSError("in the body")
    assert done == ["first"]
    assert caught.value.__notes__ == ["while learn() was ending, this was raised too: ValueError('in an exit')"]
    with pytest.raises(ValueError, match="in an exit"), stack, stack:
        stack.enter(Step(done, "second", [], ValueError("in an exit")))

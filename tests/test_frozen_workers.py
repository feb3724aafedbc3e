"""A worker process that is frozen (SIGSTOP, swapped out, a debugger), at any point, is replaced, and blocks nobody."""

import multiprocessing
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import forkserver, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv
from test_healing import Watching, assert_counted_once, make_env, make_model, processes

import sb3_a3c.backends.process.watchdog as watchdog_module
from sb3_a3c import WorkerDied
from sb3_a3c.backends.process.channel import Channel
from sb3_a3c.backends.process.remote_worker import RemoteWorker
from sb3_a3c.backends.quota import Quota
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.file_lock import FileLock

#: Much longer than a rollout of these takes on a busy machine, for no other worker may be replaced.
TIMEOUT = dict(worker_timeout=3.0)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.backends.process.backend._PATIENCE", 0.5)


def learn(n_envs: int, act: Callable[[int], None] | None, env: DummyVecEnv | None = None, **kwargs: Any) -> Watching:
    """A run in which worker 1, and no other, is replaced once."""
    model = make_model(make_env(n_envs) if env is None else env, backend_kwargs=TIMEOUT, **kwargs)
    watching = Watching(10, act or (lambda n_calls: None))
    with pytest.warns(
        UserWarning, match=r"worker 1, .* was killed, because it had not .* for .* s \(worker_timeout=3\)"
    ) as told:
        model.learn(40 * n_envs, callback=watching, log_interval=None)
    assert len([one for one in told if "is replaced" in str(one.message)]) == 1
    assert model.logger.name_to_value["async/restarts"] == 1
    assert_counted_once(model, watching, 40 * n_envs)
    return watching


#: A policy that is larger than the buffer of a pipe (64 kB).
LARGE = dict(policy_kwargs=dict(net_arch=[256, 256]))


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_while_it_starts(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read nothing. With a timeout it is killed; without one Ctrl-C ends the wait for it."""
    connect = forkserver.connect_to_new_process

    def connect_and_freeze(fds: list[int]) -> Any:
        server = psutil.Process(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
        before, ends = set(server.children()), connect(fds)
        while not (new := set(server.children()) - before):
            time.sleep(0.001)
        new.pop().suspend()
        return ends

    monkeypatch.setattr("sb3_a3c.backends.process.watchdog._REPORT_AFTER", 0.5)
    monkeypatch.setattr(forkserver, "connect_to_new_process", connect_and_freeze)
    model = make_model(make_env(2), backend_kwargs=TIMEOUT if how == "killed" else {}, **LARGE)
    ends = pytest.raises(WorkerDied, match=r"was killed, because it had not become ready for .* s \(worker_timeout=3\)")
    if how != "killed":
        ends = pytest.raises(KeyboardInterrupt)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with warnings.catch_warnings(), ends:
        warnings.filterwarnings("ignore", "worker ., .* has not become ready")  # on a busy machine the other one is slow, too
        model.learn(20)
    monkeypatch.undo()
    model.learn(20)


class Starting:
    """As much of a worker as the watchdog sees before it is ready."""

    process, call, has_permit, n_rollouts = None, None, False, 0

    def __init__(self, index: int) -> None:
        self.index, self.env_indices = index, np.array([index])
        self.alive, self.ready, self.killed = True, False, False

    def kill_to_replace(self, why: str) -> None:
        self.killed = True

    def send(self, message: Any) -> None: ...


def test_workers_that_share_the_cores_while_they_start_are_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    now, workers = [0.0], [Starting(index) for index in range(8)]
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(watchdog_module, "usable_cores", lambda: 2)
    quota = SimpleNamespace(taken=lambda worker: 0)
    watchdog = watchdog_module.Watchdog(workers, quota, [], worker_timeout=1.0)  # type: ignore[arg-type]

    def wait(seconds: int) -> list[int]:
        for _ in range(4 * seconds):
            now[0] += 0.25
            watchdog.check()
        return [worker.index for worker in workers if worker.killed]

    assert wait(230) == []
    for worker in workers[:-1]:  # one after another, each within a minute
        worker.ready = True
        assert wait(50) == []
    assert wait(20) == [7]


def test_a_process_that_dies_before_it_has_read_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is killed while it imports torch, because memory is short."""
    spawn = util.spawnv_passfds

    def spawn_and_kill(path: bytes, args: list[Any], passfds: list[int]) -> int:
        pid = spawn(path, args, passfds)
        if "spawn_main" in str(args):
            os.kill(pid, signal.SIGKILL)
        return pid

    monkeypatch.setattr(util, "spawnv_passfds", spawn_and_kill)
    with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
        make_model(make_env(2), "spawn", **LARGE).learn(20)


def test_a_start_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the wait for it. A process that is started all the same is killed."""
    go_on, start, processes = threading.Event(), RemoteWorker.start, []

    def start_late(worker: RemoteWorker, workers: list[RemoteWorker]) -> None:
        go_on.wait()
        start(worker, workers)
        processes.append(worker.process)

    monkeypatch.setattr("sb3_a3c.backends.process.backend._PATIENCE", 0.1)
    monkeypatch.setattr(RemoteWorker, "start", start_late)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        make_model(make_env(2), "spawn").learn(20)
    go_on.set()
    while not (processes and processes[0].exited):
        time.sleep(0.01)
    processes[0].close()
    while any(thread.name.startswith("A3C worker") for thread in threading.enumerate()):
        time.sleep(0.01)
    assert len(processes) == 1 and processes[0].exit_code == -signal.SIGKILL


@pytest.mark.parametrize("rollout_order", ["env", pytest.param("arrival", marks=pytest.mark.slow)])
def test_while_it_waits_for_permits(rollout_order: str) -> None:
    """It has begun no rollout, but it may, so it owes one."""

    def act(n_calls: int) -> None:
        if n_calls == 1:
            time.sleep(0.3)  # all wait for permits
            os.kill(processes(1)[0].pid, signal.SIGSTOP)

    model = make_model(make_env(3), backend_kwargs=TIMEOUT, rollout_order=rollout_order)
    watching = Watching(5, act)
    if rollout_order == "env":
        with pytest.warns(UserWarning, match="worker 1, .* was killed, because it had not finished a rollout"):
            model.learn(120, callback=watching, log_interval=None)
        assert model.logger.name_to_value["async/restarts"] == 1
    else:  # the others make its rollouts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.learn(120, callback=watching, log_interval=None)
    assert_counted_once(model, watching, 120, in_order=rollout_order == "env")


def freeze_once(flag: Path) -> Callable[[], None]:
    """Freeze the process of worker 1 the first time that it calls this after the main process has made the flag."""

    def freeze() -> None:
        if multiprocessing.current_process().name == "A3C worker 1" and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)

    return freeze


@pytest.mark.parametrize(
    ("holder", "method"),
    [
        (SharedParameters, "_set_current"),
        pytest.param(SharedParameters, "_place", marks=pytest.mark.slow),
        pytest.param(Quota, "is_exhausted", marks=pytest.mark.slow),
    ],
)
def test_while_it_holds_a_lock(holder: type, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a push, a pull, or as it begins a rollout. Everyone else waits for the lock, the main thread too."""
    flag = tmp_path / "flag"
    flag.touch()
    freeze, original = freeze_once(flag), getattr(holder, method)

    def freezing(*args: Any) -> Any:
        freeze()
        return original(*args)

    monkeypatch.setattr(holder, method, freezing)
    learn(3, None, start_method="fork")
    assert not flag.exists()


def test_while_it_holds_a_lock_and_nobody_may_kill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``worker_timeout`` there is a warning that names it and not those that wait for it, and Ctrl-C works."""
    monkeypatch.setattr("sb3_a3c.backends.process.watchdog._REPORT_AFTER", 1.0)
    monkeypatch.setattr("sb3_a3c.backends.process.watchdog._CHECK_EVERY", 0.2)
    (tmp_path / "flag").touch()
    freeze, hold = freeze_once(tmp_path / "flag"), SharedParameters._set_current
    monkeypatch.setattr(SharedParameters, "_set_current", lambda self, place: [freeze(), hold(self, place)])
    model = make_model(make_env(3), start_method="fork")
    told: list[str] = []

    def tell(message: Any, *_: Any, **__: Any) -> None:
        told.append(str(message))
        if "has not finished a rollout" in told[-1]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(warnings, "warn", tell)
    with pytest.raises(KeyboardInterrupt):
        model.learn(1_000_000, callback=Watching())
    reports = [text for text in told if "has not finished a rollout" in text]
    assert reports and all(text.startswith("worker 1,") for text in reports)
    assert not processes()
    model.learn(30, reset_num_timesteps=False)


@pytest.mark.slow
def test_while_it_is_sent_a_large_message() -> None:
    """One that does not fit into the socket's buffer."""

    def act(n_calls: int) -> None:
        assert model_env[0] is not None
        if n_calls == 1:
            os.kill(processes(1)[0].pid, signal.SIGSTOP)
            model_env[0].set_attr("mark", b"x" * 5_000_000)
            assert [len(mark) for mark in model_env[0].get_attr("mark")] == [5_000_000] * 3

    model_env = [make_env(3)]
    learn(3, act, model_env[0])


def test_while_it_sends_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other workers' messages are read all the same."""
    (tmp_path / "flag").touch()
    freeze, send = freeze_once(tmp_path / "flag"), Channel.send

    def half(channel: Channel, content: bytes) -> None:
        if len(content) > 1000 and (tmp_path / "flag").exists():
            channel._connection.sendall((len(content)).to_bytes(8, "big") + content[:500])
            freeze()
            os._exit(1)
        send(channel, content)

    def half_of_worker_1(channel: Channel, content: bytes) -> None:
        (half if multiprocessing.current_process().name == "A3C worker 1" else send)(channel, content)

    monkeypatch.setattr(Channel, "send", half_of_worker_1)
    learn(3, None, start_method="fork", max_lead=3)


def test_messages_in_pieces() -> None:
    """Messages larger than the socket's buffer arrive whole. One that is cut in two does not."""
    one, other = socket.socketpair()
    main, worker = Channel(one, None), Channel(other, None)
    contents = [b"", b"short", os.urandom(3_000_000), b"last"]
    thread = threading.Thread(target=lambda: [worker.send(worker.receive()) for _ in contents])
    thread.start()
    echoed = []
    for content in contents:
        main.send(content)
        echoed.append(bytes(main.receive()))
    thread.join()
    assert echoed == contents
    other.sendall(b"\0\0")
    other.close()
    with pytest.raises(EOFError):
        main.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        main.send(b"x")
    one.close()


def test_the_end_of_a_process_is_noticed_though_another_holds_its_socket() -> None:
    """In the middle of a message, too. A process that an environment has forked may have the socket."""
    one, other = socket.socketpair()
    ended, end = os.pipe()  # as a pidfd, it can be read once the process has ended
    channel = Channel(one, ended)
    other.sendall((100).to_bytes(8, "big") + b"half of it")
    threading.Timer(0.1, os.close, [end]).start()
    with pytest.raises(EOFError):
        channel.receive()
    os.close(ended)
    one.close()
    other.close()


def test_who_holds_a_lock() -> None:
    lock = FileLock()
    assert lock.holder() is None
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        lock.acquire()
        os.write(tell, b"!")
        time.sleep(1000)
    os.read(told, 1)
    looks: list[int | None] = []

    def look() -> None:
        looks.append(lock.holder())
        if len(looks) == 3:
            os.kill(child, signal.SIGKILL)

    lock.while_waiting = look
    with lock:
        assert lock.holder() is None  # no other process
        assert set(looks[:3]) == {child}
    os.waitpid(child, 0)
    os.close(told)
    os.close(tell)

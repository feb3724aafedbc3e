"""
Worker processes in programs that ignore SIGCHLD or wait for all children, whose fork server is killed or can't be reached, or
that reach a limit.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing import forkserver, popen_forkserver
from pathlib import Path
from typing import Any

import pytest
from test_healing import REPLACED, START_METHODS, Watching, assert_counted_once, make_env, make_model, processes

from sb3_a3c import WorkerDied


def reap(*_: Any) -> None:
    """As programs do that start many processes and wait for none."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


@pytest.fixture
def on_child(request: pytest.FixtureRequest) -> Iterator[Any]:
    before = signal.signal(signal.SIGCHLD, request.param)
    yield request.param
    signal.signal(signal.SIGCHLD, before)


def kill_fork_server() -> None:
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.parametrize("on_child", [signal.SIG_IGN, reap], indirect=True, ids=["ignored", "reaped"])
@pytest.mark.parametrize(
    "start_method", [pytest.param(method, marks=[pytest.mark.slow] if method == "spawn" else []) for method in START_METHODS]
)
def test_who_waits_for_children(start_method: str, on_child: Any) -> None:
    """A worker that is killed is replaced, all are gone in the end, and multiprocessing knows that they are."""
    model = make_model(make_env(2, seconds=0.001), start_method)
    watching = Watching(20, lambda n_calls: processes(1)[0].kill() if n_calls == 1 else None)
    model.learn(120, callback=watching, log_interval=None)
    assert_counted_once(model, watching, 120)
    assert model.logger.name_to_value["async/restarts"] == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "on_child",
    [
        pytest.param(signal.SIG_DFL, id="default"),
        pytest.param(signal.SIG_IGN, id="ignored", marks=pytest.mark.slow),
        pytest.param(reap, id="reaped", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_the_fork_server_is_killed_between_two_runs(on_child: Any) -> None:
    """It may still be ending when the next run begins."""
    model = make_model(make_env(2))
    for n_runs in range(1, 4):
        kill_fork_server()
        model.learn(20, reset_num_timesteps=False)
        assert model.num_timesteps == 20 * n_runs


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.filterwarnings("ignore:no process could be started for worker 1 .* is replaced:UserWarning")
@pytest.mark.parametrize("on_child", [signal.SIG_DFL, signal.SIG_IGN], indirect=True, ids=["default", "ignored"])
def test_the_fork_server_is_killed_together_with_a_worker(on_child: Any) -> None:
    def kill(n_calls: int) -> None:
        if n_calls == 1:
            kill_fork_server()
            processes(1)[0].kill()

    model = make_model(make_env(2, seconds=0.001))
    watching = Watching(20, kill)
    model.learn(120, callback=watching, log_interval=None)
    assert_counted_once(model, watching, 120)


def test_a_fork_server_that_never_lives_is_explained(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(1)\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing
            from stable_baselines3.common.env_util import make_vec_env
            from sb3_a3c import A3C

            if __name__ == "__main__":
                multiprocessing.set_forkserver_preload(["deadly"])
                A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), backend="process").learn(100)
            """
        )
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.returncode == 1
    assert "WorkerDied: no process could be started for worker 0" in process.stderr
    assert "the fork server, from which worker processes are forked, ended 3 times" in process.stderr


@pytest.mark.parametrize("how", [pytest.param("killed", marks=pytest.mark.slow), "interrupted"])
def test_a_frozen_fork_server(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a timeout another one takes its place; without one Ctrl-C ends the wait for it."""
    monkeypatch.setattr("sb3_a3c.backends.process.starter._START_WITHIN", 0.5)
    monkeypatch.setattr("sb3_a3c.backends.process.backend._PATIENCE", 0.5)
    model = make_model(make_env(2), backend_kwargs=dict(worker_timeout=5.0 if how == "killed" else None))
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    if how == "interrupted":
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            model.learn(20)
    model.learn(20)
    assert model.num_timesteps == 20


def test_the_folder_with_the_fork_servers_socket_is_removed() -> None:
    """As by a program that cleans up temporary files. Processes that were forked from the old server go on."""
    model = make_model(make_env(2)).learn(20)
    server = forkserver._forkserver  # type: ignore[attr-defined]
    old, folder = server._forkserver_pid, os.path.dirname(server._forkserver_address)
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        shutil.rmtree(folder)
        assert model.learn(20).num_timesteps == 20
        assert server._forkserver_pid != old and os.path.dirname(server._forkserver_address) == folder
        assert pool.apply(os.getppid) == old
    os.waitpid(old, 0)  # it has ended, because nobody needs it any more


def test_a_fork_server_that_refuses_connections_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sb3_a3c.backends.process.fork_server._ENDS_WITHIN", 0.5)
    model = make_model(make_env(2)).learn(20)
    server = forkserver._forkserver  # type: ignore[attr-defined]
    old = server._forkserver_pid
    with socket.socket(socket.AF_UNIX) as nobody_listens:
        nobody_listens.bind(str(tmp_path / "socket"))
        server._forkserver_address = str(tmp_path / "socket")
        assert model.learn(20).num_timesteps == 20
    assert server._forkserver_pid != old


def test_processes_that_die_at_once_are_not_blamed_on_the_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one dies before multiprocessing has written its arguments, the pipe is broken."""

    def die(popen: Any, process: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sb3_a3c.backends.process.fork_server._ENDS_WITHIN", 0.1)
    model = make_model(make_env(2))
    with monkeypatch.context() as patch, pytest.raises(WorkerDied, match=r"3 attempts failed(.|\n)*needs a guard"):
        patch.setattr(popen_forkserver.Popen, "_launch", die)
        model.learn(20)
    model.learn(20)


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_the_limit_of_open_files_is_reached(start_method: str) -> None:
    """Enough are left for the run itself, and not for all of its processes."""
    model = make_model(make_env(8), start_method).learn(40)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    with ExitStack() as stack:
        while (file := stack.enter_context(open(os.devnull))).fileno() < highest:
            pass
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 20, hard))
        with pytest.raises(OSError, match="Too many open files") as raised:
            model.learn(40)
    assert "ulimit -n" in raised.value.__notes__[0]
    model.learn(40)


LEARNS = """
    import os, sys
    from stable_baselines3.common.env_util import make_vec_env
    from sb3_a3c import A3C

    if __name__ == "__main__":
        model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), backend="process")
        if sys.argv[1:]:
            os.chdir(sys.argv[1])
            os.rmdir(sys.argv[1])
        model.learn(100)
"""


@pytest.mark.parametrize("what", ["long", "removed"])
def test_folders_that_multiprocessing_cannot_use(what: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(LEARNS))
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    arguments = [str(folder)] if what == "removed" else []
    variables = dict(TMPDIR=str(folder)) if what == "long" else {}
    command = [sys.executable, str(tmp_path / "script.py"), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **variables})
    expected = {
        "long": ("OSError: AF_UNIX path too long", f"temporary files, {folder}. Set the environment variable TMPDIR"),
        "removed": ("FileNotFoundError: [Errno 2]", "the current folder was removed"),
    }
    assert all(text in process.stderr for text in expected[what]) and "fork server" not in process.stderr, process.stderr


_OTHERS = ["thread", "serial", "a2c"]
TERMINAL = """
    import sys
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import SubprocVecEnv
    from sb3_a3c import A3C

    if __name__ == "__main__":
        env = make_vec_env("CartPole-v1", n_envs=2, vec_env_cls=SubprocVecEnv)
        backend = sys.argv[1]
        model = A2C("MlpPolicy", env, device="cpu") if backend == "a2c" else A3C("MlpPolicy", env, backend=backend)

        def tell(*_):
            if model.num_timesteps == 200:
                print("learning", flush=True)
            return True

        try:
            model.learn(100_000_000, callback=tell, log_interval=None)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        try:  # as rl-zoo3 does
            env.close()
        except EOFError:
            pass
        model.save(sys.argv[2])
        print("saved", flush=True)
"""


@pytest.mark.parametrize("backend", ["process", *(pytest.param(name, marks=pytest.mark.slow) for name in _OTHERS)])
def test_ctrl_c_in_a_terminal(backend: str, tmp_path: Path) -> None:
    """It reaches all processes of the group, those of a SubprocVecEnv too. ``close()`` raises nothing that A2C would not."""
    (tmp_path / "script.py").write_text(textwrap.dedent(TERMINAL))
    command = [sys.executable, str(tmp_path / "script.py"), backend, str(tmp_path / "model")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "learning\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert (out, process.returncode) == ("interrupted\nsaved\n", 0), err
    assert (tmp_path / "model.zip").exists()


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_callback_that_forks_and_fails_in_the_fork(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers are not those of the fork: it waits for none, and ends none."""
    monkeypatch.setattr("sb3_a3c.backends.process.backend._PATIENCE", 0.5)
    exit_codes: list[int] = []

    def fork(*_: Any) -> bool:
        if not exit_codes:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(60)
                raise ZeroDivisionError
            exit_codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return True

    main_process, model = os.getpid(), make_model(make_env(2))
    model.backend, model.backend_kwargs = backend, None
    try:
        model.learn(200, callback=fork)
    except ZeroDivisionError:
        if os.getpid() != main_process:
            os._exit(7)
        raise
    finally:
        if os.getpid() != main_process:
            os._exit(1)
    assert exit_codes == [7] and model.num_timesteps == 200

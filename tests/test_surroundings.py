"""Worker processes in programs that ignore SIGCHLD or wait for all children, and whose fork server is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from test_healing import REPLACED, START_METHODS, Watching, assert_counted_once, make_env, make_model, processes


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
@pytest.mark.parametrize("start_method", START_METHODS)
def test_who_waits_for_children(start_method: str, on_child: Any) -> None:
    """A worker that is killed is replaced, all are gone in the end, and multiprocessing knows that they are."""
    model = make_model(make_env(2, seconds=0.001), start_method)
    watching = Watching(20, lambda n_calls: processes(1)[0].kill() if n_calls == 1 else None)
    model.learn(120, callback=watching, log_interval=None)
    assert_counted_once(model, watching, 120)
    assert model.logger.name_to_value["async/restarts"] == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "on_child", [signal.SIG_DFL, signal.SIG_IGN, reap], indirect=True, ids=["default", "ignored", "reaped"]
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

"""The package works where nobody may write, and worker processes import the copy of it that the main process imports."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

import sb3_a3c
from sb3_a3c.backends.process import fork_server, installation
from sb3_a3c.backends.process.installation import Installation, importing_the_same
from sb3_a3c.backends.process.parcel import pack

PACKAGE = Path(sb3_a3c.__file__).parent


def copy_package(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "sb3_a3c", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def without_cache(folder: Path) -> dict[str, str]:
    """A copy of the package, and environment variables with which numba finds no folder that it could write to."""
    copy_package(folder)
    for package in ("", "kernels"):
        (folder / "sb3_a3c" / package / "__pycache__").touch()  # the superuser may write to any folder, but not to a file
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    return variables | dict(HOME="/dev/null", XDG_CACHE_HOME="/dev/null", PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")


def run(folder: Path, program: str, variables: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(program)
    return subprocess.run([sys.executable, script], env=variables, cwd=cwd, capture_output=True, text=True, timeout=600)


TORCH = """
import warnings
warnings.simplefilter("error")
from sb3_a3c import A3C

A3C("MlpPolicy", "CartPole-v1", n_workers=2, engine="torch").learn(20)
"""


def test_the_torch_engine_needs_no_cache(tmp_path: Path) -> None:
    result = run(tmp_path, TORCH, without_cache(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")


FUSED = """
import os
from pathlib import Path
from stable_baselines3.common.callbacks import BaseCallback
from sb3_a3c import A3C

class Watch(BaseCallback):
    def _on_step(self):
        return True

    def _on_training_end(self):
        print(len(list(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbi"))), os.environ["NUMBA_CACHE_DIR"])

if __name__ == "__main__":
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="process", engine="fused")
    for _ in range(2):
        model.learn(100, Watch())
"""


@pytest.mark.slow
def test_kernels_go_to_a_temporary_folder_with_one_warning(tmp_path: Path) -> None:
    result = run(tmp_path, FUSED, without_cache(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Set the environment variable NUMBA_CACHE_DIR") == 1, result.stderr
    first, second = (line.split() for line in result.stdout.splitlines())
    assert first == second
    assert int(first[0]) == 7  # gradient, act, predict_values, returns, copy, rmsprop_step, total, by whichever process
    assert not Path(first[1]).exists()


WHERE = """
import os
import gymnasium as gym
import sb3_a3c
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

class Env(gym.Wrapper):
    def where(self):
        variables = "PYTHONPATH", "PYTHONSAFEPATH", "SB3_A3C_SET_BACK"
        return [sb3_a3c.__file__, *map(os.environ.get, variables)]

class Where(BaseCallback):
    def _on_step(self):
        for where in self.training_env.env_method("where"):
            print(where)
        return False

if __name__ == "__main__":
    venv = DummyVecEnv([lambda: Env(gym.make("CartPole-v1"))] * 2)
    kwargs = dict(start_method=START_METHOD)
    sb3_a3c.A3C("MlpPolicy", venv, n_workers=2, backend="process", backend_kwargs=kwargs, engine="torch").learn(100, Where())
"""


@pytest.mark.parametrize(
    "start_method", ["forkserver", *(pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "fork"))]
)
def test_workers_import_the_copy_of_the_main_process(start_method: str, tmp_path: Path) -> None:
    """As after ``pip install .`` in a clone's root: the current folder has another copy."""
    (tmp_path / "scripts").mkdir()
    clone = copy_package(tmp_path)
    variables = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    variables.pop("PYTHONSAFEPATH", None)
    program = WHERE.replace("START_METHOD", repr(start_method))
    result = run(tmp_path / "scripts", program, variables, cwd=clone)
    expected = [str(PACKAGE / "__init__.py"), str(PACKAGE.parent), None, None]
    assert result.stdout.splitlines() == [str(expected)] * 2, result.stderr


ANOTHER_SERVER = """
import multiprocessing, multiprocessing.forkserver
import sb3_a3c

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["sb3_a3c"])
    multiprocessing.forkserver.ensure_running()
    sb3_a3c.A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="process", engine="torch").learn(100)
"""


def test_another_copy_in_a_worker_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    clone = copy_package(tmp_path)
    variables = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    result = run(tmp_path / "scripts", ANOTHER_SERVER, variables, cwd=clone)
    last_line = next(line for line in result.stderr.splitlines() if line.startswith("RuntimeError: "))
    assert f"from {clone / 'sb3_a3c' / '__init__.py'}" in last_line and f"from {PACKAGE / '__init__.py'}" in last_line


def test_an_installation_is_compared_by_file_and_version() -> None:
    here = Installation.here()
    here.adopt()
    with pytest.raises(RuntimeError, match=r"the main process sb3_a3c 0\.0\.0"):
        here._replace(version="0.0.0").adopt()


def seen_by_new_processes(name: str) -> str | None:
    """An environment variable that new processes get, in whatever way they are started."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    value = getenv(name.encode())
    return None if value is None else value.decode()


VARIABLES = "PYTHONPATH", "PYTHONSAFEPATH", "SB3_A3C_SET_BACK"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """The user's environment variables."""
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return dict(zip(VARIABLES, ("mine", None, None), strict=True))


def test_only_the_fork_server_gets_other_environment_variables(mine: dict[str, str | None]) -> None:
    """Another thread may start workers meanwhile, and sends them ``os.environ``."""
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), importing_the_same():
        assert seen_by_new_processes("PYTHONSAFEPATH") == "1"
        assert dict(os.environ) == pack([]).message().environ == before
        raise KeyboardInterrupt
    assert dict(os.environ) == before
    assert {name: seen_by_new_processes(name) for name in VARIABLES} == mine


def test_ctrl_c_leaves_the_environment_variables_of_the_user(
    mine: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any line that the main thread runs while a fork server is started."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    monkeypatch.setattr(server, "_forkserver_pid", None)
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    files = {fork_server.__file__, installation.__file__, os.__file__, threading.__file__}
    at_line = n_lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal n_lines
        # Its lock would stay taken: a trace function can raise between the last line of a with block and the release, where
        # Ctrl-C can't.
        is_traced = frame.f_code.co_filename in files and frame.f_code is not threading.enumerate.__code__
        n_lines += event == "line" and is_traced
        if n_lines == at_line:
            raise KeyboardInterrupt
        return trace

    while n_lines == at_line:
        at_line, n_lines = at_line + 1, 0
        sys.settrace(trace)
        try:
            fork_server.ensure_running()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert {name: seen_by_new_processes(name) for name in VARIABLES} == mine
        assert {name: os.environ.get(name) for name in VARIABLES} == mine
    assert at_line > 5


def test_a_fork_while_another_thread_starts_the_fork_server() -> None:
    """The forked process can start one, too, and has the user's environment variables."""
    inside, out = threading.Event(), threading.Event()

    def start() -> None:
        with importing_the_same():
            inside.set()
            out.wait(0.5)

    thread = threading.Thread(target=start)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        threading.Timer(60, os._exit, [1]).start()
        alone = seen_by_new_processes("SB3_A3C_SET_BACK") is None
        with importing_the_same():
            os._exit(0 if alone else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    out.set()
    thread.join()

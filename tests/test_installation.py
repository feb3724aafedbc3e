"""The package works where nobody may write, and worker processes import the copy of it that the main process imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_a3c
from sb3_a3c.backends.process.installation import Installation, importing_the_same

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
    assert int(first[0]) == 6  # gradient, act, predict_values, returns, copy, rmsprop_step, by whichever process
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


def test_the_environment_variables_are_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), importing_the_same():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        raise KeyboardInterrupt
    assert dict(os.environ) == before

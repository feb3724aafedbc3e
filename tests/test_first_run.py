"""A first run compiles the kernels it needs before its clock starts, and says so. Stale machine code is never loaded."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C
from sb3_a3c.kernels import cache, compilation
from sb3_a3c.kernels.cache import KERNELS
from sb3_a3c.kernels.compilation import compile_kernels, needed

ROOT = str(Path(__file__).parents[1])


def run(program: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-c", program]
    variables = {**os.environ, "PYTHONPATH": ROOT, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)


COMPILES = """
from sb3_a3c.kernels.compilation import compile_kernels

compile_kernels(["copy", "returns"])
"""


def test_a_line_says_that_kernels_are_compiled_and_no_warning_filter_makes_it_an_error(tmp_path: Path) -> None:
    first, second = (run(COMPILES, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr == "Compiling kernels, once per kind of model (about 1 s) ...\n"
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    made = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert made == {"optimizers.copy", "returns.returns"}


DRAWS = """
import numpy as np
from sb3_a3c.kernels.cache import KERNELS, use_cache
from sb3_a3c.kernels.examples import _network

assert use_cache()
noise = np.zeros(2, np.float32)
KERNELS["draw_noise"](_network(), np.zeros(2, np.float32), np.arange(4, dtype=np.uint64), noise)
print(float(noise[1]), sum(KERNELS["draw_noise"].stats.cache_hits.values()))
"""


def test_an_edit_of_an_inner_function_is_never_answered_from_the_cache(tmp_path: Path) -> None:
    """Also if several processes compile at once, and if an edit is undone."""
    package, inner = tmp_path / "sb3_a3c", tmp_path / "sb3_a3c" / "kernels" / "random_numbers.py"
    shutil.copytree(Path(ROOT, "sb3_a3c", "kernels"), package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    original = inner.read_text()

    def draw(_: int = 0) -> list[float]:
        result = run(DRAWS, PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr
        return [float(word) for word in result.stdout.split()]

    noise, n_hits = draw()
    assert n_hits == 0 and draw() == [noise, 1]
    inner.write_text(original.replace("return u * math", "return 3.0 * u * math"))
    with ThreadPoolExecutor() as executor:
        assert [number for number, _ in executor.map(draw, range(3))] == [pytest.approx(3 * noise)] * 3
    assert draw() == [pytest.approx(3 * noise), 1]
    inner.write_text(original)
    assert draw() == [noise, 1]


def test_folders_of_old_builds_are_removed(tmp_path: Path) -> None:
    for age in range(20):
        folder = tmp_path / f"sb3_a3c-{age}"
        folder.mkdir()
        os.utime(folder, (1e9 - age, 1e9 - age))
    made = Path(cache._folder_of_this_build(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {made.name, *(f"sb3_a3c-{age}" for age in range(7))}
    assert made == Path(cache._folder_of_this_build(tmp_path))


@pytest.mark.parametrize(
    "kwargs, extra",
    [
        (dict(engine="torch", n_workers=1), set()),
        (dict(engine="torch"), {"rmsprop_step"}),
        (dict(), {"rmsprop_step"}),
        (dict(use_locking=False), {"rmsprop_step, in place"}),
        (dict(use_rms_prop=False, use_sde=True), {"adam_step", "draw_noise"}),
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_only_what_a_run_needs_is_compiled(kwargs: dict[str, Any], extra: set[str], normalize: bool) -> None:
    env = make_vec_env("Pendulum-v1", 2)
    model = A3C("MlpPolicy", VecNormalize(env) if normalize else env, **kwargs)
    assert model.env is not None
    is_fused = model.engine != "torch"
    expected = {"gradient", "act", "predict_values", "returns", "copy"} if is_fused else set()
    expected |= extra
    expected |= {"normalize rewards", "normalize float32"} if normalize else set()
    assert set(needed(is_fused, model.n_workers != 1, model.policy, model.use_locking, model.env)) == expected


def test_the_clock_starts_after_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_at = []

    def compile_slowly(names: list[str]) -> None:
        compile_kernels(names)
        compiled_at.append(time.time_ns())

    monkeypatch.setattr("sb3_a3c.a3c.compile_kernels", compile_slowly)
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=1).learn(10)
    assert model.start_time >= compiled_at[0]


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_0_prints_nothing_with_a_logger_that_prints(verbose: int, capsys: pytest.CaptureFixture[str]) -> None:
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=1, verbose=verbose)
    model.set_logger(configure(None, ["stdout"]))
    capsys.readouterr()
    model.learn(10, log_interval=None)
    assert ("Learning with 1 worker" in capsys.readouterr().out) == (verbose == 1)


def test_compilation_works_without_a_second_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no process can be started")

    called = []
    monkeypatch.setattr(compilation.subprocess, "Popen", refuse)
    monkeypatch.setattr(compilation, "_ready", set())
    monkeypatch.setattr(compilation, "_is_compiled", lambda name: False)
    monkeypatch.setattr(compilation, "usable_cores", lambda: 2)
    example = compilation.EXAMPLES["copy"]
    examples = {name: example._replace(call=lambda name=name: called.append(name)) for name in ("act", "copy")}  # type: ignore[misc]
    monkeypatch.setattr(compilation, "EXAMPLES", examples)
    compile_kernels(["act", "copy"])
    assert {"act", "copy"} == set(called)


LEARNS = """
from sb3_a3c import A3C

assert A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="serial").learn(40).num_timesteps == 40
A3C("MlpPolicy", "CartPole-v1", n_workers=1, engine="fused").learn(10)
"""


def test_numba_without_compilation_works() -> None:
    result = run(LEARNS, NUMBA_DISABLE_JIT="1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_the_package_touches_no_cache(tmp_path: Path) -> None:
    result = run("import sb3_a3c, sb3_a3c.backends", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert (result.returncode, result.stderr) == (0, "")
    assert not (tmp_path / "cache").exists()


def test_all_kernels_are_in_the_cache() -> None:
    assert {"act", "gradient", "normalize", "step_rewards"} <= KERNELS.keys()
    assert all(kernel.stats.cache_path for kernel in KERNELS.values())

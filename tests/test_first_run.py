"""A first run compiles what it needs before its clock starts, and says so; verbose=0 says nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C
from sb3_a3c.kernels import compilation
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
    assert first.stderr == "Compiling kernels, once per installation (about 0 s) ...\n"
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    made = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert made == {"kernels.copy", "kernels.returns"}


@pytest.mark.parametrize(
    "kwargs, extra",
    [
        (dict(engine="torch"), set()),
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
    expected = {"gradient", "act", "predict_values", "returns", "copy", *extra} if extra else set()
    expected |= {"normalize rewards", "normalize float32"} if normalize else set()
    engine = "torch" if model.engine == "torch" else "fused"
    assert set(needed(engine, model.policy, model.use_locking, model.env)) == expected


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


def test_a_process_that_can_not_be_started_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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

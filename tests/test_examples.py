"""Every example runs as its user would run it, without a warning, and prints and writes what it promises."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
_EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
_NUMBER = r"-?\d+\.\d+"


@dataclass(frozen=True)
class Promise:
    """
    :param size: Steps enough to see that it works, or episodes
    :param last_line: A pattern of the last line printed
    :param files: Patterns of the files in ``--out`` with how many there are of each; none: the example has no ``--out``
    :param unit: What the size is the number of
    :param extra: Packages of an extra that it needs
    :param extra_name: The name of the extra
    """

    size: int
    last_line: str
    files: dict[str, int]
    unit: str = "timesteps"
    extra: tuple[str, ...] = ()
    extra_name: str = "extra"


PROMISES = {
    "atari": Promise(
        400,
        rf"PongNoFrameskip-v4, 400 steps: .*episode\.gif has a return of {_NUMBER}",
        {"models/last.zip": 1, "learning_curve.png": 1, "episode.gif": 1},
        extra=("matplotlib",),
    ),
    "a3c_from_scratch": Promise(
        4_000, rf" +40\d\d steps, +\d+ s: mean return of the last 50 episodes {_NUMBER}", {}, unit="total-timesteps"
    ),
    "beside_a2c": Promise(200, rf"A3C, DummyVecEnv +200 +40 +{_NUMBER} +{_NUMBER}", {}),
    "callbacks_and_tensorboard": Promise(
        1600,
        rf"best mean reward {_NUMBER}, of .*best_model\.zip",
        {
            "best/best_model.zip": 1,
            "checkpoints/rl_model_*_steps.zip": 4,
            "evaluations/evaluations.npz": 1,
            "tensorboard/A3C_1/events.out.tfevents.*": 1,
        },
        extra=("tensorboard",),
    ),
    "compiled_env": Promise(
        5_000,
        rf"seed 0: [\d,]+ steps/s, mean reward {_NUMBER} \+/- {_NUMBER} over 20 episodes of Gymnasium's Pendulum-v1",
        {"model.zip": 1, "learning_curve.png": 1},
        extra=("matplotlib", "rich", "tqdm"),
    ),
    "normalized_and_resumed": Promise(
        1280,
        rf"resumed: mean reward {_NUMBER} \+/- {_NUMBER}, .*model_1280_steps\.zip",
        {"model_640_steps.zip": 1, "vecnormalize_640_steps.pkl": 1, "*_1280_steps.*": 2, "*.partial": 0},
    ),
    "own_env_and_policy": Promise(1000, rf"after: mean reward {_NUMBER}, goal reached in \d+% of 20 episodes", {}),
    "pendulum": Promise(
        2000,
        rf"seed 0: mean reward {_NUMBER} \+/- {_NUMBER} over 50 episodes",
        {"model.zip": 1, "learning_curve.png": 1, "vecnormalize.pkl": 1, "monitor.csv": 1},
        extra=("matplotlib", "rich", "tqdm"),
    ),
    "ray_tune": Promise(
        500,
        rf"best of 10 trials: mean return {_NUMBER} with learning_rate=.*, ent_coef=.*",
        {},
        extra=("pandas",),  # those of the extra that are left out below
        extra_name="tune",
    ),
    "tutorial_pendulum": Promise(
        4,
        rf"seed 0: moving average -\d+ at the end, -\d+ at best; mean reward {_NUMBER} \+/- {_NUMBER} over 500 episodes .*",
        {"seed_0.zip": 1, "moving_reward.png": 1, "tensorboard/seed_0_1/events.out.tfevents.*": 1},
        unit="episodes",
        extra=("matplotlib", "tensorboard"),
    ),
}


WITHOUT_EXTRAS = """
import runpy, sys
for name in ("matplotlib", "pandas", "rich", "scipy", "tensorboard", "tqdm", "yaml"):
    sys.modules[name] = None
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_extras(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """As after a plain ``pip install .``."""
    code = WITHOUT_EXTRAS.format(argv=[f"examples/{name}.py", *options])
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", [name for name in PROMISES if PROMISES[name].extra])
def test_an_example_says_which_extra_it_needs(name: str, tmp_path: Path) -> None:
    """In its head, and in the last line of its error; it has written nothing by then."""
    promise = PROMISES[name]
    assert f"pip install '.[{promise.extra_name}]'" in (ROOT / "examples" / f"{name}.py").read_text().partition('"""\n\n')[0]
    run = run_without_extras(name, *(["--out", str(tmp_path / "out")] if promise.files else []))
    message = (
        f"This example needs the extra '{promise.extra_name}' (missing: {', '.join(promise.extra)}). In a clone of sb3_a3c: "
        f"pip install '.[{promise.extra_name}]'"
    )
    assert run.returncode == 1 and run.stderr.splitlines()[-1] == f"sb3_a3c.system.extras.MissingExtra: {message}", run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in _EXAMPLES if not PROMISES[name].extra])
def test_the_other_examples_need_no_extra(name: str, tmp_path: Path) -> None:
    promise = PROMISES[name]
    options = [f"--{promise.unit}", str(promise.size), *(["--out", str(tmp_path / "out")] if promise.files else [])]
    run = run_without_extras(name, *options)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(promise.last_line, run.stdout.splitlines()[-1]), run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", _EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    assert name in PROMISES, f"examples/{name}.py is new: say in PROMISES what it prints and writes"
    promise = PROMISES[name]
    command = [sys.executable, "-W", "error", f"examples/{name}.py", f"--{promise.unit}", str(promise.size)]
    if promise.files:
        command += ["--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    assert re.fullmatch(promise.last_line, run.stdout.splitlines()[-1]), run.stdout
    for pattern, n_files in promise.files.items():
        found = list((tmp_path / "out").glob(pattern))
        assert len(found) == n_files, f"{pattern}: {found}"


def test_a3c_from_scratch_can_be_read_in_ten_minutes() -> None:
    source = (ROOT / "examples/a3c_from_scratch.py").read_text()
    assert len(source.splitlines()) <= 185
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"gymnasium", "numpy", "torch"}


@pytest.mark.slow
def test_a3c_from_scratch_learns() -> None:
    """From about -1200. The example's own number of steps takes it further, see docs/from_scratch.rst."""
    command = [sys.executable, "-W", "error", "examples/a3c_from_scratch.py", "--total-timesteps", "60000"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    last_line = re.search(rf"mean return of the last 50 episodes ({_NUMBER})", run.stdout.splitlines()[-1])
    assert last_line is not None and float(last_line[1]) > -700, run.stdout


def test_the_compiled_pendulum_is_gymnasiums() -> None:
    """The same states, observations and rewards, to the rounding of float32."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from compiled_env import CompiledPendulum  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    compiled, rng = CompiledPendulum(5), np.random.default_rng(0)
    compiled.reset(seed=1)
    envs = [gym.make("Pendulum-v1").unwrapped for _ in range(5)]
    for env, state in zip(envs, compiled.states, strict=True):
        env.reset()
        env.state = state.copy()  # type: ignore[attr-defined]
    compiled.lengths[:] = 0
    for _ in range(150):
        actions = rng.uniform(-3, 3, (5, 1)).astype(np.float32)
        obs, rewards, terminated, truncated, _ = compiled.step(actions)
        expected = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        np.testing.assert_allclose(obs, [one[0] for one in expected], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rewards, [one[1] for one in expected], rtol=1e-4, atol=1e-5)
        assert not (terminated | truncated).any()

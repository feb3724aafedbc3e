"""Every example runs as its user would run it, without a warning, and prints and writes what it promises."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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
    """

    size: int
    last_line: str
    files: dict[str, int]
    unit: str = "timesteps"


PROMISES = {
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
    ),
    "tutorial_pendulum": Promise(
        4,
        rf"seed 0: moving average -\d+ at the end, -\d+ at best; mean reward {_NUMBER} \+/- {_NUMBER} over 500 episodes .*",
        {"seed_0.zip": 1, "moving_reward.png": 1, "tensorboard/seed_0_1/events.out.tfevents.*": 1},
        unit="episodes",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    assert name in PROMISES, f"examples/{name}.py is new: say in PROMISES what it prints and writes"
    promise = PROMISES[name]
    command = [sys.executable, "-W", "error", f"examples/{name}.py", f"--{promise.unit}", str(promise.size)]
    if promise.files:
        command += ["--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    assert re.fullmatch(promise.last_line, run.stdout.splitlines()[-1]), run.stdout
    for pattern, n_files in promise.files.items():
        found = list((tmp_path / "out").glob(pattern))
        assert len(found) == n_files, f"{pattern}: {found}"

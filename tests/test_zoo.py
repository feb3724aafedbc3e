"""rl-zoo3 trains, continues, enjoys, records and optimizes A3C with its own commands, and its own algorithms as before."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C, MnihCNN
from sb3_a3c.comparison.errors import BadArgument
from sb3_a3c.zoo import make
from sb3_a3c.zoo.__main__ import COMMANDS
from sb3_a3c.zoo.models import SETTINGS

SCRIPT = """
import argparse

import sb3_a3c.zoo
from rl_zoo3.exp_manager import ExperimentManager

if __name__ == "__main__":
    options = dict(n_timesteps=400, eval_freq=-1, log_interval=-1)
    manager = ExperimentManager(argparse.Namespace(), "a3c", "CartPole-v1", "logs", **options)
    model, _ = manager.setup_experiment()
    manager.learn(model)
    print(type(model).__name__, model.num_timesteps)
"""


def zoo(folder: Path, *arguments: str, module: str = "sb3_a3c.zoo") -> str:
    """Run a command in a folder, and return what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_make_gives_a_model_with_settings_that_work() -> None:
    model = make("Pendulum-v1", n_envs=4, seed=3)
    assert isinstance(model, A3C) and isinstance(model.env, VecNormalize)
    assert (model.n_envs, model.gamma, model.n_workers, model.use_sde, model.seed) == (4, 0.9, 2, True, 3)
    model.learn(800)
    assert model.num_timesteps == 800


@pytest.mark.parametrize(
    ("env_id", "changes", "message"),
    [
        ("MountainCar-v0", {}, "must have an entry 'MountainCar-v0'"),
        (
            "Pendulum-v1",
            {"n_env": 4},
            "the settings of a3c must not have a key 'n_env'. Did you mean 'n_envs'\\? They may have ",
        ),
        ("Pendulum-v1", {"nonsense": 4}, "must not have a key 'nonsense'. They may have "),
        ("Pendulum-v1", {"n_envs": 0}, "n_envs in the settings of a3c"),
        ("Pendulum-v1", {"seed": "a"}, "seed must be a whole number, but it is 'a'"),
        (3, {}, "env_id must be the id of an environment, but it is 3"),
    ],
)
def test_make_says_what_is_wrong(env_id: Any, changes: dict, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        make(env_id, **changes)


def test_an_unknown_command_is_told_with_the_known_ones(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-m", "sb3_a3c.zoo", "trian"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "'trian'" in run.stderr
    assert all(command in run.stderr for command in COMMANDS)


@pytest.mark.slow
def test_train_continue_enjoy_record_and_benchmark(tmp_path: Path) -> None:
    short = ["--algo", "a3c", "--env", "CartPole-v1"]
    out = zoo(tmp_path, "train", *short, "-n", "8000", "--eval-freq", "4000", "--save-freq", "4000", "-P", "--seed", "0")
    assert "Loading hyperparameters from" in out and "sb3_a3c/zoo/a3c.yml" in out
    assert "Eval num_timesteps=8000" in out
    run = tmp_path / "logs/a3c/CartPole-v1_1"
    names = {path.name for path in run.iterdir()}
    assert {"CartPole-v1.zip", "best_model.zip", "evaluations.npz", "0.monitor.csv", "7.monitor.csv"} <= names
    model = A3C.load(run / "CartPole-v1.zip")
    assert model.num_timesteps == 63 * 8 * 16 and model.backend == "process"

    out = zoo(tmp_path, "train", *short, "-n", "1000", "-i", str(run / "CartPole-v1.zip"), "--eval-freq", "-1")
    assert "Loading pretrained agent" in out
    assert (tmp_path / "logs/a3c/CartPole-v1_2/CartPole-v1.zip").exists()

    out = zoo(tmp_path, "enjoy", *short, "-f", "logs", "--no-render", "-n", "600", "--exp-id", "1")
    assert "Mean reward" in out
    zoo(tmp_path, "record", *short, "-f", "logs", "-n", "50", "--exp-id", "1")
    assert list((run / "videos").glob("*.mp4"))
    out = zoo(tmp_path, "benchmark", "--no-hub", "--log-dir", "logs", "--test-mode", "-n", "600")
    assert "Mean reward" in out and (tmp_path / "logs/benchmark/benchmark.md").exists()


@pytest.mark.slow
def test_normalized_environments_in_processes_and_a_schedule_for_the_critic(tmp_path: Path) -> None:
    short = ["--algo", "a3c", "--env", "Pendulum-v1", "-n", "4000", "--vec-env", "subproc", "--eval-freq", "2000"]
    zoo(tmp_path, "train", *short, "-params", "vf_learning_rate:'lin_2e-3'", "n_envs:4")
    run = tmp_path / "logs/a3c/Pendulum-v1_1"
    model = A3C.load(run / "Pendulum-v1.zip")
    assert callable(model.vf_learning_rate) and model.vf_learning_rate(0.5) == pytest.approx(1e-3)
    assert (run / "Pendulum-v1/vecnormalize.pkl").exists()
    out = zoo(tmp_path, "enjoy", "--algo", "a3c", "--env", "Pendulum-v1", "-f", "logs", "--no-render", "-n", "400")
    assert "Loading running average" in out


@pytest.mark.slow
def test_optimize_with_two_jobs(tmp_path: Path) -> None:
    trials = ["--n-trials", "3", "--n-jobs", "2", "--no-optim-plots", "--seed", "0"]
    out = zoo(tmp_path, "optimize", "--algo", "a3c", "--env", "CartPole-v1", "-n", "2000", *trials)
    assert "Number of finished trials:  3" in out
    (table,) = (tmp_path / "logs/a3c").glob("report_*.csv")
    header, *rows = table.read_text().splitlines()
    assert len(rows) == 3 and all("COMPLETE" in row for row in rows)
    assert "params_n_steps_pow" in header


@pytest.mark.slow
def test_other_algorithms_of_rl_zoo3(tmp_path: Path) -> None:
    out = zoo(tmp_path, "train", "--algo", "a2c", "--env", "CartPole-v1", "-n", "500", "--eval-freq", "-1")
    assert "rl_zoo3/hyperparams/a2c.yml" in out
    assert (tmp_path / "logs/a2c/CartPole-v1_1/CartPole-v1.zip").exists()


@pytest.mark.slow
def test_the_import_alone_registers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"A3C {4 * 8 * 16}"  # rollouts of 8 environments and 16 steps


@pytest.mark.slow
def test_settings_of_cartpole_learn_it() -> None:
    """In three runs, for processes do not repeat: of 80 runs, 79 reached 500, and one reached 234."""
    means = []
    for seed in range(3):
        model = make("CartPole-v1", seed)
        model.learn(200_000)
        means.append(evaluate_policy(model, model.env, n_eval_episodes=20)[0])  # type: ignore[arg-type]
    assert np.median(means) >= 475, means


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # Box2D's; as an error it ends Python
@pytest.mark.parametrize("env_id", yaml.safe_load(SETTINGS.read_text()))
def test_settings(env_id: str) -> None:
    """Every entry makes a model that learns."""
    atari = env_id.endswith("NoFrameskip-v4")
    if atari:
        gym.register_envs(pytest.importorskip("ale_py"))
    try:
        model = make(env_id, n_envs=2, n_workers=2, backend="serial")
    except gym.error.DependencyNotInstalled as missing:
        pytest.skip(str(missing))
    if atari:
        assert model.observation_space.shape == (4, 84, 84) or model.observation_space.shape == (84, 84, 4)
        assert isinstance(model.policy.features_extractor, MnihCNN)
    model.learn(1)
    assert model.num_timesteps == 2 * model.n_steps

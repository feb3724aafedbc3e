"""What was learned is not lost: a loaded model goes on, the same way each time, and a killed program leaves checkpoints."""

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kwargs", [{}, dict(use_sde=True), dict(n_workers=1), dict(ent_coef=[0.0, 0.1, 0.2])], ids=str)
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_a_run_loaded_twice_and_continued_twice_is_the_same_run(engine: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    path, statistics = tmp_path / "model.zip", str(tmp_path / "vecnormalize.pkl")
    env = VecNormalize(make_vec_env("Pendulum-v1", 3, seed=1))
    model = A3C("MlpPolicy", env, backend="serial", engine=engine, seed=2, **kwargs).learn(600)
    model.save(path)
    env.save(statistics)
    ends = []
    for _ in range(2):
        env = VecNormalize.load(statistics, make_vec_env("Pendulum-v1", 3, seed=5))
        loaded = A3C.load(path, env=env)
        assert loaded.num_timesteps == 600
        loaded.learn(600, reset_num_timesteps=False)
        assert loaded.num_timesteps == 1200
        params = [param.numpy(force=True).ravel() for param in loaded.policy.parameters()]
        states = [state["square_avg"].numpy(force=True).ravel() for state in loaded.policy.optimizer.state.values()]
        ends.append(np.concatenate([*params, *states, env.obs_rms.mean, env.obs_rms.var]))  # type: ignore[union-attr]
    np.testing.assert_array_equal(*ends)


def test_a_continued_run_does_not_repeat_its_noise(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    first = A3C("MlpPolicy", make_vec_env("Pendulum-v1", 2), backend="serial", seed=2, learning_rate=0.0)
    actions: list[np.ndarray] = []
    first.learn(10, lambda locals_, _: actions.append(locals_["actions"]) is None)
    first.save(path)
    A3C.load(path, env=make_vec_env("Pendulum-v1", 2)).learn(
        10, lambda locals_, _: actions.append(locals_["actions"]) is None, reset_num_timesteps=False
    )
    assert len(np.unique(np.concatenate(actions))) == 20


SCRIPT = """
import sys
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from sb3_a3c import A3C

if __name__ == "__main__":
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=1), seed=1, backend=sys.argv[1])
    model.learn(10**9, CheckpointCallback(save_freq=500, save_path=sys.argv[2]))
"""


@pytest.mark.parametrize("backend", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_a_killed_program_loses_what_came_after_its_last_checkpoint(backend: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "checkpoints"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script), backend, str(folder)]) as program:
        deadline = time.monotonic() + 600
        while len(list(folder.glob("*.zip"))) < 4 and program.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        program.send_signal(signal.SIGKILL)
    steps = sorted(int(path.stem.split("_")[2]) for path in folder.glob("rl_model_*_steps.zip"))
    assert steps == [1000 * (i + 1) for i in range(len(steps))] and len(steps) >= 4
    # The last may have been cut off in the middle of its writing; the one before is whole.
    model = A3C.load(folder / f"rl_model_{steps[-2]}_steps.zip", env=make_vec_env("CartPole-v1", 2))
    assert model.num_timesteps == steps[-2] and model._n_updates >= steps[-2] // 5 - 2
    assert all(th.isfinite(param).all() for param in model.policy.parameters())
    model.learn(1000, reset_num_timesteps=False)
    assert model.num_timesteps == steps[-2] + 1000


def test_an_example_replaces_a_file_by_a_whole_one_only(tmp_path: Path) -> None:
    write_whole = runpy.run_path(str(ROOT / "examples" / "normalized_and_resumed.py"))["write_whole"]
    path = tmp_path / "model.zip"
    path.write_text("good")

    def dies(partial: str) -> None:
        Path(partial).write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(dies, path)
    assert path.read_text() == "good"
    write_whole(lambda partial: Path(partial).write_text("better"), path)
    assert path.read_text() == "better"

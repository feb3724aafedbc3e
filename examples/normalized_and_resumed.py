"""
VecNormalize normalizes observations and rewards, and all workers share its statistics. Training is saved and then continued,
as another program could do. A model is useful only with its statistics, so both are saved and loaded together. (The few steps
here are not enough to learn Pendulum. The example shows how to continue.)

    python examples/normalized_and_resumed.py --out runs/resumed
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C

ENV_ID, N_ENVS, N_WORKERS, GAMMA = "Pendulum-v1", 8, 2, 0.9


def train(timesteps: int, out: Path) -> Path:
    env = VecNormalize(make_vec_env(ENV_ID, n_envs=N_ENVS, seed=0), gamma=GAMMA)
    model = A3C("MlpPolicy", env, gamma=GAMMA, gae_lambda=0.9, n_steps=8, n_workers=N_WORKERS, seed=0)
    model.learn(timesteps)
    return save(model, out)


def resume(path: Path, timesteps: int, out: Path) -> Path:
    env = VecNormalize.load(str(statistics_of(path)), make_vec_env(ENV_ID, n_envs=N_ENVS, seed=1))
    model = A3C.load(path, env=env)
    model.learn(timesteps, reset_num_timesteps=False)  # in addition to the steps so far
    return save(model, out)


def evaluate(path: Path) -> str:
    env = VecNormalize.load(str(statistics_of(path)), make_vec_env(ENV_ID, seed=2))
    env.training = False  # statistics don't change
    mean, std = evaluate_policy(A3C.load(path), env, n_eval_episodes=20)  # the Monitor counts unscaled rewards
    return f"mean reward {mean:.1f} +/- {std:.1f}"


def save(model: A3C, out: Path) -> Path:
    """The statistics are saved first, so that no model is without them."""
    path = out / f"model_{model.num_timesteps}_steps.zip"
    env = model.get_vec_normalize_env()
    assert env is not None
    out.mkdir(parents=True, exist_ok=True)
    write_whole(env.save, statistics_of(path))
    model.save(path)  # A3C.save() also replaces an old file only when the new one is complete
    return path


def statistics_of(path: Path) -> Path:
    return path.with_name(path.name.replace("model", "vecnormalize")).with_suffix(".pkl")


def write_whole(write: Callable[[str], None], path: Path) -> None:
    """A program that dies while it writes leaves a partial file next to the old one, which stays complete."""
    partial = path.with_name(f"{path.name}.partial")
    write(str(partial))
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/resumed"), help="folder for models and statistics")
    parser.add_argument("--timesteps", type=int, default=40_000, help="steps, half of them before the interruption")
    args = parser.parse_args()

    first = train(args.timesteps // 2, args.out)
    print(f"trained: {evaluate(first)}, {first}")
    second = resume(first, args.timesteps // 2, args.out)
    print(f"resumed: {evaluate(second)}, {second}")


if __name__ == "__main__":
    main()

"""
A3C learns to swing a pendulum up and to hold it there.

    pip install '.[extra]'  # for the progress bar and the picture
    python examples/pendulum.py --seed 0 --out runs/pendulum

Shows a progress bar, and writes the model, the normalization statistics, the episodes and a picture of the learning curve to
the folder. At the end it evaluates the policy without exploration in 50 new episodes, and prints the mean reward.
"""

import argparse
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch import nn

from sb3_a3c import A3C
from sb3_a3c.system.extras import require

ENV_ID = "Pendulum-v1"
N_ENVS = 8
GAMMA = 0.9


def draw_learning_curve(out: Path) -> None:
    """
    :param out: The folder where VecMonitor wrote the return, the length and the end time of each episode
    """
    from matplotlib.figure import Figure  # worker processes import this script too, and don't need it

    returns, lengths, times = np.loadtxt(out / "monitor.csv", delimiter=",", skiprows=2).reshape(-1, 3).T
    averages = [returns[max(0, end - 100) : end].mean() for end in range(1, len(returns) + 1)]
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, x, label in (
        (axes[0], lengths.cumsum() / 1000, "environment steps (thousands)"),
        (axes[1], times, "seconds since the environments were made"),
    ):
        axis.plot(x, returns, ".", markersize=2, alpha=0.3, label="episode")
        axis.plot(x, averages, label="average of the last 100")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("episode return")
    axes[0].legend(loc="lower right")
    figure.suptitle(f"A3C on {ENV_ID}")
    figure.savefig(out / "learning_curve.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="A3C learns Pendulum.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/pendulum"), help="the folder to write to")
    parser.add_argument("--timesteps", type=int, default=200_000)
    args = parser.parse_args()
    require("extra", "This example", "matplotlib", "rich", "tqdm")
    args.out.mkdir(parents=True, exist_ok=True)

    # Two workers on two cores, with four environments each. The policy computes four actions at a time.
    monitored = VecMonitor(DummyVecEnv([lambda: gym.make(ENV_ID)] * N_ENVS), str(args.out / "monitor.csv"))
    env = VecNormalize(monitored, gamma=GAMMA)
    model = A3C(
        "MlpPolicy",
        env,
        learning_rate=lambda progress_remaining: 1e-3 * progress_remaining,
        n_steps=4,
        gamma=GAMMA,
        gae_lambda=0.95,
        vf_coef=0.4,
        use_sde=True,
        policy_kwargs=dict(log_std_init=-1, ortho_init=False, activation_fn=nn.ReLU),
        seed=args.seed,
        n_workers=2,
        backend="process",
    )
    model.learn(args.timesteps, progress_bar=True)

    model.save(args.out / "model.zip")
    env.save(str(args.out / "vecnormalize.partial"))
    os.replace(args.out / "vecnormalize.partial", args.out / "vecnormalize.pkl")  # an old file is never left half overwritten
    env.close()
    draw_learning_curve(args.out)

    eval_env = VecNormalize.load(str(args.out / "vecnormalize.pkl"), VecMonitor(DummyVecEnv([lambda: gym.make(ENV_ID)] * 50)))
    eval_env.training = eval_env.norm_reward = False
    eval_env.seed(args.seed + 1_000_000)
    mean, std = evaluate_policy(A3C.load(args.out / "model.zip"), eval_env, n_eval_episodes=50)
    print(f"seed {args.seed}: mean reward {mean:.1f} +/- {std:.1f} over 50 episodes")


if __name__ == "__main__":
    main()

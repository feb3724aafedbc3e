"""
The A3C of a well-known tutorial, with its network, its updates and its settings. docs/tutorial.rst explains it step by step.

    pip install '.[extra]'  # for the pictures and TensorBoard
    python examples/tutorial_pendulum.py --seed 0 1 2 3 4 --out runs/tutorial
    python examples/tutorial_pendulum.py --settings ours --seed 0 1 2 3 4 --out runs/ours
    tensorboard --logdir runs/tutorial/tensorboard

Prints one line per episode, and the mean reward of each policy without exploration. The folder gets the models, a picture of
the moving averages, and for TensorBoard the network's graph and a log.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium.wrappers import TransformReward
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_a3c import A3C
from sb3_a3c.callbacks import MovingAverageCallback
from sb3_a3c.system.cores import usable_cores
from sb3_a3c.system.extras import require

ENV_ID, MAX_EPISODE_STEPS = "Pendulum-v1", 200

SETTINGS: dict[str, dict[str, Any]] = {
    "tutorial": dict(
        learning_rate=1e-4,
        vf_learning_rate=1e-3,
        n_steps=10,
        gamma=0.9,
        ent_coef=0.01,
        vf_coef=1.0,
        max_grad_norm=float("inf"),
        policy_kwargs=dict(clip_actions=True, optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(alpha=0.9, eps=1e-10)),
    ),
    "ours": dict(
        learning_rate=lambda progress_remaining: 5e-4 * progress_remaining,
        vf_learning_rate=lambda progress_remaining: 2e-3 * progress_remaining,
        n_steps=8,
        gamma=0.9,
        gae_lambda=0.9,
        ent_coef=0.01,
        vf_coef=1.0,
        max_grad_norm=float("inf"),
        use_rms_prop=False,  # Adam
    ),
}
N_WORKERS = {"tutorial": usable_cores(), "ours": 2}
#: Environments per worker.
N_ENVS = {"tutorial": 1, "ours": 2}


def scale_rewards(env: gym.Env) -> gym.Env:
    """Wrapped around the Monitor, which therefore reports the environment's own returns."""
    return TransformReward(env, lambda reward: (reward + 8) / 8)  # type: ignore[operator]


class WriteGraph(BaseCallback):
    """Writes the network's graph to TensorBoard."""

    def _on_training_start(self) -> None:
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                write_graph(output, self.model)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True


class Outputs(th.nn.Module):
    """The graph's content: from an observation to the mean and standard deviation of the action, and the value."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        distribution = self.policy.get_distribution(obs).distribution
        return distribution.mean, distribution.stddev, self.policy.predict_values(obs)


def write_graph(output: TensorBoardOutputFormat, model: A3C) -> None:
    obs = th.as_tensor(model.observation_space.sample()[None])
    with warnings.catch_warnings():
        # add_graph uses tracing, which torch has deprecated; and the distribution checks its arguments, which can't be traced.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", th.jit.TracerWarning)
        output.writer.add_graph(Outputs(model.policy), obs)


def train(seed: int, settings: str, n_workers: int, n_episodes: int, out: Path) -> tuple[A3C, list[float]]:
    """
    :return: The model, and the moving average of the return after each episode
    """
    n_envs = n_workers * N_ENVS[settings]
    env = make_vec_env(ENV_ID, n_envs=n_envs, wrapper_class=scale_rewards)
    model = A3C(
        "BoundedMlpPolicy",
        env,
        n_workers=n_workers,
        seed=1_000 * seed,  # environment i gets this plus i
        tensorboard_log=str(out / "tensorboard"),
        **SETTINGS[settings],
    )
    moving_average = MovingAverageCallback(smoothing=0.9, verbose=1)  # prints one line per episode
    n_rounds = -(-n_episodes // n_envs)  # episodes per environment
    model.learn(n_rounds * n_envs * MAX_EPISODE_STEPS, callback=[moving_average, WriteGraph()], tb_log_name=f"seed_{seed}")
    model.save(out / f"seed_{seed}.zip")
    return model, moving_average.averages


def draw(curves: dict[int, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure  # in the extra 'extra'; --help must work without it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for seed, curve in curves.items():
        axis.plot(range(1, len(curve) + 1), curve, linewidth=0.8, label=f"seed {seed}")
    axis.set_xlabel("global episodes")
    axis.set_ylabel("Total moving reward")
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=sorted(SETTINGS), default="tutorial")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one run each, one after another")
    parser.add_argument("--episodes", type=int, default=2_000, help="of all workers together; each makes the same number")
    parser.add_argument("--workers", type=int, help="(default: one per core with the tutorial's settings, 2 with ours)")
    parser.add_argument("--out", type=Path, default=Path("runs/tutorial"), help="the folder to write to")
    args = parser.parse_args()
    require("extra", "This example", "matplotlib", "tensorboard")
    args.out.mkdir(parents=True, exist_ok=True)

    n_workers = args.workers or N_WORKERS[args.settings]
    curves = {}
    for seed in args.seed:
        model, averages = train(seed, args.settings, n_workers, args.episodes, args.out)
        curves[seed] = averages
        mean, std = evaluate_policy(model, make_vec_env(ENV_ID, n_envs=50, seed=1_000_000), n_eval_episodes=500)
        print(
            f"seed {seed}: moving average {averages[-1]:.0f} at the end, {max(averages):.0f} at best; "
            f"mean reward {mean:.1f} +/- {std:.1f} over 500 episodes without noise"
        )
    draw(curves, args.out / "moving_reward.png")


if __name__ == "__main__":
    main()

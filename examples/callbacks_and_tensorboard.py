"""
SB3's callbacks work with A3C as with any other algorithm: evaluation that keeps the best model, checkpoints during training,
your own callback, and a log for TensorBoard.

    pip install '.[extra]'  # for TensorBoard
    python examples/callbacks_and_tensorboard.py --out runs/callbacks
    tensorboard --logdir runs/callbacks/tensorboard
"""

import argparse
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C
from sb3_a3c.system.extras import require

N_ENVS, N_WORKERS = 8, 4


class EpisodeCounter(BaseCallback):
    """Logs how many episodes have ended, and how many of them the agent survived to the time limit."""

    def __init__(self) -> None:
        super().__init__()
        self.n_episodes = 0
        self.n_survived = 0

    def _on_step(self) -> bool:
        # One entry per environment, as in A2C, although each worker made its step at its own time.
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self.n_episodes += 1
                self.n_survived += info["TimeLimit.truncated"]
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("episodes/ended", self.n_episodes)
        self.logger.record("episodes/survived", self.n_survived)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/callbacks"), help="folder for logs and models")
    parser.add_argument("--timesteps", type=int, default=24_000)
    args = parser.parse_args()
    require("extra", "This example", "tensorboard")

    env = make_vec_env("CartPole-v1", n_envs=N_ENVS, seed=0)
    model = A3C(
        "MlpPolicy",
        env,
        learning_rate=2e-3,
        n_steps=16,
        gae_lambda=0.95,
        use_rms_prop=False,  # Adam
        tensorboard_log=str(args.out / "tensorboard"),
        seed=0,
        n_workers=N_WORKERS,
    )

    # Callbacks are called once for a step of all environments, so frequencies are divided by their number.
    every_quarter = max(args.timesteps // 4 // N_ENVS, 1)
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1", seed=1),
        eval_freq=every_quarter,
        n_eval_episodes=5,
        log_path=str(args.out / "evaluations"),
        best_model_save_path=str(args.out / "best"),
        verbose=0,
    )
    checkpoints = CheckpointCallback(save_freq=every_quarter, save_path=str(args.out / "checkpoints"))
    episodes = EpisodeCounter()
    model.learn(args.timesteps, callback=[evaluation, checkpoints, episodes], log_interval=10)

    print(f"episodes: {episodes.n_episodes}, of which {episodes.n_survived} reached the time limit")
    for steps, rewards in zip(evaluation.evaluations_timesteps, evaluation.evaluations_results, strict=True):
        print(f"after {steps:6d} steps: mean reward {sum(rewards) / len(rewards):.1f}")
    print(f"TensorBoard log: {model.logger.get_dir()}")
    print(f"best mean reward {evaluation.best_mean_reward:.1f}, of {args.out / 'best' / 'best_model.zip'}")


if __name__ == "__main__":
    main()

"""
Your own simulator, compiled: Pendulum as a batched environment whose step is one function of numba. A3C learns it.

    pip install '.[extra]'  # for the progress bar and the picture
    python examples/compiled_env.py --seed 0 --out runs/compiled_env

Shows a progress bar, and writes the model and a picture of the learning curve to the folder. At the end it evaluates the
policy without exploration in Gymnasium's Pendulum-v1, and prints the mean reward.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numba import njit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_a3c import A3C, VectorVecEnv, register_callback
from sb3_a3c.system.extras import require

MAX_STEPS, MAX_SPEED, MAX_TORQUE = 200, 8.0, 2.0


@njit(cache=True)
def step(states, lengths, actions, obs, rewards):
    """
    One step of all pendulums, with the dynamics of Gymnasium's ``Pendulum-v1``.

    :param states: Changed: angle and angular velocity of each, ``(n_envs, 2)``
    :param lengths: Changed: steps in each episode, ``(n_envs,)``
    :param actions: Torques, ``(n_envs, 1)``
    :param obs: Written: cosine and sine of the angle, and the angular velocity, ``(n_envs, 3)``
    :param rewards: Written, ``(n_envs,)``
    """
    for i in range(len(states)):
        angle, speed = states[i]
        torque = min(max(float(actions[i, 0]), -MAX_TORQUE), MAX_TORQUE)
        distance = (angle + np.pi) % (2 * np.pi) - np.pi
        rewards[i] = -(distance**2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = min(max(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -MAX_SPEED), MAX_SPEED)
        angle += speed * 0.05
        states[i, 0], states[i, 1] = angle, speed
        obs[i, 0], obs[i, 1], obs[i, 2] = np.cos(angle), np.sin(angle), speed
        lengths[i] += 1


class CompiledPendulum(VectorEnv):
    """
    Many pendulums. An episode that ends is followed by the next one in the same step (``AutoresetMode.SAME_STEP``).

    :param num_envs: Number of pendulums
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        high = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        self.single_observation_space = spaces.Box(-high, high)
        self.single_action_space = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,))
        self.states, self.lengths = np.zeros((num_envs, 2)), np.zeros(num_envs, np.int64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.lengths[:] = self.np_random.integers(MAX_STEPS, size=self.num_envs)  # so that not all episodes end together
        return self._begin(np.arange(self.num_envs)), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        obs, rewards = np.empty((self.num_envs, 3), np.float32), np.empty(self.num_envs)
        step(self.states, self.lengths, actions, obs, rewards)
        truncated, infos = self.lengths >= MAX_STEPS, {}
        if truncated.any():
            infos["final_obs"] = obs.copy()
            ended = np.flatnonzero(truncated)
            self.lengths[ended] = 0
            obs[ended] = self._begin(ended)
        return obs, rewards, np.zeros(self.num_envs, bool), truncated, infos

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        self.states[indices] = self.np_random.uniform((-np.pi, -1.0), (np.pi, 1.0), (len(indices), 2))
        angles, speeds = self.states[indices].T
        return np.stack([np.cos(angles), np.sin(angles), speeds], axis=1).astype(np.float32)


class LearningCurve(BaseCallback):
    """Keeps the mean return of the last 100 episodes. It reads nothing else, so the run is as fast as without it."""

    def _on_training_start(self) -> None:
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        assert self.model.ep_info_buffer is not None
        if len(self.model.ep_info_buffer) == 100 and self.n_calls % 100 == 0:
            self.points.append((self.num_timesteps, float(np.mean([episode["r"] for episode in self.model.ep_info_buffer]))))
        return True


register_callback(LearningCurve, looks=lambda callback, n_steps: False)


def draw(points: list[tuple[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([n_steps for n_steps, _ in points], [mean for _, mean in points])
    axis.set_xlabel("environment steps")
    axis.set_ylabel("mean return of the last 100 episodes")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="A3C learns a compiled Pendulum.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/compiled_env"), help="the folder to write to")
    parser.add_argument("--timesteps", type=int, default=1_000_000)
    parser.add_argument("--backend", default="thread", choices=["thread", "process"])
    args = parser.parse_args()
    require("extra", "This example", "matplotlib", "rich", "tqdm")
    args.out.mkdir(parents=True, exist_ok=True)

    env = VecNormalize(VectorVecEnv([lambda: CompiledPendulum(64)] * 2), gamma=0.9)  # one batch per worker
    model = A3C(
        "MlpPolicy",
        env,
        learning_rate=lambda progress_remaining: 5e-3 * progress_remaining,
        n_steps=8,
        gamma=0.9,
        gae_lambda=0.95,
        vf_coef=0.4,
        policy_kwargs=dict(ortho_init=False),
        seed=args.seed,
        backend=args.backend,
    )
    curve, started = LearningCurve(), time.monotonic()
    model.learn(args.timesteps, callback=curve, progress_bar=True)
    seconds = time.monotonic() - started
    model.save(args.out / "model.zip")
    draw(curve.points, args.out / "learning_curve.png")

    eval_env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))] * 20), training=False, norm_reward=False)
    eval_env.obs_rms = env.obs_rms
    mean, std = evaluate_policy(model, eval_env, n_eval_episodes=20)
    print(
        f"seed {args.seed}: {args.timesteps / seconds:,.0f} steps/s, mean reward {mean:.1f} +/- {std:.1f} over 20 episodes of "
        "Gymnasium's Pendulum-v1"
    )


if __name__ == "__main__":
    main()

"""
Your own environment and policy: a point on a plane has to reach a goal, and a features extractor tells the policy where the
goal is, seen from the point.

    python examples/own_env_and_policy.py
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_a3c import A3C

MAX_STEPS, N_EPISODES = 100, 20  # per episode, per evaluation


class ReachGoal(gym.Env[np.ndarray, np.ndarray]):
    """
    The observation is the point and the goal; an action moves the point. The reward of a step is the distance gained, less a
    cost per step. The episode ends within 0.1 of the goal.
    """

    observation_space = spaces.Box(-1.0, 1.0, shape=(4,), dtype=np.float32)
    action_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-1.0, 1.0, size=(2, 2))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before = self._distance()
        self.point = np.clip(self.point + 0.1 * action, -1.0, 1.0)
        distance = self._distance()
        return self._observe(), before - distance - 0.02, distance < 0.1, False, {}

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.point, self.goal]).astype(np.float32)

    def _distance(self) -> float:
        return float(np.linalg.norm(self.goal - self.point))


class TowardsGoal(BaseFeaturesExtractor):
    """Direction and distance of the goal, followed by a trainable layer."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        self.layer = th.nn.Sequential(th.nn.Linear(3, features_dim), th.nn.Tanh())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        point, goal = observations.split(2, dim=1)
        distance = th.linalg.vector_norm(goal - point, dim=1, keepdim=True)
        return self.layer(th.cat([(goal - point) / (distance + 1e-6), distance], dim=1))


def make_env() -> gym.Env:
    return TimeLimit(ReachGoal(), max_episode_steps=MAX_STEPS)


def evaluate(model: A3C, when: str) -> None:
    env = make_vec_env(make_env, seed=1)
    rewards, lengths = evaluate_policy(model, env, n_eval_episodes=N_EPISODES, return_episode_rewards=True)
    reached = np.mean(np.less(lengths, MAX_STEPS))
    print(f"{when}: mean reward {np.mean(rewards):.2f}, goal reached in {reached:.0%} of {N_EPISODES} episodes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000)
    args = parser.parse_args()

    check_env(ReachGoal())
    policy_kwargs = dict(features_extractor_class=TowardsGoal, net_arch=[32])
    env = make_vec_env(make_env, n_envs=8, seed=0)
    model = A3C("MlpPolicy", env, policy_kwargs=policy_kwargs, n_steps=16, gae_lambda=0.95, n_workers=4, seed=0)

    evaluate(model, "before")
    model.learn(args.timesteps)
    evaluate(model, "after")


if __name__ == "__main__":
    main()

"""
A3C and A2C on an environment whose steps take uneven times, as in simulators and network services. With A2C, each step of all
environments takes as long as the slowest one. With A3C, no worker waits for another.

"seconds" is the time of learn(), without the start of A2C's processes. For the same number of steps A3C makes more updates,
each from fewer steps. "mean reward" comes from one seed and a short run: it does not show which algorithm learns better.
If environments answer at once and the network is as small as here, A2C can be faster.

    python examples/beside_a2c.py
"""

import argparse
import time
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_a3c import A3C

ENV_ID, N_ENVS = "CartPole-v1", 4


class Uneven(gym.Wrapper):
    """Waits before each step: mostly 1 ms, sometimes up to 50 ms."""

    def step(self, action: Any) -> Any:
        time.sleep(min(0.001 * (1.0 + self.np_random.pareto(1.2)), 0.05))
        return self.env.step(action)


def train(algorithm: type[A2C] | type[A3C], vec_env_class: type[DummyVecEnv] | type[SubprocVecEnv], timesteps: int) -> None:
    env = make_vec_env(ENV_ID, n_envs=N_ENVS, seed=0, wrapper_class=Uneven, vec_env_cls=vec_env_class)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu")
    started = time.perf_counter()
    model.learn(timesteps)
    seconds = time.perf_counter() - started
    env.close()
    mean_reward, _ = evaluate_policy(model, make_vec_env(ENV_ID, seed=1), n_eval_episodes=20)
    name = f"{algorithm.__name__}, {vec_env_class.__name__}"
    print(f"{name:<20} {model.num_timesteps:>6} {model._n_updates:>8} {seconds:>8.1f} {mean_reward:>12.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=4_000)
    args = parser.parse_args()

    th.set_num_threads(1)  # fastest for so small a network, with both algorithms
    print(f"{'algorithm':<20} {'steps':>6} {'updates':>8} {'seconds':>8} {'mean reward':>12}")
    train(A2C, SubprocVecEnv, args.timesteps)  # each environment waits in its own process
    train(A3C, DummyVecEnv, args.timesteps)  # each environment waits in its worker's thread


if __name__ == "__main__":
    main()

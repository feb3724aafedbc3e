"""What a program that uses sb3_a3c looks like to a strict type checker."""

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C, BoundedMlpPolicy, Recording, VectorVecEnv, record, register_callback, replay
from sb3_a3c.callbacks import MovingAverageCallback
from sb3_a3c.compare import compare


class Print(BaseCallback):
    def _on_step(self) -> bool:
        print(self.num_timesteps)
        return True


def looks(callback: BaseCallback, n_steps: int) -> bool:
    return False


def main() -> float:
    register_callback(Print, looks)
    env = make_vec_env("Pendulum-v1", n_envs=4)
    model: A3C = A3C(BoundedMlpPolicy, env, n_workers=2, backend="process", backend_kwargs=dict(max_restarts=1))
    model = model.learn(1_000, callback=[Print(), MovingAverageCallback()])
    with record(model) as recording:
        model.learn(100)
    recording.save("recording")
    with replay(model, Recording.load("recording")):
        model.learn(100)
    model.save("model")
    model = A3C.load("model", env=env)
    batched = A3C("MlpPolicy", VectorVecEnv([lambda: gym.make_vec("CartPole-v1", num_envs=2)]))
    batched.learn()
    (summary,) = compare("CartPole-v1", ["a3c"], seeds=1)
    return float(summary.final_return.iqm)

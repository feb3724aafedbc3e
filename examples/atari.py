"""
A3C learns an Atari game from pixels, with the frames and the network of the paper.

    pip install '.[extra]' '.[atari]'  # and '.[recurrent]' for CnnLstmPolicy
    python examples/atari.py --env PongNoFrameskip-v4 --minutes 30 --out runs/pong
    python examples/atari.py --env PongNoFrameskip-v4 --minutes 30 --out runs/pong --resume

Prints the mean return of the last 100 episodes every half minute, saves the model every few minutes, and goes on from the last
one with --resume. At the end it draws the learning curve, and records one episode of the policy as an animated picture.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_a3c import A3C, MnihCNN, register_callback
from sb3_a3c.system.extras import require

N_WORKERS, ENVS_PER_WORKER = 2, 8


class Progress(BaseCallback):
    """
    Prints and keeps the mean return, and stops after some minutes.

    :param minutes: How many
    :param path: The file of the learning curve, which is continued if there is one
    """

    def __init__(self, minutes: float, path: Path) -> None:
        super().__init__()
        self.seconds, self.path = 60 * minutes, path
        self.points: list[list[float]] = json.loads(path.read_text()) if path.exists() else []

    def _on_training_start(self) -> None:
        self.started, self.next_point = time.monotonic(), 30.0
        self.before = self.points[-1][0] if self.points else 0.0

    def _on_step(self) -> bool:
        seconds = time.monotonic() - self.started
        if seconds > self.next_point:
            self._add_point(seconds)
        return seconds < self.seconds

    def _on_training_end(self) -> None:
        self._add_point(time.monotonic() - self.started)

    def _add_point(self, seconds: float) -> None:
        self.next_point = seconds + 30
        assert self.model.ep_info_buffer is not None
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        if returns:
            self.points.append([self.before + seconds, self.num_timesteps, float(np.mean(returns))])
            self.path.write_text(json.dumps(self.points))
            minutes = (self.before + seconds) / 60
            print(f"{minutes:5.1f} min {self.num_timesteps:9,d} steps: mean return {np.mean(returns):.2f}", flush=True)


register_callback(Progress, looks=lambda callback, n_steps: False)  # it reads only counts, so workers need not wait for it


def make_envs(env_id: str, n_envs: int, seed: int, **kwargs: Any) -> VecEnv:
    import ale_py

    gym.register_envs(ale_py)
    return VecFrameStack(make_atari_env(env_id, n_envs, seed=seed, **kwargs), n_stack=4)


def make_model(args: argparse.Namespace, env: VecEnv) -> A3C:
    return A3C(
        args.policy,
        env,
        learning_rate=LinearSchedule(7e-4, 0.0, 1.0),
        n_steps=5 if args.policy == "CnnPolicy" else 20,
        ent_coef=0.01,
        vf_coef=0.25,
        policy_kwargs=dict(
            features_extractor_class=MnihCNN if args.network == "mnih" else NatureCNN,
            optimizer_class=RMSpropTFLike,
            optimizer_kwargs=dict(eps=1e-5),
        ),
        seed=args.seed,
        n_workers=N_WORKERS,
        backend="process",
    )


def draw(points: list[list[float]], path: Path) -> None:
    from matplotlib.figure import Figure  # worker processes import this script too, and don't need it

    seconds, steps, returns = np.reshape(points, (-1, 3)).T
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, x, label in ((axes[0], seconds / 60, "minutes"), (axes[1], steps / 1e6, "million steps")):
        axis.plot(x, returns, marker=".")
        axis.locator_params(axis="x", nbins=6)
        axis.set_xlabel(label)
        axis.set_ylabel("mean return of the last 100 episodes")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def record(model: A3C, env: VecEnv, path: Path, max_steps: int) -> float:
    """Play one episode, and write every third frame."""
    from PIL import Image

    obs, states, starts, frames, total = env.reset(), None, np.ones(1, dtype=bool), [], 0.0
    for n_steps in range(max_steps):
        actions, states = model.predict(obs, states, starts)  # type: ignore[arg-type]
        obs, rewards, starts, infos = env.step(actions)
        total += float(rewards[0])
        if n_steps % 3 == 0:
            frames.append(Image.fromarray(np.asarray(env.get_images()[0])))
        if "episode" in infos[0]:  # the end of a life is the end of an episode for the policy, but not of the game
            break
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="A3C learns an Atari game.")
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--policy", default="CnnPolicy", choices=["CnnPolicy", "CnnLstmPolicy"])
    parser.add_argument("--network", default="mnih", choices=["mnih", "nature"])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--timesteps", type=int, default=10_000_000, help="when the learning rate reaches 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/atari"), help="the folder to write to")
    parser.add_argument("--film-steps", type=int, default=1_500, help="how long the animated picture is at most")
    parser.add_argument("--resume", action="store_true", help="go on from the last model in the folder")
    args = parser.parse_args()
    require("extra", "This example", "matplotlib")
    require("atari", "This example", "ale_py", "cv2", "PIL")
    args.out.mkdir(parents=True, exist_ok=True)

    env = make_envs(args.env, N_WORKERS * ENVS_PER_WORKER, args.seed)
    saved = sorted((args.out / "models").glob("*.zip"), key=lambda path: path.stat().st_mtime)
    if args.resume and saved:
        model = A3C.load(saved[-1], env=env)
        print(f"resumed {saved[-1]} after {model.num_timesteps:,} steps")
    else:
        (args.out / "curve.json").unlink(missing_ok=True)
        model = make_model(args, env)
    progress = Progress(args.minutes, args.out / "curve.json")
    checkpoints = CheckpointCallback(max(1, 200_000 // env.num_envs), str(args.out / "models"))
    model.learn(
        max(1, args.timesteps - model.num_timesteps), callback=[progress, checkpoints], reset_num_timesteps=not args.resume
    )
    env.close()
    model.save(args.out / "models" / "last.zip")
    draw(progress.points, args.out / "learning_curve.png")
    film = make_envs(
        args.env, 1, args.seed + 1000, env_kwargs=dict(render_mode="rgb_array"), wrapper_kwargs=dict(clip_reward=False)
    )
    total = record(model, film, args.out / "episode.gif", args.film_steps)
    print(f"{args.env}, {model.num_timesteps:,} steps: {args.out / 'episode.gif'} has a return of {total:.1f}")


if __name__ == "__main__":
    main()

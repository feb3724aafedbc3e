"""
Time and steps that 1 to 16 workers need to reach a return, as in Table 2 of the A3C paper (Mnih et al. 2016), on CartPole with
a pause at each step. Steps per second grow with the number of workers. The time falls somewhat less, because many workers need
more steps.

The pause is as for a simulator or a service, so that cores are not the limit. Each worker is a thread with one environment. A
run ends when the mean return of the last 20 training episodes reaches the reference. ``Speedup in time`` is the seconds of one
worker divided by those of n workers, ``in steps`` the same for environment steps, and ``in rate`` the steps/s of n workers
divided by those of one.

    python benchmarks/scaling.py
"""

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from arguments import Option, parse_arguments
from report import report
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENV_ID = "CartPole-v1"
N_EPISODES = 20
N_WORKERS = (1, 2, 4, 8, 16)
MAX_TIMESTEPS = 500_000  # out of the air: fifty times what it takes


class Waiting(gym.Wrapper):
    """
    An environment whose every step waits.

    :param env: The environment
    :param seconds: How long
    """

    def __init__(self, env: gym.Env, seconds: float) -> None:
        super().__init__(env)
        self._seconds = seconds

    def step(self, action: Any) -> Any:
        time.sleep(self._seconds)
        return self.env.step(action)


class StopAtReturn(BaseCallback):
    """
    Ends training when the mean return of the last episodes is reached, and knows when that was.

    :param reference: The return
    """

    def __init__(self, reference: float) -> None:
        super().__init__()
        self._reference = reference

    def _on_training_start(self) -> None:
        self._started = time.monotonic()

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        assert episodes is not None
        self.seconds = time.monotonic() - self._started
        return len(episodes) < N_EPISODES or bool(np.mean([episode["r"] for episode in episodes]) < self._reference)


class Run(NamedTuple):
    """What it took to reach the reference."""

    seconds: float
    n_steps: int

    @property
    def rate(self) -> float:
        """:return: Steps/s"""
        return self.n_steps / self.seconds


def learn(n_workers: int, seed: int, reference: float, wait: float) -> Run:
    """
    :param n_workers: How many workers
    :param seed: The model's seed
    :param reference: The return to reach
    :param wait: How long a step waits, in seconds
    :return: What it took
    :raises RuntimeError: if it is not reached
    """
    env = make_vec_env(lambda: Waiting(gym.make(ENV_ID), wait), n_workers, seed=seed)
    model = A3C("MlpPolicy", env, n_steps=16, seed=seed, stats_window_size=N_EPISODES)
    callback = StopAtReturn(reference)
    model.learn(MAX_TIMESTEPS, callback)
    if model.num_timesteps >= MAX_TIMESTEPS:
        raise RuntimeError(
            f"{n_workers} workers did not reach a return of {reference} in {MAX_TIMESTEPS:,} steps, seed {seed}"
        )
    return Run(callback.seconds, model.num_timesteps)


def draw_speedups(speedups: dict[str, list[float]], n_workers: list[int], figure: "Figure") -> None:
    """
    :param speedups: For each kind: those of so many workers
    :param n_workers: How many
    :param figure: Where to draw them
    """
    axes = figure.subplots()
    axes.plot(n_workers, n_workers, ":", color="black", label="as many times as workers")
    for kind, values in speedups.items():
        axes.plot(n_workers, values, "o-", label=kind)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("workers")
    axes.set_ylabel("speedup")
    axes.grid(alpha=0.3)
    axes.legend()


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        reference=Option(195.0, 15.0, "mean return to reach"),
        milliseconds=Option(2.0, 0.01, "pause of each step"),
        workers=Option(max(N_WORKERS), 2, "greatest number of workers"),
    )
    n_workers = [n for n in N_WORKERS if n <= args.workers]
    learn(2, 0, 10.0, 0.0)  # compiles, or reads what was compiled
    runs: dict[int, list[Run]] = {n: [] for n in n_workers}
    for seed in range(args.repetitions):
        for n in n_workers:
            runs[n].append(learn(n, seed, args.reference, args.milliseconds / 1000))
    medians = {
        "in time": [statistics.median(run.seconds for run in runs[n]) for n in n_workers],
        "in steps": [statistics.median(run.n_steps for run in runs[n]) for n in n_workers],
        "in rate": [1.0 / statistics.median(run.rate for run in runs[n]) for n in n_workers],
    }
    speedups = {kind: [values[0] / value for value in values] for kind, values in medians.items()}
    rows = [
        [
            f"{n}",
            f"{medians['in time'][i]:.1f}",
            f"{medians['in steps'][i]:,.0f}",
            f"{1.0 / medians['in rate'][i]:,.0f}",
            *(f"{values[i]:.1f}" for values in speedups.values()),
        ]
        for i, n in enumerate(n_workers)
    ]
    notes = [
        f"Medians of {args.repetitions} seed(s); {ENV_ID} with {args.milliseconds:g} ms per step, threads, n_steps=16, "
        f"MlpPolicy, until the mean return of {N_EPISODES} episodes is {args.reference:g}."
    ]
    header = ["Workers", "Seconds", "Steps", "Steps/s", "Speedup in time", "in steps", "in rate"]
    title = "Scaling: time and steps to a return, by workers"
    report(args, title, header, rows, notes, lambda figure: draw_speedups(speedups, n_workers, figure))


if __name__ == "__main__":
    main()

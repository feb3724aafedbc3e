"""
How many steps/s A3C makes with fast environments, beside A2C and random actions.

Eight environments of Pendulum, ``n_steps`` 8, no callback, with and without VecNormalize. Every repetition runs all rows one
after another, and ratios are of rows of one repetition. A run's first steps, in which workers are started, are timed apart:
``start`` is what ``learn()`` takes beyond its steps, from two runs of different length.

    python benchmarks/throughput.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch as th
from report import report
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_a3c import A3C

ENV_ID, N_ENVS, N_STEPS = "Pendulum-v1", 8, 8
WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {"none": lambda venv: venv, "VecNormalize": VecNormalize}
#: A2C first, for ratios are to it.
ROWS: dict[str, dict[str, Any] | None] = {
    "A2C": None,
    "A3C, 1 worker": dict(n_workers=1),
    "A3C, 2 threads": dict(n_workers=2, backend="thread"),
    "A3C, 8 threads": dict(n_workers=8, backend="thread"),
    "A3C, 2 processes": dict(n_workers=2, backend="process"),
    "A3C, 8 processes": dict(n_workers=8, backend="process"),
    "A3C, 2 threads, torch engine": dict(n_workers=2, backend="thread", engine="torch"),
}


def measure_random(n_steps: int) -> float:
    """
    :param n_steps: Steps to make
    :return: Steps/s of one environment without any wrapper of a VecEnv and without any policy, on one core
    """
    (env,) = make_vec_env(ENV_ID, seed=0).envs  # type: ignore[attr-defined]
    action = env.action_space.sample()
    env.reset()
    started = time.perf_counter()
    for _ in range(n_steps):
        *_, truncated, _ = env.step(action)
        if truncated:
            env.reset()
    return n_steps / (time.perf_counter() - started)


def measure(wrapper: str, kwargs: dict[str, Any] | None, timesteps: int) -> tuple[float, float]:
    """
    :param wrapper: A key of ``WRAPPERS``
    :param kwargs: A3C's arguments, None: A2C
    :param timesteps: Steps of the longer run; the shorter makes a tenth of them
    :return: Steps/s, and the seconds that are not steps
    """
    env = WRAPPERS[wrapper](make_vec_env(ENV_ID, n_envs=N_ENVS, seed=0))
    model: A2C | A3C
    if kwargs is None:
        model = A2C("MlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu")
    else:
        model = A3C("MlpPolicy", env, n_steps=N_STEPS, seed=0, **kwargs)
    model.learn(N_STEPS * N_ENVS)  # compiles, or reads what was compiled
    seconds = []
    for n_steps in (timesteps // 10, timesteps):
        started = time.perf_counter()
        model.learn(n_steps)
        seconds.append(time.perf_counter() - started)
    rate = (timesteps - timesteps // 10) / (seconds[1] - seconds[0])
    return rate, seconds[1] - timesteps / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each row (default: 3)")
    parser.add_argument("--timesteps", type=int, default=200_000, help="of a run; A2C makes a quarter (default: 200,000)")
    args = parser.parse_args()
    th.set_num_threads(1)  # for all: to divide so small a network among threads only costs time
    random_rates = []
    results: dict[tuple[str, str], list[tuple[float, float]]] = {(w, row): [] for w in WRAPPERS for row in ROWS}
    for _ in range(args.repetitions):
        random_rates.append(measure_random(args.timesteps // 4))
        for (wrapper, row), runs in results.items():
            slow = ROWS[row] is None or "engine" in ROWS[row]  # type: ignore[operator]
            runs.append(measure(wrapper, ROWS[row], args.timesteps // 4 if slow else args.timesteps))
    rows = []
    for (wrapper, row), runs in results.items():
        ratios = [rate / base for (rate, _), (base, _) in zip(runs, results[wrapper, "A2C"], strict=True)]
        rate, start = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append([row, wrapper, f"{rate:,.0f}", f"{statistics.median(ratios):.1f}", f"{min(ratios):.1f}", f"{start:.1f}"])
    random_rate = f"{statistics.median(random_rates):,.0f}"
    notes = [
        f"Medians of {args.repetitions} repetition(s); {ENV_ID}, {N_ENVS} environments, n_steps={N_STEPS}, MlpPolicy, no "
        f"callback, A2C on a DummyVecEnv. Random actions, one core, no VecEnv: {random_rate} steps/s.",
    ]
    header = ["Algorithm", "Wrapper", "Steps/s", "By A2C's", "least", "Start, s"]
    report("throughput", "Fast environments: steps per second", header, rows, notes, write=True)


if __name__ == "__main__":
    main()

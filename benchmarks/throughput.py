"""
Steps per second of A3C, A2C, PPO and random actions on Pendulum, whose steps take microseconds, with 1 to 32 environments. A3C
with the fused engine is faster than A2C everywhere, and fastest with two processes that step several environments each.

Pendulum, ``n_steps`` 8 (64 for PPO, whose speed hardly depends on it), no callback, with 1, 8, 16 and 32 environments, and
with 8 environments under VecNormalize. Each repetition runs all rows one after another. A ratio is of two rows of the same
repetition, to A2C on a DummyVecEnv with the same number of environments. ``Start`` is the time of ``learn()`` outside of its
steps.

    python benchmarks/throughput.py
"""

import re
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch as th
from arguments import Option, parse_arguments
from report import bars, report
from speed import A3C_ROWS, Speed, measure, measure_together, median_and_ratios, preload
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_a3c import A3C
from sb3_a3c.system.cores import usable_cores

ENV_ID = "Pendulum-v1"
_QUICK = r"^8 environments: (A2C, Subproc|PPO$|A3C, 2 processes)|VecNormalize: A3C, 1 worker"  # a little of everything
A2C_KWARGS, PPO_KWARGS = dict(n_steps=8), dict(n_steps=64)


@dataclass(frozen=True)
class Row:
    """
    Something to measure.

    :param algorithm: The algorithm
    :param kwargs: Its arguments
    :param vec_env_class: What its environments are in
    """

    algorithm: type[OnPolicyAlgorithm]
    kwargs: dict[str, Any]
    vec_env_class: type[DummyVecEnv] | type[SubprocVecEnv] = DummyVecEnv


ROWS = {
    "A2C": Row(A2C, A2C_KWARGS),
    "A2C, SubprocVecEnv": Row(A2C, A2C_KWARGS, SubprocVecEnv),
    "PPO": Row(PPO, PPO_KWARGS),
    "PPO, SubprocVecEnv": Row(PPO, PPO_KWARGS, SubprocVecEnv),
    **{name: Row(A3C, A2C_KWARGS | kwargs) for name, kwargs in A3C_ROWS.items()},
    "A3C, 2 threads, torch engine": Row(A3C, A2C_KWARGS | dict(n_workers=2, engine="torch")),
}


@dataclass(frozen=True)
class Group:
    """
    Rows over equal environments.

    :param n_envs: How many environments
    :param normalized: Whether under VecNormalize
    :param rows: Keys of ``ROWS``, A2C first, with about how many steps/s each makes, so that each runs about equally long
    """

    n_envs: int
    normalized: bool
    rows: Mapping[str, float]


_FEW = {"A2C": 20_000, "A3C, 1 worker": 75_000, "A3C, 2 threads": 50_000, "A3C, 2 processes": 90_000}
GROUPS = {
    "1 environment": Group(1, False, {"A2C": 2_000, "A3C, 1 worker": 30_000}),
    "8 environments": Group(
        8,
        False,
        {
            "A2C": 14_000,
            "A2C, SubprocVecEnv": 6_000,
            "PPO": 3_000,
            "PPO, SubprocVecEnv": 2_500,
            "A3C, 1 worker": 60_000,
            "A3C, 2 threads": 40_000,
            "A3C, 8 threads": 20_000,
            "A3C, 2 processes": 70_000,
            "A3C, 8 processes": 50_000,
            "A3C, 2 threads, torch engine": 5_000,
        },
    ),
    "8 environments, VecNormalize": Group(
        8,
        True,
        {
            "A2C": 12_000,
            "A3C, 1 worker": 40_000,
            "A3C, 2 threads": 25_000,
            "A3C, 8 threads": 12_000,
            "A3C, 2 processes": 50_000,
            "A3C, 8 processes": 30_000,
        },
    ),
    "16 environments": Group(16, False, _FEW),
    "32 environments": Group(32, False, _FEW),
}


def measure_random(n_processes: int, n_steps: int) -> float:
    """
    :param n_processes: Processes that step an environment each, at the same time
    :param n_steps: Steps that each makes
    :return: Steps/s of all, without any wrapper of a VecEnv and without any policy
    """
    return sum(measure_together(n_processes, _step_randomly, n_steps))


def _step_randomly(n_steps: int, barrier: Any, rates: Any) -> None:
    (env,) = make_vec_env(ENV_ID, seed=0).envs  # type: ignore[attr-defined]
    action = env.action_space.sample()
    env.reset()
    barrier.wait()
    started = time.perf_counter()
    for _ in range(n_steps):
        *_, truncated, _ = env.step(action)
        if truncated:
            env.reset()
    rates.put(n_steps / (time.perf_counter() - started))


def measure_row(group: Group, row: Row, timesteps: float) -> Speed:
    """
    :param group: The environments
    :param row: What learns from them
    :param timesteps: How many steps, about
    :return: How fast it is
    """
    vec_env_kwargs = dict(start_method="forkserver") if row.vec_env_class is SubprocVecEnv else {}
    env: VecEnv = make_vec_env(ENV_ID, group.n_envs, seed=0, vec_env_cls=row.vec_env_class, vec_env_kwargs=vec_env_kwargs)
    with closing(VecNormalize(env) if group.normalized else env) as env:
        return measure(row.algorithm("MlpPolicy", env, seed=0, device="cpu", **row.kwargs), timesteps)  # type: ignore


def main() -> None:
    args = parse_arguments(
        __doc__,
        seconds=Option(3.0, 0.01, "approximate duration of a run"),
        only=Option("", _QUICK, "pattern of what to measure in addition to A2C, such as '8 environments: PPO'; all if empty"),
    )
    preload()
    th.set_num_threads(1)  # for all: to divide so small a network among threads only costs time
    limits = {f"random actions, {n} process(es)": n for n in dict.fromkeys([1, usable_cores()])}
    random_rates: dict[str, list[float]] = {name: [] for name in limits}
    speeds: dict[tuple[str, str], list[Speed]] = {
        (group, row): []
        for group in GROUPS
        for row in GROUPS[group].rows
        if row == "A2C" or re.search(args.only, f"{group}: {row}")
    }
    for _ in range(args.repetitions):
        for name, n_processes in limits.items():
            random_rates[name].append(measure_random(n_processes, int(100_000 * args.seconds)))
        for (group, row), runs in speeds.items():
            runs.append(measure_row(GROUPS[group], ROWS[row], GROUPS[group].rows[row] * args.seconds))
    rates = {key: [run.rate for run in runs] for key, runs in speeds.items()}
    rows = [
        [
            row,
            group,
            *median_and_ratios(rates[group, row], rates[group, "A2C"]),
            f"{statistics.median(r.start for r in runs):.1f}",
        ]
        for (group, row), runs in speeds.items()
    ]
    for name, values in random_rates.items():
        rows.append([name, "no VecEnv", *median_and_ratios(values, rates["8 environments", "A2C"]), "-"])
    notes = [
        f"Medians of {args.repetitions} repetition(s); {ENV_ID}, MlpPolicy, no callback. Ratios are to A2C on a DummyVecEnv "
        "with the same number of environments. Those of random actions are to A2C with eight environments; no algorithm can "
        "be faster."
    ]
    panels = {g: {row: statistics.median(rates[g, row]) for row in GROUPS[g].rows if (g, row) in rates} for g in GROUPS}
    panels["the limit"] = {name: statistics.median(values) for name, values in random_rates.items()}
    header = ["Algorithm", "Environments", "Steps/s", "By A2C's", "least", "Start, s"]
    report(args, "Fast environments: steps per second", header, rows, notes, bars(panels, "steps/s"))


if __name__ == "__main__":
    main()

"""
Returns of A3C, A2C and PPO on seven tasks after the same number of seconds: those that A3C takes for the steps of its
settings. A3C reaches the most on Pendulum, CartPole and both LunarLanders. Acrobot is solved by all three, and
MountainCarContinuous by A3C and A2C; A2C is the first there, because A3C's processes take two seconds to start. On HalfCheetah
three of A3C's five runs stay near 1,000 and two exceed 3,000. Its mean is between those of A2C and PPO.

A3C has the settings of ``sb3_a3c/zoo/a3c.yml`` and makes their ``n_timesteps``. A2C and PPO have the settings of
rl-baselines3-zoo. A short run of each shows how many steps it makes per second, and with that how many it makes in A3C's
seconds. Schedules end with these steps. Each task is a comparison by ``sb3_a3c.compare``. Finished runs are not repeated, so
the command can be interrupted and continued. BipedalWalker, whose runs take five minutes each, and the other tasks of
MuJoCo were not measured.

    python benchmarks/equal_time.py
    python benchmarks/equal_time.py --tasks LunarLanderContinuous-v3,HalfCheetah-v5
"""

import argparse
from pathlib import Path

from arguments import Option, parse_arguments
from learning import (
    NOTE_ON_AFTER,
    SETTINGS,
    TASKS,
    available,
    curves,
    folder,
    note_on_reached,
    note_on_returns,
    reached,
    runs_option,
    tasks_option,
    train,
)
from report import report

from sb3_a3c.comparison.cells import median_and_range, number, of_seeds
from sb3_a3c.comparison.estimates import Summary
from sb3_a3c.comparison.settings import read_settings
from sb3_a3c.zoo.models import SETTINGS as A3C_SETTINGS

_NAMES = {"a3c": "A3C", "a2c": "A2C", "ppo": "PPO"}
#: Tasks whose runs take a few seconds. They have twice as many seeds.
_SHORT = ("Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0")
#: Steps of the run that shows an algorithm's speed. Enough for some rollouts, and few beside the steps of a comparison.
_TRIAL = 20_000

HEADER = ["Task", "Algorithm", "Seconds", "Steps", "Final return", "Reached", "After seconds"]


def learn(env_id: str, args: argparse.Namespace, runs: Path) -> list[Summary]:
    """
    :param env_id: A key of ``TASKS``
    :param args: The command line
    :param runs: The folder for all comparisons
    :return: What came of each algorithm
    """
    n_timesteps = max(1, int(read_settings(A3C_SETTINGS, env_id)["n_timesteps"] * args.budget))
    seeds = args.repetitions * (2 if env_id in _SHORT else 1)
    (a3c,) = train(env_id, {"a3c": A3C_SETTINGS}, n_timesteps, seeds, args, runs / env_id / "a3c")
    summaries = [a3c]
    for algo in ("a2c", "ppo"):
        settings = {algo: SETTINGS / f"{algo}.yml"}
        (trial,) = train(env_id, settings, max(1, int(_TRIAL * args.budget)), 1, args, runs / "trial" / env_id / algo)
        n_timesteps = max(1, round(float(trial.steps_per_second.iqm) * float(a3c.seconds.iqm)))
        summaries += train(env_id, settings, n_timesteps, seeds, args, runs / env_id / algo)
    return summaries


def cells(env_id: str, summary: Summary) -> list[str]:
    """
    :param env_id: The task
    :param summary: What came of an algorithm
    :return: A row of the table, see ``HEADER``
    """
    return [
        env_id,
        _NAMES[summary.algorithm],
        number(float(summary.seconds.iqm)),
        f"{summary.results[0].last.timesteps:,}",
        of_seeds(summary.final_return),
        reached(summary),
        median_and_range(summary.seconds_to_threshold),
    ]


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        tasks=tasks_option(TASKS),
        budget=Option(1.0, 0.005, "fraction of the steps of A3C's settings"),
        evaluations=Option(15, 2, "per run"),
        runs=runs_option("equal_time"),
    )
    with folder(args.runs) as runs:
        summaries = {env_id: learn(env_id, args, runs) for env_id in available(args.tasks)}
    rows = [cells(env_id, summary) for env_id, of_task in summaries.items() for summary in of_task]
    notes = [
        f"{note_on_returns(args.repetitions)} The first four tasks have twice as many seeds. Seconds of ``learn()``, "
        "which for A3C include the start of its worker processes.",
        f"{note_on_reached(summaries)} {NOTE_ON_AFTER}",
    ]
    report(args, "Returns after equal times", HEADER, rows, notes, lambda figure: curves(summaries, _NAMES, figure))


if __name__ == "__main__":
    main()

"""
Returns and times of A3C, A2C and PPO on eight tasks, after the same number of steps. A3C makes the most steps per second. Its
returns are about those of A2C with the same settings; on HalfCheetah, A2C and PPO with their own settings reach more.

A2C and PPO run twice: with the settings of rl-baselines3-zoo, and with A3C's (``benchmarks/settings/a3c.yml``, tuned for
these budgets of steps), to separate the effect of the settings from that of the algorithm. If both settings are equal, A2C
runs once. Each task is a comparison by ``sb3_a3c.compare``, whose report and tables are kept in the folder ``--runs``.
Finished runs are not repeated, so the command can be interrupted and continued.

    python benchmarks/results.py
    python benchmarks/results.py --tasks CartPole-v1,Acrobot-v1
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import yaml
from arguments import Option, parse_arguments
from report import report
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_a3c import A3C
from sb3_a3c.compare import compare
from sb3_a3c.comparison.cells import median_and_range, number, of_seeds
from sb3_a3c.comparison.estimates import MIN_SEEDS, Summary, return_at
from sb3_a3c.comparison.figure import draw_curves
from sb3_a3c.comparison.settings import Settings, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The folder of settings.
SETTINGS = Path(__file__).parent / "settings"
#: How ``sb3_a3c.compare`` names the algorithms, and what they are called here.
_ALGORITHMS = {
    "a3c": "A3C",
    "a2c": "A2C",
    "ppo": "PPO",
    "stable_baselines3:A2C": "A2C with A3C's settings",
    "stable_baselines3:PPO": "PPO with A3C's settings",
}


class Task(NamedTuple):
    """
    :param n_timesteps: Steps of a run
    :param threshold: The return to reach, None: the one that Gymnasium registers
    :param n_eval_episodes: Episodes of an evaluation
    :param needs: A module that its environment needs
    """

    n_timesteps: int
    threshold: float | None = None
    n_eval_episodes: int = 10
    needs: str = "gymnasium"


TASKS = {
    # The best returns are from 0 to -400, by where an episode begins, and the best mean of ten may be below the threshold.
    "Pendulum-v1": Task(150_000, threshold=-200.0, n_eval_episodes=50),
    "CartPole-v1": Task(100_000),
    "Acrobot-v1": Task(150_000),
    "MountainCarContinuous-v0": Task(30_000),
    "LunarLander-v3": Task(200_000, needs="Box2D"),
    "LunarLanderContinuous-v3": Task(200_000, needs="Box2D"),
    "BipedalWalker-v3": Task(150_000, needs="Box2D"),
    "HalfCheetah-v5": Task(150_000, needs="mujoco"),
}

HEADER = ["Task", "Algorithm", "Final return", "In A3C's time", "Steps/s", "Reached", "After seconds", "After steps"]


def learn(env_id: str, algorithms: Sequence[str], args: argparse.Namespace, runs: Path) -> list[Summary]:
    """
    :param env_id: A key of ``TASKS``
    :param algorithms: Keys of ``_ALGORITHMS``
    :param args: The command line
    :param runs: The folder for all comparisons
    :return: What came of each algorithm
    """
    timesteps = _n_timesteps(env_id, args.budget)
    files = {algo: SETTINGS / f"{algo}.yml" for algo in ("a3c", "a2c", "ppo")}
    a3cs = read_settings(files["a3c"], env_id)
    for algorithm in (A2C, PPO):
        shared = _a3cs_for(algorithm, a3cs)
        if shared != read_settings(files[algorithm.__name__.lower()], env_id):
            path = files[f"stable_baselines3:{algorithm.__name__}"] = runs / f"{env_id}-{algorithm.__name__}.yml"
            runs.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump({env_id: shared}), encoding="utf-8")
    algorithms = [algo for algo in algorithms if algo in files]
    return train(env_id, {algo: files[algo] for algo in algorithms}, timesteps, args.repetitions, args, runs / env_id)


def train(
    env_id: str, settings: Mapping[str, Path], timesteps: int, seeds: int, args: argparse.Namespace, out: Path
) -> list[Summary]:
    """
    :param env_id: A key of ``TASKS``
    :param settings: The file of each algorithm's settings
    :param timesteps: Steps of a run
    :param seeds: Runs per algorithm
    :param args: The command line
    :param out: The folder for the comparison
    :return: What came of each algorithm
    """
    return compare(
        env_id,
        list(settings),
        seeds=seeds,
        timesteps=timesteps,
        out=out,
        settings=settings,
        threshold=TASKS[env_id].threshold,
        eval_interval=max(1, timesteps // args.evaluations),
        n_eval_episodes=TASKS[env_id].n_eval_episodes,
        progress_bar=not args.quick,
    )


def cells(env_id: str, names: Mapping[str, str], summary: Summary, a3c: Summary) -> list[str]:
    """
    :param env_id: The task
    :param names: What the algorithms are called in the table
    :param summary: What came of an algorithm
    :param a3c: What came of A3C
    :return: A row of the table, see ``HEADER``
    """
    return [
        env_id,
        names[summary.algorithm],
        of_seeds(summary.final_return),
        of_seeds(return_at(summary.results, "seconds", float(a3c.seconds.iqm))),
        number(float(summary.steps_per_second.iqm)),
        f"{summary.n_reached} of {len(summary.results)}",
        median_and_range(summary.seconds_to_threshold),
        median_and_range(summary.steps_to_threshold),
    ]


def curves(summaries: Mapping[str, list[Summary]], names: Mapping[str, str], figure: "Figure") -> None:
    """
    Draw the learning curves, by steps and by seconds.

    :param summaries: What came of each algorithm, for each task
    :param names: What the algorithms are called in the picture
    :param figure: Where to draw
    """
    figure.set_size_inches(9.0, 0.6 + 2.4 * len(summaries))
    rows = figure.subplots(len(summaries), 2, sharey="row", squeeze=False)
    for panels, (env_id, of_task) in zip(rows, summaries.items(), strict=True):
        named = [replace(summary, algorithm=names[summary.algorithm]) for summary in of_task]
        draw_curves(panels, named, of_task[0].threshold)
        panels[0].locator_params(axis="x", nbins=5)
        panels[0].set_title(env_id, loc="left", fontsize="medium")
        panels[0].set_ylabel("mean return")
    # The last is the first task's threshold.
    handles, labels = (entries[:-1] for entries in rows[0][0].get_legend_handles_labels())
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        tasks=Option(",".join(TASKS), "CartPole-v1", "ids of environments, separated by commas"),
        algorithms=Option(",".join(_ALGORITHMS), ",".join(_ALGORITHMS), "names of algorithms, separated by commas; a3c first"),
        budget=Option(1.0, 0.005, "fraction of the tasks' steps"),
        evaluations=Option(15, 2, "per run"),
        runs=Option("runs/results", "", "folder for the comparisons"),
    )
    tasks = [env_id for env_id in args.tasks.split(",") if find_spec(TASKS[env_id].needs)]
    with ExitStack() as stack:
        runs = Path(args.runs or stack.enter_context(TemporaryDirectory()))
        summaries = {env_id: learn(env_id, args.algorithms.split(","), args, runs) for env_id in tasks}
    rows = [cells(env_id, _ALGORITHMS, summary, of_task[0]) for env_id, of_task in summaries.items() for summary in of_task]
    thresholds = ", ".join(f"{of_task[0].threshold:g} ({env_id})" for env_id, of_task in summaries.items())
    steps = ", ".join(f"{_n_timesteps(env_id, args.budget):,} ({env_id})" for env_id in tasks)
    episodes = ", ".join(f"{TASKS[env_id].n_eval_episodes} ({env_id})" for env_id in tasks)
    notes = [
        f"{args.repetitions} seed(s), the same steps for all algorithms: {steps}. Returns: interquartile means, in brackets "
        f"95 % bootstrap intervals; with fewer than {MIN_SEEDS} seeds the value of each run. Steps/s: interquartile means. In "
        "A3C's time: the return after as many seconds as A3C took for all its steps.",
        f"Reached: how many seeds reached, in the mean of an evaluation, {thresholds}. An evaluation's episodes: {episodes}. "
        "After: medians over seeds, in brackets the minimum and the maximum; a seed that never reached the return counts as "
        "later than all others.",
        "A3C's settings were tuned for these budgets of steps; those of rl-baselines3-zoo are for longer runs. With A3C's "
        "settings A2C and PPO have A3C's values of all arguments that they share with it; PPO's minibatch is a whole rollout.",
    ]
    if left_out := set(args.tasks.split(",")) - set(tasks):
        notes.append(f"Left out, because packages they need are not installed: {', '.join(sorted(left_out))}.")
    report(args, "Returns of A3C, A2C and PPO", HEADER, rows, notes, lambda figure: curves(summaries, _ALGORITHMS, figure))


def _n_timesteps(env_id: str, budget: float) -> int:
    return max(1, int(TASKS[env_id].n_timesteps * budget))


def _a3cs_for(algorithm: type[BaseAlgorithm], settings: Settings) -> Settings:
    """A3C's settings and differing defaults, without the arguments that the algorithm does not have."""
    a3cs, theirs = inspect.signature(A3C).parameters, inspect.signature(algorithm).parameters
    different = [name for name in a3cs if name in theirs and a3cs[name].default != theirs[name].default]
    defaults = {name: a3cs[name].default for name in different if name not in ("policy", "env")}
    shared = defaults | {key: value for key, value in settings.items() if key in theirs or key not in a3cs}
    if "batch_size" in theirs:
        shared["batch_size"] = shared["n_steps"] * shared["n_envs"]  # the whole rollout, as A3C's updates
    return shared


if __name__ == "__main__":
    main()

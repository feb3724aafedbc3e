"""What the benchmarks of learning share: the tasks, the comparison of some algorithms on one of them, notes, and pictures."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import yaml
from arguments import Option

from sb3_a3c.compare import compare
from sb3_a3c.comparison.cells import median_and_range, number, of_seeds
from sb3_a3c.comparison.estimates import MIN_SEEDS, Summary, return_at
from sb3_a3c.comparison.figure import draw_curves
from sb3_a3c.comparison.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The folder of settings.
SETTINGS = Path(__file__).parent / "settings"


class Task(NamedTuple):
    """
    :param threshold: The return to reach, None: the one that Gymnasium registers
    :param n_eval_episodes: Episodes of an evaluation
    :param needs: A module that its environment needs
    """

    threshold: float | None = None
    n_eval_episodes: int = 10
    needs: str = "gymnasium"


TASKS = {
    # The best returns are from 0 to -400, by where an episode begins, and the best mean of ten may be below the threshold.
    "Pendulum-v1": Task(threshold=-200.0, n_eval_episodes=50),
    "CartPole-v1": Task(),
    "Acrobot-v1": Task(),
    "MountainCarContinuous-v0": Task(),
    "LunarLander-v3": Task(needs="Box2D"),
    "LunarLanderContinuous-v3": Task(needs="Box2D"),
    "BipedalWalker-v3": Task(needs="Box2D"),
    "HalfCheetah-v5": Task(needs="mujoco"),
    "Hopper-v5": Task(needs="mujoco"),
    "Walker2d-v5": Task(threshold=3000.0, needs="mujoco"),  # Gymnasium registers none
    "Ant-v5": Task(needs="mujoco"),
    "Swimmer-v5": Task(needs="mujoco"),
}


def tasks_option(tasks: Iterable[str], quick: str = "CartPole-v1") -> Option:
    """
    :param tasks: Ids of environments
    :param quick: The task of a quick run
    :return: The option ``--tasks``
    """
    return Option(",".join(tasks), quick, "ids of environments, separated by commas")


def runs_option(name: str) -> Option:
    """
    :param name: The benchmark's name
    :return: The option ``--runs``
    """
    return Option(f"runs/{name}", "", "folder for the comparisons")


def available(tasks: str) -> list[str]:
    """
    :param tasks: Keys of ``TASKS``, separated by commas
    :return: Those whose packages are installed
    """
    return [env_id for env_id in tasks.split(",") if find_spec(TASKS[env_id].needs)]


@contextmanager
def folder(runs: str) -> Iterator[Path]:
    """
    :param runs: The folder for the comparisons; a temporary one if empty
    :return: A context that gives its path
    """
    if runs:
        yield Path(runs)
    else:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)


def write_settings(path: Path, env_id: str, settings: Settings) -> Path:
    """
    :param path: The file to write
    :param env_id: The task
    :param settings: Its settings
    :return: The file
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({env_id: settings}), encoding="utf-8")
    return path


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


#: What the columns "After ..." are.
NOTE_ON_AFTER = (
    "After: medians over seeds, in brackets the minimum and the maximum; a seed that never reached the return counts as later "
    "than all others."
)
HEADER = ["Task", "Algorithm", "Final return", "In A3C's time", "Steps/s", "Reached", "After seconds", "After steps"]


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
        reached(summary),
        median_and_range(summary.seconds_to_threshold),
        median_and_range(summary.steps_to_threshold),
    ]


def reached(summary: Summary) -> str:
    """
    :param summary: What came of an algorithm
    :return: How many of its seeds reached the task's threshold
    """
    return f"{summary.n_reached} of {len(summary.results)}"


def note_on_returns(repetitions: int) -> str:
    """
    :param repetitions: Seeds per algorithm
    :return: What the returns in a table are
    """
    return (
        f"{repetitions} seed(s). Returns: interquartile means of an evaluation at the end, in brackets 95 % bootstrap "
        f"intervals; with fewer than {MIN_SEEDS} seeds the value of each run."
    )


def note_on_reached(summaries: Mapping[str, Sequence[Summary]]) -> str:
    """
    :param summaries: What came of each algorithm, for each task
    :return: What "Reached" is in a table
    """
    thresholds = ", ".join(f"{of_task[0].threshold:g} ({env_id})" for env_id, of_task in summaries.items())
    return f"Reached: how many seeds reached, in the mean of an evaluation, {thresholds}."


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

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
from collections.abc import Sequence
from pathlib import Path

from arguments import Option, parse_arguments
from learning import (
    HEADER,
    NOTE_ON_AFTER,
    SETTINGS,
    TASKS,
    available,
    cells,
    curves,
    folder,
    note_on_reached,
    note_on_returns,
    runs_option,
    tasks_option,
    train,
    write_settings,
)
from report import report
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_a3c import A3C
from sb3_a3c.comparison.estimates import Summary
from sb3_a3c.comparison.settings import Settings, read_settings

#: Steps of a run, for each task.
_N_TIMESTEPS = {
    "Pendulum-v1": 150_000,
    "CartPole-v1": 100_000,
    "Acrobot-v1": 150_000,
    "MountainCarContinuous-v0": 30_000,
    "LunarLander-v3": 200_000,
    "LunarLanderContinuous-v3": 200_000,
    "BipedalWalker-v3": 150_000,
    "HalfCheetah-v5": 150_000,
}
#: How ``sb3_a3c.compare`` names the algorithms, and what they are called here.
_ALGORITHMS = {
    "a3c": "A3C",
    "a2c": "A2C",
    "ppo": "PPO",
    "stable_baselines3:A2C": "A2C with A3C's settings",
    "stable_baselines3:PPO": "PPO with A3C's settings",
}


def learn(env_id: str, algorithms: Sequence[str], args: argparse.Namespace, runs: Path) -> list[Summary]:
    """
    :param env_id: A key of ``_N_TIMESTEPS``
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
            path = runs / f"{env_id}-{algorithm.__name__}.yml"
            files[f"stable_baselines3:{algorithm.__name__}"] = write_settings(path, env_id, shared)
    algorithms = [algo for algo in algorithms if algo in files]
    return train(env_id, {algo: files[algo] for algo in algorithms}, timesteps, args.repetitions, args, runs / env_id)


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        tasks=tasks_option(_N_TIMESTEPS),
        algorithms=Option(",".join(_ALGORITHMS), ",".join(_ALGORITHMS), "names of algorithms, separated by commas; a3c first"),
        budget=Option(1.0, 0.005, "fraction of the tasks' steps"),
        evaluations=Option(15, 2, "per run"),
        runs=runs_option("results"),
    )
    tasks = available(args.tasks)
    with folder(args.runs) as runs:
        summaries = {env_id: learn(env_id, args.algorithms.split(","), args, runs) for env_id in tasks}
    rows = [cells(env_id, _ALGORITHMS, summary, of_task[0]) for env_id, of_task in summaries.items() for summary in of_task]
    steps = ", ".join(f"{_n_timesteps(env_id, args.budget):,} ({env_id})" for env_id in tasks)
    episodes = ", ".join(f"{TASKS[env_id].n_eval_episodes} ({env_id})" for env_id in tasks)
    notes = [
        f"{note_on_returns(args.repetitions)} Steps/s: interquartile means. In A3C's time: the return after as many seconds "
        f"as A3C took for all its steps. Steps of all algorithms: {steps}.",
        f"{note_on_reached(summaries)} An evaluation's episodes: {episodes}. {NOTE_ON_AFTER}",
        "A3C's settings were tuned for these budgets of steps; those of rl-baselines3-zoo are for longer runs. With A3C's "
        "settings A2C and PPO have A3C's values of all arguments that they share with it; PPO's minibatch is a whole rollout.",
    ]
    if left_out := set(args.tasks.split(",")) - set(tasks):
        notes.append(f"Left out, because packages they need are not installed: {', '.join(sorted(left_out))}.")
    report(args, "Returns of A3C, A2C and PPO", HEADER, rows, notes, lambda figure: curves(summaries, _ALGORITHMS, figure))


def _n_timesteps(env_id: str, budget: float) -> int:
    return max(1, int(_N_TIMESTEPS[env_id] * budget))


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

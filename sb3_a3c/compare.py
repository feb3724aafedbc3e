"""
Compare A3C with A2C and PPO, or any algorithms of Stable-Baselines3's kind, on one environment.

    python -m sb3_a3c.compare --env Pendulum-v1 --algos a3c a2c ppo --seeds 5 --timesteps 300000 --out DIR
    python -m sb3_a3c.compare --env Pendulum-v1 --timesteps 150000 --settings a3c=a3c.yml a2c=a2c.yml --out DIR

Without --settings every algorithm runs with its defaults, all with the same number of environments. A settings file has an
entry for each environment id, as in rl-zoo3; the clone has some in benchmarks/settings:

    Pendulum-v1:
      n_envs: 8
      normalize: true
      learning_rate: lin_1e-3

The runs are made one after another. The folder gets report.html, report.md, a picture of the learning curves, the tables
evaluations.csv, runs.csv and curves.csv, and one file per finished run. Ctrl-C interrupts; the same command then goes on with
the runs that are missing.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from multiprocessing import current_process
from pathlib import Path

from sb3_a3c.comparison.arguments import Arguments, PathLike
from sb3_a3c.comparison.estimates import Summary, summarize
from sb3_a3c.comparison.faults import BadArgument, RunFailed, check
from sb3_a3c.comparison.pages import as_markdown
from sb3_a3c.comparison.plan import Plan, make_plan, rehearse
from sb3_a3c.comparison.processes import Failure, Message, in_processes
from sb3_a3c.comparison.progress import Progress
from sb3_a3c.comparison.report import results_table, write_report, write_tables
from sb3_a3c.comparison.run import RunResult, RunSpec, Stage
from sb3_a3c.comparison.store import Store
from sb3_a3c.system.extras import MissingExtra, require


def compare(
    env: str,
    algos: Sequence[str] = ("a3c", "a2c", "ppo"),
    seeds: int = 5,
    timesteps: int | None = None,
    out: PathLike = "runs/comparison",
    settings: Mapping[str, PathLike] | None = None,
    n_envs: int = 8,
    threshold: float | None = None,
    eval_interval: int | None = None,
    n_eval_episodes: int = 10,
    num_threads: int = 1,
    jobs: int = 1,
    progress_bar: bool = True,
) -> list[Summary]:
    """
    Let algorithms learn with several seeds, evaluate them, and write a report. Runs are processes, so a script that calls
    this needs the guard ``if __name__ == "__main__":``.

    :param env: The id of an environment that gymnasium knows, ``module:Id`` to have a module imported that registers it
    :param algos: Names of algorithms: ``a3c``, ``a2c``, ``ppo``, or ``module:Class`` for another of Stable-Baselines3's kind
    :param seeds: How often each learns, with the seeds 0, 1, ...
    :param timesteps: Steps of a run. ``None``: each algorithm's ``n_timesteps`` in its settings
    :param out: The folder for runs, tables and reports. Runs that are finished there are not made again
    :param settings: A file in rl-zoo3's form for some algorithms, by name; the others have their defaults
    :param n_envs: Environments of each algorithm, unless its settings give another number
    :param threshold: A return to reach. ``None``: the one that gymnasium knows, if it does
    :param eval_interval: Steps between two evaluations. ``None``: a thirtieth of the run
    :param n_eval_episodes: Episodes of an evaluation
    :param num_threads: Threads that torch may use; for small networks one is fastest
    :param jobs: Runs made at once. More than one disturb each other's clock
    :param progress_bar: Whether to show progress, on standard error
    :return: What came of each algorithm
    :raises MissingExtra: if a package of the extra ``compare`` is not installed
    :raises BadArgument: (a ValueError) if an argument, or a file it names, is not what is allowed; nothing has run
    :raises RunFailed: if runs failed; the others are finished and reported on, and the next time only those are made again
    """
    return _compare(
        Arguments(
            env,
            algos,
            seeds,
            timesteps,
            out,
            settings or {},
            n_envs,
            threshold,
            eval_interval,
            n_eval_episodes,
            num_threads,
            jobs,
        ),
        progress_bar,
    )


def make_parser() -> argparse.ArgumentParser:
    """
    :return: The parser of the command line, whose options are the fields of ``Arguments``
    """
    parser = argparse.ArgumentParser(
        prog="python -m sb3_a3c.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = {field.name: field.default for field in fields(Arguments)}
    add = parser.add_argument
    add("--env", required=True, help="the id of an environment that gymnasium knows, or module:Id")
    add("--algos", nargs="+", default=default["algos"], help="a3c, a2c, ppo (default: all three), or module:Class")
    add("--seeds", type=int, default=default["seeds"], help="how often each learns (default: %(default)s)")
    add("--timesteps", type=int, help="steps of a run (default: n_timesteps of the settings)")
    add("--out", default=default["out"], help="the folder for all that is written (default: %(default)s)")
    add(
        "--settings",
        nargs="+",
        default=[],
        metavar="ALGO=FILE",
        help="a YAML file in rl-zoo3's form for each algorithm that has one; the others run with their defaults",
    )
    add("--n-envs", type=int, default=default["n_envs"], help="environments, if the settings have none (default: %(default)s)")
    add("--threshold", type=float, help="a return to reach (default: the one that gymnasium knows, if it does)")
    add("--eval-interval", type=int, help="steps between two evaluations (default: a thirtieth of the run)")
    add("--n-eval-episodes", type=int, default=default["n_eval_episodes"], help="of an evaluation (default: %(default)s)")
    add("--num-threads", type=int, default=default["num_threads"], help="torch's threads (default: %(default)s)")
    add("--jobs", type=int, default=default["jobs"], help="runs at once, which spoils their clocks (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: The command line's arguments, None: this program's
    """
    parser = make_parser()
    options = vars(parser.parse_args(argv))
    try:
        options["settings"] = _settings(options["settings"])
        arguments = Arguments(**options)
        summaries = _compare(arguments, progress_bar=True)
    except BadArgument as error:
        parser.error(str(error))
    except (MissingExtra, RunFailed) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\nInterrupted. What is finished is in {options['out']}; the same command goes on from there.\n")
    sys.stdout.write(as_markdown(arguments.env, [results_table(summaries)]))
    sys.stdout.write(f"\n{os.path.join(arguments.out, 'report.html')}\n")


def _compare(arguments: Arguments, progress_bar: bool) -> list[Summary]:
    # Before anything runs: nobody wants to learn at the end that matplotlib is missing.
    require("compare", "A comparison", "matplotlib", "scipy", "tqdm", "yaml")
    if getattr(current_process(), "_inheriting", False):  # this process is itself being started
        raise RuntimeError('compare() starts processes that import the script; put it under if __name__ == "__main__":')
    plan = make_plan(arguments)
    store = Store(Path(arguments.out))
    with store.taken():
        failures = _carry_out(plan, store, progress_bar)
        results = [result for spec in plan.specs if (result := store.load(spec)) is not None]
        summaries = [
            summarize(algo, [result for result in results if result.spec.algorithm == algo], plan.threshold)
            for algo in arguments.algos
            if any(result.spec.algorithm == algo for result in results)
        ]
        if summaries:
            write_tables(plan, summaries, store)
            write_report(plan, summaries, {run: text.splitlines()[-1] for run, text in failures.items()}, store)
    if failures:
        raise RunFailed("\n".join(f"{run} failed:\n{text}" for run, text in failures.items()))
    return summaries


def _carry_out(plan: Plan, store: Store, progress_bar: bool) -> dict[str, Failure]:
    """Make the runs that are not finished, and say how those failed that did."""
    done = [store.load(spec) for spec in plan.specs]
    to_do = [spec for spec, result in zip(plan.specs, done, strict=True) if result is None]
    failures: dict[str, Failure] = {}
    if not to_do:
        return failures
    rehearse(plan)
    with closing(Progress(plan.specs, plan.arguments.jobs, progress_bar)) as progress:
        for result in done:
            if result is not None:
                progress.over(result.spec, result)

        def hear(spec: RunSpec, message: Message) -> None:
            if isinstance(message, Stage):
                progress.at(spec, message)
            elif isinstance(message, RunResult):
                store.save(message)
                progress.over(spec, message)
            else:
                failures[f"{spec.algorithm} seed {spec.seed}"] = message
                progress.over(spec, None)

        in_processes(to_do, plan.arguments.jobs, hear)
    return failures


def _settings(texts: Sequence[str]) -> dict[str, str]:
    files = {}
    for text in texts:
        algo, equals, path = text.partition("=")
        check(bool(equals), "settings", text, "ALGO=FILE")
        files[algo] = path
    return files


if __name__ == "__main__":
    main()

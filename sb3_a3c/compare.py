"""
Compare A3C with A2C and PPO, or any algorithms with Stable-Baselines3's interface, on one environment.

    python -m sb3_a3c.compare --env Pendulum-v1 --algos a3c a2c ppo --seeds 5 --timesteps 300000 --out DIR
    python -m sb3_a3c.compare --env Pendulum-v1 --timesteps 150000 --settings a3c=a3c.yml a2c=a2c.yml --out DIR

Without --settings every algorithm has its defaults, and all have the same number of environments. A settings file has one
entry per environment id, as in rl-zoo3. The repository has some in benchmarks/settings:

    Pendulum-v1:
      n_envs: 8
      normalize: true
      learning_rate: lin_1e-3

Runs are made one after another. The folder gets report.html, report.md, a picture of the learning curves, the tables
evaluations.csv, runs.csv and curves.csv, and one file per finished run. Ctrl-C interrupts; the same command then continues
with the missing runs.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_a3c.backends.process.guard import is_importing_the_script
from sb3_a3c.comparison.arguments import Arguments, PathLike
from sb3_a3c.comparison.errors import BadArgument, RunFailed
from sb3_a3c.system.extras import MissingExtra, require

if TYPE_CHECKING:
    from sb3_a3c.comparison.estimates import Summary


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
) -> "list[Summary]":
    """
    Train algorithms with several seeds, evaluate them, and write a report. Runs are processes, so a script that calls this
    needs the guard ``if __name__ == "__main__":``.

    :param env: The id of an environment that gymnasium knows, or ``module:Id`` to import a module that registers it
    :param algos: Names of algorithms: ``a3c``, ``a2c``, ``ppo``, or ``module:Class`` for another one
    :param seeds: Runs per algorithm, with the seeds 0, 1, ...
    :param timesteps: Steps of a run. ``None``: each algorithm's ``n_timesteps`` in its settings
    :param out: The folder for runs, tables and reports. Runs that are finished there are not made again
    :param settings: A file in rl-zoo3's form for some algorithms, by name; the others have their defaults
    :param n_envs: Environments of each algorithm whose settings don't give a number
    :param threshold: A return to reach. ``None``: the one that gymnasium knows, if there is one
    :param eval_interval: Steps between two evaluations. ``None``: a thirtieth of the run
    :param n_eval_episodes: Episodes per evaluation
    :param num_threads: Threads that torch may use; one is fastest for small networks
    :param jobs: Runs made at once. More than one slow each other down
    :param progress_bar: Whether to show progress on standard error
    :return: The figures of each algorithm
    :raises MissingExtra: if a package of the extra ``compare`` is not installed
    :raises BadArgument: (a ValueError) if an argument, or a file that it names, is not allowed; nothing has run
    :raises RunFailed: if runs failed; the others are finished and in the report, and only those that failed are made again
        the next time
    """
    values = (env, algos, seeds, timesteps, out, settings or {}, n_envs, threshold, eval_interval)
    return _compare(Arguments(*values, n_eval_episodes, num_threads, jobs), progress_bar)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, whose options are the fields of ``Arguments``."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_a3c.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(**{field.name: field.default for field in fields(Arguments) if field.name not in ("env", "settings")})
    add = parser.add_argument
    add("--env", required=True, help="the id of an environment that gymnasium knows, or module:Id")
    add("--algos", nargs="+", help="a3c, a2c, ppo (default: all three), or module:Class")
    add("--seeds", type=int, help="runs per algorithm (default: %(default)s)")
    add("--timesteps", type=int, help="steps of a run, rounded up to whole rollouts (default: n_timesteps in the settings)")
    add("--out", help="the folder for everything that is written (default: %(default)s)")
    settings_help = "a YAML file in rl-zoo3's form for some algorithms; the others have their defaults"
    add("--settings", nargs="+", type=_algo_and_file, default=[], metavar="ALGO=FILE", help=settings_help)
    add("--n-envs", type=int, help="environments, if the settings give no number (default: %(default)s)")
    add("--threshold", type=float, help="a return to reach (default: the one that gymnasium knows, if there is one)")
    add("--eval-interval", type=int, help="steps between two evaluations (default: a thirtieth of the run)")
    add("--n-eval-episodes", type=int, help="episodes per evaluation (default: %(default)s)")
    add("--num-threads", type=int, help="threads that torch may use (default: %(default)s)")
    add("--jobs", type=int, help="runs made at once, which slow each other down (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; without ``argv`` that of this program."""
    parser = make_parser()
    options = vars(parser.parse_args(argv))
    arguments = Arguments(**{**options, "settings": dict(options["settings"])})
    try:
        summaries = _compare(arguments, progress_bar=True)
    except BadArgument as error:
        parser.error(str(error))
    except (MissingExtra, RunFailed) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\nInterrupted. Finished runs are in {arguments.out}; the same command continues from there.\n")
    from sb3_a3c.comparison.report import results_table

    sys.stdout.write(f"{results_table(summaries).to_string(index=False)}\n\n{Path(arguments.out) / 'report.html'}\n")


def _algo_and_file(text: str) -> tuple[str, str]:
    algo, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"each must be ALGO=FILE, but one is {text!r}")
    return algo, path


def _compare(arguments: Arguments, progress_bar: bool) -> "list[Summary]":
    # Before anything runs, so that nobody learns at the end of the training that matplotlib is missing.
    require("compare", "A comparison", "filelock", "jinja2", "matplotlib", "pandas", "scipy", "tqdm", "yaml")
    if is_importing_the_script():
        raise RuntimeError('compare() starts processes that import the script; put it under if __name__ == "__main__":')
    if not hasattr(signal, "pthread_sigmask"):
        raise BadArgument("a comparison needs Linux or macOS: it blocks Ctrl-C in its processes, which this platform can't")
    from sb3_a3c.comparison.session import run_comparison  # here, because it imports the extra's packages

    return run_comparison(arguments, progress_bar)


if __name__ == "__main__":
    main()

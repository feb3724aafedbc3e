"""
Speed, staleness and returns of updates with locks and without (Hogwild), on CartPole with eight workers. The speeds are close
to each other, so locks cost little here. Returns vary from run to run, with locks and without.

CartPole, eight workers with one environment each, in threads and in processes. ``Staleness`` is the number of updates that
others made between a worker's pull and its push. ``Waiting`` is the share of the workers' time that they wait for the lock.
``Return`` is the mean over 20 episodes of each seed's policy after learning, and ``least`` that of the worst seed.

    python benchmarks/hogwild.py
"""

import statistics
from typing import NamedTuple

from arguments import Option, parse_arguments
from report import bars, report
from speed import measure, median_and_ratios, preload
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_a3c import A3C

ENV_ID = "CartPole-v1"
N_EPISODES = 20


class Run(NamedTuple):
    """
    What came of learning.

    :param rate: Steps/s
    :param staleness_mean: Mean staleness of all updates
    :param staleness_max: The greatest
    :param lock_wait_fraction: Which part of their time workers wait for the lock
    :param final_return: Mean return after learning
    """

    rate: float
    staleness_mean: float
    staleness_max: float
    lock_wait_fraction: float
    final_return: float


def learn(backend: str, use_locking: bool, n_workers: int, seed: int, timesteps: int) -> Run:
    """
    :param backend: Where workers live
    :param use_locking: Whether they lock
    :param n_workers: How many there are
    :param seed: The model's seed
    :param timesteps: How long to learn
    :return: What came of it
    """
    model = A3C(
        "MlpPolicy",
        make_vec_env(ENV_ID, n_envs=n_workers, seed=seed),
        n_steps=16,
        seed=seed,
        backend=backend,
        use_locking=use_locking,
    )
    rate = measure(model, timesteps, log_interval=None).rate
    final_return, _ = evaluate_policy(model, make_vec_env(ENV_ID, n_envs=N_EPISODES, seed=1_000 + seed), N_EPISODES)
    logged = model.logger.name_to_value  # of the whole last run, for nothing was dumped
    return Run(
        rate=rate,
        staleness_mean=logged["async/staleness_mean"],
        staleness_max=logged["async/staleness_max"],
        lock_wait_fraction=logged["async/lock_wait_fraction"],
        final_return=float(final_return),  # type: ignore[arg-type]
    )


def cells(runs: list[Run], locked: list[Run]) -> list[str]:
    """
    :param runs: Runs of one row, one a seed
    :param locked: Those with locks, of the same backend and the same seeds
    :return: The row's figures
    """
    return [
        *median_and_ratios([run.rate for run in runs], [run.rate for run in locked]),
        f"{statistics.median(run.staleness_mean for run in runs):.1f}",
        f"{max(run.staleness_max for run in runs):.0f}",
        f"{statistics.median(run.lock_wait_fraction for run in runs):.2%}",
        f"{statistics.mean(run.final_return for run in runs):.0f}",
        f"{min(run.final_return for run in runs):.0f}",
    ]


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        timesteps=Option(100_000, 64, "of a run"),
        workers=Option(8, 2, "number of workers, with one environment each"),
        backends=Option("thread,process", "thread", "where workers run, separated by commas"),
    )
    preload()
    runs: dict[tuple[str, str], list[Run]] = {
        (backend, updates): [] for backend in args.backends.split(",") for updates in ("locked", "Hogwild")
    }
    for seed in range(args.repetitions):
        for backend, updates in runs:
            runs[backend, updates].append(learn(backend, updates == "locked", args.workers, seed, args.timesteps))
    rows = [[updates, backend, *cells(runs[backend, updates], runs[backend, "locked"])] for backend, updates in runs]
    notes = [
        f"Medians of {args.repetitions} seed(s), staleness's maximum over them and their mean return; {ENV_ID}, "
        f"{args.workers} workers with one environment each, n_steps=16, {args.timesteps:,} steps, MlpPolicy."
    ]
    panels = {
        what: {f"{updates}, {backend}": mean_or_median(run[i] for run in seeds) for (backend, updates), seeds in runs.items()}
        for i, what, mean_or_median in (
            (0, "steps/s", statistics.median),
            (1, "mean staleness", statistics.median),
            (4, "return", statistics.mean),
        )
    }
    header = ["Updates", "Backend", "Steps/s", "By locked", "least", "Staleness", "greatest", "Waiting", "Return", "least"]
    report(args, "Hogwild and locks", header, rows, notes, bars(panels, "", share_x=False))


if __name__ == "__main__":
    main()

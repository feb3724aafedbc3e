"""How fast a model learns: environment steps per second, with what a run takes to start apart."""

import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any, NamedTuple

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback

#: A3C's ways to share eight environments or more, by the names of the tables' rows.
A3C_ROWS: dict[str, dict[str, Any]] = {
    "A3C, 1 worker": dict(n_workers=1),
    "A3C, 2 threads": dict(n_workers=2, backend="thread"),
    "A3C, 8 threads": dict(n_workers=8, backend="thread"),
    "A3C, 2 processes": dict(n_workers=2, backend="process"),
    "A3C, 8 processes": dict(n_workers=8, backend="process"),
}


class Speed(NamedTuple):
    """
    What two runs of different length differ by, in which what every run takes to start and to end cancels out.

    :param n_steps: Environment steps
    :param seconds: Seconds
    :param start: The seconds of a run that are not steps
    """

    n_steps: int
    seconds: float
    start: float

    @property
    def rate(self) -> float:
        """:return: Steps/s"""
        return self.n_steps / self.seconds


def measure(
    model: OnPolicyAlgorithm, timesteps: float, callback: MaybeCallback = None, log_interval: int | None = 100
) -> Speed:
    """
    :param model: A new model
    :param timesteps: By how many steps the two runs differ, about; the shorter makes a tenth of them
    :param callback: Its callback
    :param log_interval: As in ``learn()``
    :return: How fast it learns
    """
    rollout = model.n_steps * model.n_envs
    model.learn(rollout, callback, log_interval)  # type: ignore[arg-type]  # compiles, or reads what was compiled
    short = max(1, int(timesteps / 10))
    n_steps, seconds = [], []
    for total_timesteps in (short, short + max(rollout, int(timesteps))):
        started = time.perf_counter()
        model.learn(total_timesteps, callback, log_interval)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
        n_steps.append(model.num_timesteps)
    difference = n_steps[1] - n_steps[0], seconds[1] - seconds[0]
    return Speed(*difference, start=seconds[0] - n_steps[0] * difference[1] / difference[0])


def median_and_ratios(values: Sequence[float], base: Sequence[float]) -> list[str]:
    """
    :param values: Something of each repetition
    :param base: What to divide it by
    :return: Cells of a table: the values' median, the ratios' median and the least ratio
    """
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    return [f"{statistics.median(values):,.0f}", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}"]


def measure_together(n_processes: int, target: Callable[..., None], *args: Any) -> list[Any]:
    """
    :param n_processes: Number of processes that measure at the same time
    :param target: What each runs. After ``args`` it gets a barrier to wait at and a queue for its one result
    :param args: Its first arguments
    :return: Their results
    """
    context = get_context("forkserver")
    barrier, results = context.Barrier(n_processes), context.SimpleQueue()
    processes = [context.Process(target=target, args=(*args, barrier, results)) for _ in range(n_processes)]
    for process in processes:
        process.start()
    values = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return values


def preload() -> None:
    """Let the fork server have what SubprocVecEnvs and A3C's workers need, whichever of them starts it."""
    get_context("forkserver").set_forkserver_preload(["sb3_a3c", "stable_baselines3", "numba"])

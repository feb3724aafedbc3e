"""
Memory of one of eight workers on Pendulum, in threads and in processes that are started in three ways. A thread takes least. A
process of the fork server, the default, takes much less than one that is spawned.

Pendulum, eight workers with one environment each, in the middle of a run. Memory is Linux's proportional set size: a page that
n processes share counts 1/n for each. ``A worker`` is the mean over the worker processes. For threads, it is the growth of
the process since ``learn()`` began, divided by the number of workers. ``Fork server`` is that process and all other helper
processes; ``Main process`` is the one that called ``learn()``. Each row is measured in a new process. No other process that
has loaded the same libraries runs at that time, because it would share their pages.

    python benchmarks/memory.py
"""

import multiprocessing
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from arguments import Option, parse_arguments

ENV_ID, N_STEPS = "Pendulum-v1", 8
#: Start methods, None: threads.
ROWS: dict[str, str | None] = {
    "process, forkserver": "forkserver",
    "process, spawn": "spawn",
    "process, fork": "fork",
    "thread": None,
}


class Memory(NamedTuple):
    """
    Memory in MB.

    :param worker: A worker's, in the mean
    :param largest: The largest worker's
    :param others: Of processes that are neither workers nor the main process
    :param main: The main process's
    """

    worker: float
    largest: float
    others: float
    main: float


class MemoryReader:
    """
    A callback that reads the memory of all processes once, half-way through a run, when all workers are at work.

    :param n_workers: How many workers there are
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._before = proportional_set_size(psutil.Process().pid)
        self.memory: Memory | None = None

    def __call__(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
        model = locals_["self"]
        if self.memory is None and model.num_timesteps >= model._total_timesteps / 2:
            main = proportional_set_size(psutil.Process().pid)
            pids = [process.pid for process in multiprocessing.active_children() if process.name.startswith("A3C worker")]
            others = {child.pid for child in psutil.Process().children(recursive=True)} - set(pids)
            workers = [proportional_set_size(pid) for pid in pids if pid] or [(main - self._before) / self._n_workers]
            self.memory = Memory(statistics.mean(workers), max(workers), sum(map(proportional_set_size, others)), main)
        return True


def proportional_set_size(pid: int) -> float:
    """
    :param pid: A process
    :return: Its memory in MB, of 1,000,000 bytes
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("Linux does not say what the proportional set size is")


def learn(start_method: str | None, n_workers: int, timesteps: int) -> Memory:
    """
    :param start_method: How workers' processes are started, None: they are threads
    :param n_workers: How many there are
    :param timesteps: How long to learn
    :return: The memory that it took
    """
    from stable_baselines3.common.env_util import make_vec_env  # here, so that the process that prints has none of it

    from sb3_a3c import A3C

    model = A3C(
        "MlpPolicy",
        make_vec_env(ENV_ID, n_envs=n_workers, seed=0),
        n_steps=N_STEPS,
        seed=0,
        backend="thread" if start_method is None else "process",
        backend_kwargs=None if start_method is None else dict(start_method=start_method),
        max_lead=1,  # so that none has done with its part before the memory is read
    )
    reader = MemoryReader(n_workers)
    model.learn(timesteps, reader)
    assert reader.memory is not None
    return reader.memory


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=1,
        timesteps=Option(40_000, 100, "of a run"),
        workers=Option(8, 2, "number of workers"),
        only=Option("", "fork$|thread", "pattern of the rows to measure; all if empty"),
    )
    measured: dict[str, list[Memory]] = {name: [] for name in ROWS if re.search(args.only, name)}
    for _ in range(args.repetitions):
        for name, runs in measured.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                runs.append(process.submit(learn, ROWS[name], args.workers, args.timesteps).result())
    from report import bars, report  # for the same reason

    medians = {name: Memory(*map(statistics.median, zip(*values, strict=True))) for name, values in measured.items()}
    rows = [[name, *(f"{megabytes:.0f}" for megabytes in memory)] for name, memory in medians.items()]
    notes = [
        f"Medians of {args.repetitions} repetition(s), in MB; {ENV_ID}, {args.workers} workers with one environment each, "
        f"n_steps={N_STEPS}, MlpPolicy, engine fused."
    ]
    header = ["Workers live in", "A worker", "largest", "Fork server", "Main process"]
    panels = {"": {name: memory.worker for name, memory in medians.items()}}
    report(args, "Memory of a worker", header, rows, notes, bars(panels, "MB per worker, proportional set size"))


if __name__ == "__main__":
    main()

"""
How long a user waits for the first update: imports, compilation and workers.

Pendulum, an environment a worker. A figure of the table is seconds from ``learn()`` until all workers have made their first
update, with kernels that were compiled in a run before: of the first ``learn()`` of a new process, and of its second, which
finds the fork server running. (It was started when the model was made, and has loaded for as long as that took.) Below
stand the seconds that imports take, and the first update where nothing was compiled yet.

    python benchmarks/start_up.py
"""

import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from arguments import Option, parse_arguments
from report import bars, report
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C

ENV_ID = "Pendulum-v1"
#: Start methods, None: threads.
ROWS: dict[str, str | None] = {
    "thread": None,
    "process, forkserver": "forkserver",
    "process, spawn": "spawn",
    "process, fork": "fork",
}


class FirstUpdate(BaseCallback):
    """Knows when all workers had made an update."""

    def __init__(self) -> None:
        super().__init__()
        self.at: float | None = None

    def _on_rollout_start(self) -> None:
        self.at = self.at or time.monotonic()  # callbacks see a rollout when all workers have made one

    def _on_step(self) -> bool:
        return True


class Start(NamedTuple):
    """Seconds to the first update of all workers: of the first ``learn()`` in a process, and of the second."""

    first: float
    second: float


def learn(start_method: str | None, n_workers: int) -> Start:
    """
    :param start_method: How workers' processes are started, None: they are threads
    :param n_workers: How many there are
    :return: How long it took
    """
    model = A3C(
        "MlpPolicy",
        make_vec_env(ENV_ID, n_envs=n_workers, seed=0),
        seed=0,
        backend="thread" if start_method is None else "process",
        backend_kwargs=None if start_method is None else dict(start_method=start_method),
    )
    seconds = []
    for _ in range(2):
        callback, started = FirstUpdate(), time.monotonic()
        model.learn(10 * model.n_steps * n_workers, callback)
        assert callback.at is not None
        seconds.append(callback.at - started)
    return Start(*seconds)


def in_a_new_process(start_method: str | None, n_workers: int) -> Start:
    """See :func:`learn`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(learn, start_method, n_workers).result()


def time_python(code: str) -> float:
    """
    :param code: A program
    :return: The seconds of a Python that runs it
    """
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - started


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Processes that are started meanwhile have an empty cache of compiled code."""
    before = os.environ.get("NUMBA_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["NUMBA_CACHE_DIR"]
            if before is not None:
                os.environ["NUMBA_CACHE_DIR"] = before


def main() -> None:
    args = parse_arguments(
        __doc__,
        workers=Option("1,2,4,8", "2", "how many"),
        only=Option("", "fork$", "pattern of the rows to measure; all if empty"),
        compile=Option(1, 0, "whether to measure compilation too, which takes a minute: 1 or 0"),
    )
    n_workers = [int(n) for n in args.workers.split(",")]
    names = [name for name in ROWS if re.search(args.only, name)]
    in_a_new_process("fork", 2)  # compiles
    starts: dict[tuple[str, int], list[Start]] = {(name, n): [] for name in names for n in n_workers}
    imports: dict[str, list[float]] = {"nothing": [], "stable_baselines3": [], "sb3_a3c": []}
    for _ in range(args.repetitions):
        for name, seconds in imports.items():
            seconds.append(time_python("" if name == "nothing" else f"import {name}"))
        for (name, n), measured in starts.items():
            measured.append(in_a_new_process(ROWS[name], n))
    medians = {key: Start(*map(statistics.median, zip(*measured, strict=True))) for key, measured in starts.items()}
    rows = [
        [name, which, *(f"{getattr(medians[name, n], which):.2f}" for n in n_workers)]
        for name in names
        for which in Start._fields
    ]
    import_seconds = {
        name: statistics.median(seconds) - statistics.median(imports["nothing"]) for name, seconds in imports.items()
    }
    notes = [
        f"Medians of {args.repetitions} repetition(s), in seconds; {ENV_ID}, an environment a worker, MlpPolicy, fused.",
        f"``import sb3_a3c`` takes {import_seconds['sb3_a3c']:.2f} s, ``import stable_baselines3``, which is in that, "
        f"{import_seconds['stable_baselines3']:.2f} s.",
    ]
    if args.compile:
        with nothing_compiled():
            cold = in_a_new_process(None, 1).first
        warm = in_a_new_process(None, 1).first
        notes.append(
            f"Where nothing was compiled yet, one worker's first update comes after {cold:.1f} s rather than {warm:.1f} s."
        )
    panels = {f"{n} worker(s)": {name: medians[name, n].first for name in names} for n in n_workers}
    header = ["Workers live in", "learn()", *(f"{n} worker(s)" for n in n_workers)]
    report(args, "Start-up: seconds to the first update", header, rows, notes, bars(panels, "seconds, of a first learn()"))


if __name__ == "__main__":
    main()

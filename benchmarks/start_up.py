"""
Seconds that a user waits for the first update on Pendulum, with 1 to 8 workers in threads and in processes. Threads and forked
processes start fastest. Processes of the fork server, the default, take a little longer, and spawned ones much longer.

Pendulum, one environment per worker. The table has the seconds from ``learn()`` until all workers have made their first
update, with kernels that were compiled before: for the first ``learn()`` of a new process, and for the second one, when the
fork server is already running. (The fork server starts when the model is made, so a part of its start is not counted.) Below
the table are the seconds that imports take, and the seconds from the start of Python to a program's first step: with an empty
cache, so that all kernels that the program needs are compiled, and with the cache that this leaves. CPU time is given too,
because a busy machine disturbs it less. Another checkout can be measured in turn with this one.

    python benchmarks/start_up.py --before PATH_OF_ANOTHER_CHECKOUT
"""

import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
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
#: The programs whose first step is waited for.
PROGRAMS = {
    'A3C("MlpPolicy", "Pendulum-v1").learn()': """A3C("MlpPolicy", "Pendulum-v1").learn()""",
    "make train": """sys.argv = ["pendulum.py", "--out", OUT]; runpy.run_path("examples/pendulum.py", run_name="__main__")""",
}
#: Prints a line at the first step, and ends.
FIRST_STEP = """
import functools, runpy, sys
from sb3_a3c import A3C
from stable_baselines3.common.callbacks import BaseCallback

class FirstStep(BaseCallback):
    def _on_step(self):
        print("step", flush=True)
        return False

def learn(self, *args, **kwargs):
    A3C.original_learn(self, 10_000, FirstStep())
    sys.exit()

A3C.original_learn, A3C.learn = A3C.learn, learn
"""


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


class FirstStep(NamedTuple):
    """
    :param wall: Seconds from the start of Python to the first step
    :param cpu: Seconds of CPU time of the whole program, which ends there, and of the processes that it has waited for
    """

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s of CPU time)"


def wait_for_first_step(program: str, root: Path, cache: str) -> FirstStep:
    """
    :param program: Python code
    :param root: The checkout to run
    :param cache: The folder of compiled kernels
    :return: How long it took
    """
    with tempfile.TemporaryDirectory() as out:
        code = FIRST_STEP + program.replace("OUT", repr(out))
        environment = os.environ | {"PYTHONPATH": str(root), "NUMBA_CACHE_DIR": cache}
        quiet, started = subprocess.DEVNULL, time.monotonic()
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=quiet) as process:
            assert process.stdout is not None
            lines = [line.strip() for line in iter(process.stdout.readline, b"") if line.strip() == b"step"][:1]
            wall = time.monotonic() - started
            _, process.returncode, usage = os.wait4(process.pid, 0)
        if not lines:
            raise RuntimeError(f"the program made no step: {program}")
        return FirstStep(wall, usage.ru_utime + usage.ru_stime)


def first_steps(roots: dict[str, Path], n_repetitions: int) -> list[str]:
    """
    :param roots: The checkouts to measure in turn, by what they are called
    :param n_repetitions: How often
    :return: Paragraphs that say what was measured
    """
    measured: dict[tuple[str, str, str], list[FirstStep]] = {}
    for _ in range(n_repetitions):
        for name, program in PROGRAMS.items():
            for version, root in roots.items():
                with tempfile.TemporaryDirectory() as cache:
                    for which in ("empty", "full"):
                        seconds = wait_for_first_step(program, root, cache)
                        measured.setdefault((name, version, which), []).append(seconds)
    medians = {key: FirstStep(*map(statistics.median, zip(*steps, strict=True))) for key, steps in measured.items()}
    return [
        f"``{name}`` makes its first step after {medians[name, version, 'empty']} from an empty cache, and after "
        f"{medians[name, version, 'full']} when its kernels have been compiled{version}."
        for name in PROGRAMS
        for version in roots
    ]


def main() -> None:
    args = parse_arguments(
        __doc__,
        workers=Option("1,2,4,8", "2", "numbers of workers, separated by commas"),
        only=Option("", "fork$", "pattern of the rows to measure; all if empty"),
        compile=Option(1, 0, "whether to measure compilation too, which takes minutes: 1 or 0"),
        before=Option("", "", "another checkout of this repository whose compilation is measured too"),
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
        f"Medians of {args.repetitions} repetition(s), in seconds; {ENV_ID}, one environment per worker, MlpPolicy, fused.",
        f"``import sb3_a3c`` takes {import_seconds['sb3_a3c']:.2f} s, of which ``import stable_baselines3`` takes "
        f"{import_seconds['stable_baselines3']:.2f} s.",
    ]
    if args.compile:
        roots = {"": Path(__file__).parents[1]}
        if args.before:
            roots[" (before)"] = Path(args.before)
        notes += first_steps(roots, args.repetitions)
    panels = {f"{n} worker(s)": {name: medians[name, n].first for name in names} for n in n_workers}
    header = ["Workers live in", "learn()", *(f"{n} worker(s)" for n in n_workers)]
    report(args, "Start-up: seconds to the first update", header, rows, notes, bars(panels, "seconds, of a first learn()"))


if __name__ == "__main__":
    main()

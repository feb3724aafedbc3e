"""Two hundred runs in a row, faults of every kind among them, leave threads, file handles and memory where they were."""

import _thread
import gc
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_faults import NaNAfter, make_env

from sb3_a3c import A3C

FAULTS = ["", "step", "reset", "exit", "nan observation", "inf reward", "callback", "stop", "ctrl-c", "gradient"]
EXPECTED = [
    "end",
    "Trouble",
    "Trouble",
    "SystemExit",
    "NonFiniteError",
    "NonFiniteError",
    "OSError",
    "end",
    "KeyboardInterrupt",
    "NonFiniteError",
]
N_RUNS = 200


def run_once(number: int, in_processes: bool = False) -> str:
    """One short run with one of the faults; returns how it ended."""
    fault = FAULTS[number % len(FAULTS)]
    in_env = fault in ("step", "reset", "exit", "nan observation", "inf reward")
    env = make_env(fault if in_env else "", faulty=number % 4, seconds=0.001 if fault == "ctrl-c" else 0.0)
    model = A3C(
        "MlpPolicy",
        env,
        n_workers=2 if in_processes else (1, 2, 4)[number % 3],
        backend="process" if in_processes else ("serial", "thread")[number // 3 % 2],
        policy_kwargs=dict(features_extractor_class=NaNAfter) if fault == "gradient" else None,
    )

    def callback(locals_: dict[str, Any], _: dict[str, Any]) -> bool:
        late = model.num_timesteps >= 40
        if fault == "callback" and late:
            raise OSError("in a callback")
        return not (fault == "stop" and late)

    watched = fault in ("callback", "stop") or number % 2 == 0
    timer = threading.Timer((1.5 if in_processes else 0.05) if fault == "ctrl-c" else 1e6, _thread.interrupt_main)
    timer.start()
    try:
        model.learn(1_000_000 if fault else 200, callback=callback if watched else None)
        return "end"
    except BaseException as error:
        return type(error).__name__
    finally:
        if fault != "ctrl-c":
            timer.cancel()
        timer.join()


@pytest.mark.slow
def test_two_hundred_runs_leave_nothing_behind() -> None:
    process = psutil.Process()
    for number in range(40):  # caches fill
        run_once(number)
    gc.collect()
    threads, handles, memory = threading.active_count(), process.num_fds(), process.memory_info().rss
    for number in range(N_RUNS):
        assert run_once(number) == EXPECTED[number % len(FAULTS)], number
    gc.collect()
    assert threading.active_count() == threads
    assert process.num_fds() == handles
    # An allocator keeps some pages; 200 models of 50 kB, with 4 workers and their buffers, would be 60 MB.
    assert process.memory_info().rss - memory < 15e6


@pytest.mark.slow
def test_runs_in_processes_leave_nothing_behind() -> None:
    """No process, thread, file handle, shared memory or semaphore."""
    process, shared_memory = psutil.Process(), Path("/dev/shm")
    for number in range(len(FAULTS)):  # the fork server starts
        run_once(number, in_processes=True)
    gc.collect()
    before = threading.active_count(), process.num_fds(), len(process.children()), set(shared_memory.glob("*"))
    for number in range(2 * len(FAULTS)):
        assert run_once(number, in_processes=True) == EXPECTED[number % len(FAULTS)], number
    gc.collect()
    assert (threading.active_count(), process.num_fds(), len(process.children())) == before[:3]
    left = set(shared_memory.glob("*")) - before[3]
    deadline = time.monotonic() + 300
    while left and time.monotonic() < deadline:  # other tests at the same time may own some of them for a while
        time.sleep(0.01)
        left &= set(shared_memory.glob("*"))
    assert not left

"""
Runs in processes: each begins in a fresh interpreter, so none profits or suffers from what ran before it.

What is guaranteed: however this ends, no run is left at work; a run whose process dies is an error, and never a wait. What
is assumed: one thread uses it. Ctrl-C, which reaches all processes of a terminal, is blocked in runs; they are ended from
here. If this process is killed, a run ends by itself when it next has something to report, at a rollout or an evaluation.
"""

import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import cast

from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.run import RunResult, RunSpec, Stage, carry_out

#: Seconds that a process has to end when it is told to. Out of the air.
_PATIENCE = 10.0


class Failure(str):
    """How a run failed: its traceback, or what its process died of."""


Message = Stage | RunResult | Failure


def in_processes(specs: Sequence[RunSpec], jobs: int, hear: Callable[[RunSpec, Message], None]) -> None:
    """
    Carry out runs, in order.

    :param specs: The runs
    :param jobs: How many of them at once
    :param hear: Told how far a run is, and at last its result, or how it failed
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(specs)
    running: dict[Connection, tuple[RunSpec, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec = waiting.popleft()
                connection, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_live, args=(theirs, spec, Provenance.here(jobs)), name="comparison run")
                with _ctrl_c_later():
                    process.start()
                    running[connection] = spec, process
                theirs.close()
                hear(spec, Stage("starts", 0.0))
            for connection in cast(list[Connection], wait(list(running))):
                spec, process = running[connection]
                message = _receive(connection, process)
                if not isinstance(message, Stage):
                    _end(process)
                    del running[connection]
                hear(spec, message)
    finally:
        for _, process in running.values():
            process.terminate()
            _end(process)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, and let it reach this one when they have been started whole."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # where Python handles signals
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
        for number in pressed:
            signal.raise_signal(number)


def _receive(connection: Connection, process: SpawnProcess) -> Message:
    try:
        return connection.recv()
    except EOFError:
        process.join(_PATIENCE)
        return Failure(f"its process died, with exit code {process.exitcode}")


def _end(process: SpawnProcess) -> None:
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _live(connection: Connection, spec: RunSpec, provenance: Provenance) -> None:
    """In the run's process."""
    try:
        result = carry_out(spec, provenance, report=connection.send)
    except Exception:
        with suppress(OSError):  # nobody may be there any more
            connection.send(Failure(traceback.format_exc()))
    else:
        connection.send(result)

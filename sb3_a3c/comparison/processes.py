"""
Runs in processes: each begins in a fresh interpreter, so none profits or suffers from what ran before it.

What is guaranteed: however this ends, no run is left at work; a run whose process dies is an error, and never a wait. What
is assumed: one thread uses it. Ctrl-C reaches all processes of a terminal; runs ignore it, and are ended from here. If this
process is killed, a run ends by itself when it next has something to report, within a second or an evaluation.
"""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
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
                process.start()
                theirs.close()
                running[connection] = spec, process
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = carry_out(spec, provenance, report=connection.send)
    except Exception:
        with suppress(OSError):  # nobody may be there any more
            connection.send(Failure(traceback.format_exc()))
    else:
        connection.send(result)

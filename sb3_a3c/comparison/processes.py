"""
Run each run in a fresh process, so that no run is affected by the one before it.

However this ends, no run is left running: each process is killed and joined in the ``finally``. A run whose process dies is
reported as a failure, never waited for: the main process also waits for the end of each process. Ctrl-C reaches all
processes of a terminal; runs block it, and are ended from here. If the main process is killed, a run ends when it next
reports something (at a rollout or an evaluation), because nobody reads its pipe. ``ProcessPoolExecutor`` does not fit: one
process that dies breaks all runs of the pool, its exit code is not told, and running work can't be cancelled.
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

from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.run import RunResult, RunSpec, Stage, carry_out

#: Seconds that a process has to exit after its result. Chosen arbitrarily.
_EXIT_TIMEOUT = 10.0


class Failure(str):
    """How a run failed: its traceback, or its process's exit code."""


Message = Stage | RunResult | Failure


def run_in_processes(specs: Sequence[RunSpec], jobs: int, handle: Callable[[RunSpec, Message], None]) -> None:
    """
    :param specs: The runs, in order
    :param jobs: How many run at once
    :param handle: Called with each run's stages, and with its result or failure at the end
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(specs)
    running: dict[Connection, tuple[RunSpec, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec = waiting.popleft()
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(writer, spec, Provenance.here(jobs)), name="comparison run")
                with writer, _ctrl_c_deferred():
                    process.start()
                    running[reader] = spec, process
                handle(spec, Stage("starts", 0.0))
            wait([*running, *(process.sentinel for _, process in running.values())])
            for reader, (spec, process) in list(running.items()):
                exited = not process.is_alive()  # asked first, so that its last message is still read
                if reader.poll() or exited:
                    message = _receive(reader, process)
                    if not isinstance(message, Stage):
                        process.join(_EXIT_TIMEOUT)
                        process.kill()
                        process.join()
                        del running[reader]
                    handle(spec, message)
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _receive(reader: Connection, process: SpawnProcess) -> Message:
    try:
        if reader.poll():
            return reader.recv()
    except (EOFError, OSError):  # nothing more, or half a message
        process.join(_EXIT_TIMEOUT)
    return Failure(f"its process died, with exit code {process.exitcode}")


@contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """Block Ctrl-C in processes that are started here, and handle it in this process once they have started."""
    pressed: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()  # the only thread that may set handlers
    handler = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
        for number in pressed:
            signal.raise_signal(number)


def _run(writer: Connection, spec: RunSpec, provenance: Provenance) -> None:
    """Run in the run's process."""
    try:
        result = carry_out(spec, provenance, report=writer.send)
    except Exception:
        with suppress(OSError):  # the main process may be gone
            writer.send(Failure(traceback.format_exc()))
    else:
        writer.send(result)

"""
Threads that can be joined although an exception can come at any line of the main thread.

``KeyboardInterrupt`` can come between any two instructions of the main thread, those of the standard library included. In
``Thread.start()`` it leaves a thread that can't be joined. In ``Thread.join()`` it makes a thread that still runs count as
ended (Python 3.11). In a semaphore, an event or a condition it leaves their lock taken, and other threads wait for it forever.
So threads are started in a separate thread, which is never interrupted, and the main thread waits only in functions that
are written in C.
"""

import os
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds between two checks of whether a thread is gone. Chosen arbitrarily: longer than it takes.
_CHECK_EVERY = 0.001


def call_in_thread(function: Callable[[], T]) -> T:
    """
    Call a function that does not take long in a new thread, where Ctrl-C can't interrupt it. An interrupt of the wait for it
    is raised when it has returned, and its result is dropped.

    :param function: The function
    :return: What it returns
    :raises BaseException: what it raises
    """
    started: list[int] = []
    outcome: list[tuple[Any, BaseException | None]] = []
    ended: SimpleQueue[None] = SimpleQueue()
    raised: BaseException | None = None
    while not outcome and (started or raised is None):
        try:
            if not started:
                started.extend(map(start_new_thread, [_call], [(function, outcome, ended)]))  # see ThreadGroup.start()
            while not outcome:
                ended.get()
        except BaseException as error:  # Ctrl-C, perhaps again, or no thread can be started
            raised = error
    try:
        if raised is None:
            result, raised = outcome[0]
        if raised is not None:
            raise raised
        return result
    finally:
        outcome.clear()
        del raised  # it refers to this frame


class ThreadGroup:
    """
    Threads that are started and joined together.

    :param targets: For each name of a thread, the function that it runs
    """

    def __init__(self, targets: Mapping[str, Callable[[], None]]) -> None:
        self._threads = [
            threading.Thread(target=self._run, args=(name, target), name=name, daemon=True) for name, target in targets.items()
        ]
        self._pid = os.getpid()
        self._starters: list[int] = []
        self._started: list[str] = []
        self._all_started = False
        self._ended: list[str] = []
        self._error: BaseException | None = None
        #: Wakes up the main thread. The attributes above say what has changed, so an interrupt may drop one of these.
        self._changes: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        """
        Start all of them, even if the call is interrupted.

        :raises RuntimeError: if the system can start no more threads
        """
        # A single call of functions written in C: an interrupt comes before or after it, and the list tells which.
        self._starters.extend(map(start_new_thread, [self._start], [()]))
        while not self._all_started:
            self._changes.get()
        self._raise_error()

    def join(self, timeout: float | None = None) -> list[str]:
        """
        Wait until all of them have ended. May be called again, if it was interrupted. In a fork of the process that made them
        there is none to wait for.

        :param timeout: Seconds to wait. None: no limit
        :return: The names of those that have not ended
        :raises BaseException: The exception that one of them ended with
        """
        if os.getpid() != self._pid:
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._starters and not (self._all_started and len(self._ended) == len(self._started)):
            try:
                self._changes.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Empty:
                return [name for name in self._started if name not in self._ended]
        for thread in self._threads:
            if thread.name in self._started:
                thread.join()  # its function has returned
                while thread in threading.enumerate():  # an interrupt in join() has made it count as ended
                    time.sleep(_CHECK_EVERY)
        self._raise_error()
        return []

    def _start(self) -> None:
        """In a thread that ``threading`` does not know. (``threading.current_thread()`` would register it, and keep it.)"""
        try:
            for thread in self._threads:
                thread.start()
                self._started.append(thread.name)
        except BaseException as error:
            self._error = error
        self._all_started = True
        self._changes.put(None)

    def _run(self, name: str, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self._error = error
        self._ended.append(name)
        self._changes.put(None)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # it refers to this frame


def _call(function: Callable[[], Any], outcome: list[tuple[Any, BaseException | None]], ended: "SimpleQueue[None]") -> None:
    try:
        outcome.append((function(), None))
    except BaseException as error:
        outcome.append((None, error))
    ended.put(None)

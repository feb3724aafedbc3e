"""
The thread that speaks with Ray: it starts actors, hands out rollouts, applies their gradients, and replaces actors that die.

What is guaranteed:

- A rollout counts when its gradient is applied, here and in no actor. So an actor that dies takes no count with it: what it
  was asked for and has not answered is asked for again.
- Nothing here is interrupted, because only the main thread is. What Ray holds is released when :meth:`Pump.run` returns.
- It waits in one place, for the next event: the result of a call, or something that the main thread asks for.

The main thread reads ``inbox``. Whatever happens, it gets a :class:`FinalState`, :class:`Lost` or :class:`Untouched` of each
worker, and :class:`Ended` is the last message.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch as th

from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.messages import EnvCall, EnvResult, Notice, Rollouts, decode, encode
from sb3_a3c.backends.process.restarts import Restarts
from sb3_a3c.backends.quota import Quota
from sb3_a3c.backends.ray.hand_out import HandOut
from sb3_a3c.backends.ray.local_process import LocalProcess
from sb3_a3c.backends.ray.messages import Died, Ended, Lost, Started, Stepped, Untouched
from sb3_a3c.backends.ray.parts import join
from sb3_a3c.backends.ray.shared_vector import SharedVector
from sb3_a3c.backends.ray.silence import CHECK_EVERY, Silence
from sb3_a3c.backends.ray.slot import Slot
from sb3_a3c.worker.errors import NonFiniteError, WorkerDied

#: Seconds for a step under way before its actor is killed. Chosen arbitrarily: longer than a step should take.
_PATIENCE = 10.0
#: Seconds for killed actors to end.
_END_WITHIN = 10.0


class Pump:
    """
    :param connect: Makes the connection to Ray, a context manager
    :param slots: One per worker
    :param shared: The shared parameters
    :param quota: Who may begin how many rollouts
    :param steps: Hands out rollouts
    :param restarts: Which workers have died
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        slots: Sequence[Slot],
        shared: SharedVector,
        quota: Quota,
        steps: HandOut,
        restarts: Restarts,
    ) -> None:
        #: Messages for the main thread: the index of a worker, and its message.
        self.inbox: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._connect = connect
        self._slots = slots
        self._shared = shared
        self._quota = quota
        self._steps = steps
        self._restarts = restarts
        self._connection: Any
        self._has_begun = False
        self._stopping = False
        self._has_patience = True
        self._silence = Silence(slots)

    def permit(self, worker: int, n_rollouts: int) -> None:
        """
        Called by the main thread, as are the two methods that follow.

        :param worker: Index of a worker
        :param n_rollouts: How many more rollouts it may make
        """
        self._events.put(partial(self._on_permit, self._slots[worker], n_rollouts))

    def call_env(self, worker: int, call: EnvCall) -> None:
        """
        :param worker: Index of a worker
        :param call: What to do with its environments, between two steps
        """
        self._events.put(partial(self._on_env_call, self._slots[worker], call))

    def stop(self, has_patience: bool) -> None:
        """
        :param has_patience: Whether to wait for steps under way, and for the environments
        """
        self._events.put(partial(self._on_stop, has_patience))

    def run(self) -> None:
        """Connect, make rollouts until :meth:`stop` is called, and end all actors. In a separate thread."""
        th.set_num_threads(1)  # of this thread: gradients are applied as they are elsewhere, to the last bit
        try:
            with self._connect() as self._connection:
                try:
                    for slot in self._slots:
                        self._start(slot)
                    while not self._stopping:
                        self._take_event(CHECK_EVERY)
                    self._finish()
                finally:
                    self._kill_all()
        except BaseException as error:
            self.inbox.put((-1, error))
        finally:
            for slot in self._slots:
                self._lose(slot, "Ray, or the connection to it, has failed")
            self.inbox.put((-1, Ended()))

    def _take_event(self, timeout: float) -> None:
        """Wait for an event and handle it, and do what is due meanwhile."""
        wait_until = min([time.monotonic() + timeout, *self._restarts.due.values()])
        try:
            event = self._events.get(timeout=max(0.0, wait_until - time.monotonic()))
        except Empty:
            pass
        else:
            event()
        if self._stopping:
            return
        for index in self._restarts.take_due():
            self._start(self._slots[index])
        for slot, text in self._silence.check(self._connection):
            self.inbox.put((slot.index, Notice(text)))

    def _start(self, slot: Slot) -> None:
        number, slot.n_actors = slot.n_actors, slot.n_actors + 1
        pull, vector = self._shared.pull()
        slot.actor = self._connection.start_actor()
        slot.hyperparameters = slot.worker.hyperparameters if number == 0 else None
        slot.active_at = time.monotonic()
        self._call(slot, "start", encode(slot.worker.start_message(number, pull)), vector, then=self._on_started)

    def _call(
        self, slot: Slot, method: str, *args: Any, then: Callable, n_results: int = 1, between_steps: bool = False
    ) -> None:
        """Call a method of an actor. Its end is an event; that of a call of an actor which has been replaced is dropped."""
        n_actors = slot.n_actors

        def handle(get_results: Callable[[], list[Any]]) -> None:
            if slot.n_actors == n_actors and slot.actor is not None:
                try:
                    results = get_results()
                except BaseException as error:
                    self._on_error(slot, error)
                else:
                    then(slot, *results)

        def done(get_results: Callable[[], list[Any]]) -> None:
            self._events.put(partial(handle, get_results))

        self._connection.call(slot.actor, method, *args, done=done, n_results=n_results, between_steps=between_steps)

    def _on_started(self, slot: Slot, result: bytes) -> None:
        message = decode(result)
        if not isinstance(message, Started):
            self._fail(slot, message)
            return
        slot.ready = slot.was_ready = True
        slot.process = LocalProcess(message.machine, message.pid)
        if not self._has_begun and all(slot.ready for slot in self._slots):
            self._has_begun = True
            for each in self._slots:
                self._on_permit(each, 1)
        self._hand_out(slot)
        if slot.call is not None:
            self._on_env_call(slot, slot.call)

    def _on_permit(self, slot: Slot, n_rollouts: int) -> None:
        slot.n_permits += n_rollouts
        self._hand_out(slot)

    def _hand_out(self, slot: Slot) -> None:
        """Ask a worker for as many rollouts as it may make."""
        while not self._stopping and (step := self._steps.next(slot)) is not None:
            number, parts = step
            self._call(slot, "step", *parts, then=partial(self._on_step, number=number), n_results=len(parts))

    def _on_step(self, slot: Slot, *parts: Any, number: int) -> None:
        slot.active_at, slot.reported = time.monotonic(), False
        for version, (message, gradient) in slot.answers(number, join(parts)):
            if gradient is None:
                self._on_no_gradient(slot, decode(message), version)
            elif not self._stopping:  # else nobody would see the rollout
                self._push(slot, decode(message), gradient, version)
        self._hand_out(slot)
        for other in self._steps.take_held_back():
            self._hand_out(other)

    def _push(self, slot: Slot, stepped: Stepped, gradient: Any, version: int) -> None:
        try:
            rollout = self._shared.push(stepped, gradient, version)
        except NonFiniteError as error:
            return self._fail(slot, error)
        slot.n_rollouts += 1
        self._restarts.reset_delay(slot.index)
        self.inbox.put((slot.index, Rollouts([rollout])))
        for text in stepped.notices:
            self.inbox.put((slot.index, Notice(text)))

    def _on_no_gradient(self, slot: Slot, message: Any, version: int) -> None:
        if isinstance(message, Failure) and not slot.failed:
            self._shared.note_failure(slot.index, version)
            self._fail(slot, message)

    def _fail(self, slot: Slot, message: Any, cause: BaseException | None = None) -> None:
        slot.failed = True
        if cause is not None:
            message.__cause__ = cause
        self.inbox.put((slot.index, message))

    def _on_env_call(self, slot: Slot, call: EnvCall) -> None:
        slot.call = call
        if slot.ready:  # else it is called when it is
            self._call(slot, "call_env", call.number, encode(call), then=self._on_env_result, between_steps=True)

    def _on_env_result(self, slot: Slot, result: bytes) -> None:
        message: EnvResult = decode(result)
        slot.call = None if slot.call is not None and slot.call.number == message.number else slot.call
        self.inbox.put((slot.index, message))

    def _on_error(self, slot: Slot, error: BaseException) -> None:
        """A call has raised what no method of an actor raises: the actor has died, or Ray has failed."""
        died = self._connection.has_died(error)
        cause = f"{slot.name} {'has died' if died else 'can not go on'} ({self._connection.cause_of(error)})"
        if slot.n_actors == 1 and not slot.was_ready:
            cause += ". It had not started. Each node needs sb3_a3c, and what the environments need; see runtime_env"
        if slot.actor is not None:
            self._connection.kill(slot.actor)
        slot.on_death()
        if self._stopping or slot.finished:
            self._lose(slot, f"{cause} while learn() was ending")
        elif not slot.failed and died and (slot.was_ready or slot.n_actors > 1):
            self._quota.give_back(slot.index, slot.n_rollouts)
            self._schedule_restart(slot, cause)
            for other in self._slots:
                self._hand_out(other)  # the first that is free makes its rollouts
        elif not slot.failed:
            self._fail(slot, WorkerDied(cause), error)

    def _schedule_restart(self, slot: Slot, cause: str) -> None:
        text = self._restarts.schedule(slot.index, cause)
        if text is None:
            self._fail(slot, WorkerDied(cause + self._restarts.history()))
        else:
            self.inbox.put((slot.index, Died(text)))

    def _on_stop(self, has_patience: bool) -> None:
        self._stopping = True
        self._has_patience &= has_patience

    def _finish(self) -> None:
        """Stop all workers, and get their final states."""
        for slot in self._slots:
            if slot.ready:
                self._call(slot, "stop", then=lambda slot, result: None, between_steps=True)
                self._call(slot, "finish", then=self._on_finished)
            else:
                self._lose(slot, f"the actor of worker {slot.index} had died, and no other had started yet")
        deadline = time.monotonic() + _PATIENCE
        while not all(slot.finished for slot in self._slots) and self._has_patience and time.monotonic() < deadline:
            self._take_event(deadline - time.monotonic())
        why = "was killed, because learn() was interrupted while it was ending"
        if self._has_patience:
            why = f"was still in a step {_PATIENCE:g} s after it was asked to stop, and was killed"
        for slot in self._slots:
            self._lose(slot, f"worker {slot.index} {why}")

    def _on_finished(self, slot: Slot, result: tuple[bytes, str]) -> None:
        content, failure = result
        slot.finished = True
        self.inbox.put((slot.index, decode(content)))
        if failure:
            self.inbox.put((slot.index, Notice(f"in the actor of a worker, {failure}")))

    def _lose(self, slot: Slot, why: str) -> None:
        if not slot.finished:
            slot.finished = True
            untouched = slot.n_actors <= 1 and not slot.was_ready
            self.inbox.put((slot.index, Untouched() if untouched else Lost("" if slot.failed else why)))

    def _kill_all(self) -> None:
        """Return when no actor is left."""
        left = [slot for slot in self._slots if slot.actor is not None]
        for slot in left:
            self._connection.kill(slot.actor)
        ended = self._connection.wait_for_end([slot.actor for slot in left], _END_WITHIN)
        for slot in left:
            ended &= slot.process.wait(_END_WITHIN)
            slot.process.close()
        if not ended:
            self.inbox.put((-1, Notice(f"some actors have not ended {_END_WITHIN:g} s after they were killed")))

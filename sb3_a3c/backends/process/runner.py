"""
What the process of a worker does, once it has started.

Its main thread steps the worker. A second thread reads what the main process sends: permits, hyperparameters, stop. A third
calls methods of the environments, one after another.

What is guaranteed: when the main process is gone, this one ends at once, even in the middle of a step (``parent_death``). It
ignores Ctrl-C, which the main process handles. Unless it is killed, it sends its final state and then closes its environments.
What is assumed: two threads may use the environments, one at a time (``env_lock``). Nothing depends on the GIL.
"""

import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from sb3_a3c.backends.process.channel import Channel
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.messages import (
    EnvCall,
    Notice,
    Permits,
    Ready,
    Rollouts,
    SetHyperparameters,
    Stack,
    StackRequest,
    Stop,
    decode,
    encode,
    encode_rollouts,
)
from sb3_a3c.backends.process.separate_worker import SeparateWorker
from sb3_a3c.backends.quota import Quota
from sb3_a3c.envs.vector_vec_env import VectorVecEnv
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.policies.hooks import take_notices
from sb3_a3c.worker.errors import WorkerStopped
from sb3_a3c.worker.rollout import Rollout, lighten
from sb3_a3c.worker.spec import WorkerSpec

#: Seconds for which rollouts are gathered into one message. Chosen arbitrarily, between what a message costs (about 50 us) and
#: what a user notices.
_GATHER = 0.02
#: Seconds for a step under way when the main process is gone, where the system does not kill this process. Chosen arbitrarily.
_GRACE = 1.0


#: Added to what an environment raises in the first step or reset that a worker makes.
FIRST_USE_NOTE = (
    "This was the first use of an environment in a worker's process, which has a copy of it: backend='process' pickles "
    "environments. If the copy is not whole (it lacks a connection or a simulator, for instance), use a SubprocVecEnv, which "
    "makes each environment in the process that steps it: SubprocVecEnv([make_env, ...]), or "
    "make_vec_env(..., vec_env_cls=SubprocVecEnv)."
)
#: The same for batches, which are made where they are stepped.
_FIRST_USE_OF_BATCH_NOTE = (
    "A worker's process has made this batch by calling your function. What the function needs, gym.register() for instance, "
    "must be in the function, or where the script is imported: above if __name__ == '__main__'."
)


@dataclass(frozen=True)
class Assignment:
    """
    What a worker process is started with.

    :param spec: The specification of its worker
    :param parameters: The shared parameters
    :param quota: Who may begin how many rollouts
    """

    spec: WorkerSpec
    parameters: SharedParameters
    quota: Quota


class Runner:
    """
    :param channel: To the main process
    :param assignment: What the process was started with
    :param handles: Of the parcel that the assignment came in
    :param number: Which process of its worker this is, from 0
    """

    def __init__(self, channel: Channel, assignment: Assignment, handles: list[Any], number: int) -> None:
        spec = assignment.spec
        note = _FIRST_USE_OF_BATCH_NOTE if isinstance(spec.env.unwrapped, VectorVecEnv) else FIRST_USE_NOTE
        self._channel = channel
        self._quota = assignment.quota
        self._worker = SeparateWorker(spec, assignment.parameters, handles, number, note)
        self._sending = threading.Lock()
        self._permits: SimpleQueue[int] = SimpleQueue()
        self._calls: SimpleQueue[EnvCall] = SimpleQueue()
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._gathered: list[Rollout] = []
        self._sent_at = time.monotonic()

    def run(self) -> None:
        """Make rollouts until the main process says stop, then send the final state."""
        self._send(Ready())
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._call_envs, daemon=True).start()
        failure = None
        try:
            self._make_rollouts()
            self._send_gathered()
        except WorkerStopped:
            pass
        except BaseException as error:  # SystemExit too: it is meant for the caller, not for this process
            failure = Failure.of(explained(error))
        if failure is not None:
            with suppress(TypeError):  # one error is enough
                self._send_gathered()
            self._send(failure)
        self._stopping.wait()  # until then callbacks may still call the environments
        self._send_final_state()
        self._done.set()

    def _make_rollouts(self) -> None:
        n_permits = 0
        while True:
            started = now = time.monotonic()
            while n_permits == 0 and not self._stopping.is_set():
                if self._permits.empty():
                    self._send_gathered()  # the main process waits for them before it sends permits
                n_permits, now = self._permits.get(), time.monotonic()
            n_permits -= 1
            idle_seconds = now - started
            if self._stopping.is_set() or not self._quota.take(self._worker.index):
                return
            self._gathered.append(lighten(self._worker.step(idle_seconds)))
            for text in take_notices():
                self._send(Notice(text))
            if time.monotonic() - self._sent_at > _GATHER:
                self._send_gathered()

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._send_encoded(encode_rollouts(Rollouts(gathered)))
        self._sent_at = time.monotonic()

    def _send(self, message: Any) -> None:
        self._send_encoded(encode(message))

    def _send_encoded(self, content: bytes) -> None:
        with self._sending:
            try:
                self._channel.send(content)
            except OSError:  # the main process is gone
                os._exit(1)

    def _send_final_state(self) -> None:
        """Send the environments back, and close those here, unless that would close something that both have."""
        final, close = self._worker.final_state()
        self._send(final)
        if failure := close():
            self._send(Notice(f"in a worker's process, {failure}"))

    def _read(self) -> None:
        """Do what the main process says, in a separate thread."""
        while True:
            try:
                content = self._channel.receive()
            except (EOFError, OSError):  # the main process is gone
                self._stop()
                if not self._done.wait(_GRACE):
                    os._exit(1)
                return
            try:
                message = decode(content)
            except Exception as error:
                message = Failure.of(error)
            self._handle(message)

    def _handle(self, message: Any) -> None:
        match message:
            case Failure():  # the main process must not wait for a result
                self._send(message)
            case Permits(n_rollouts):
                self._permits.put(n_rollouts)
            case SetHyperparameters(hyperparameters):
                self._worker.hyperparameters = hyperparameters
            case EnvCall():  # it waits for the environments, and this thread must go on reading
                self._calls.put(message)
            case StackRequest():
                self._send(Stack(_stack()))
            case Stop():
                self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._worker.stop()
        self._permits.put(0)  # wakes up a worker that waits for a permit

    def _call_envs(self) -> None:
        """Make the calls in their order, interrupted ones too, in a separate thread."""
        while True:
            self._send_encoded(self._worker.call_env(self._calls.get()))


def _stack() -> str:
    """The stack of the thread that steps the environments, from :meth:`Worker.step` on."""
    frames = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])  # type: ignore[index]
    ours = [depth for depth, frame in enumerate(frames) if frame.filename == __file__]
    return "".join(traceback.format_list(frames[max(ours, default=-1) + 1 :]))


def explained(error: BaseException) -> BaseException:
    """
    torch refuses to compute gradients in a fork, if it had threads for devices before. Say what to do about it.

    :param error: What the worker raised
    :return: An error that names the cause and a solution if it is torch's refusal; else the same error
    """
    if not (isinstance(error, RuntimeError) and "combination with fork" in str(error)):
        return error
    explained = RuntimeError(
        "backend_kwargs=dict(start_method='fork') can't be used once this program has made a backward pass with torch (it "
        "has learned something before, for instance): torch does not compute gradients in a process that was forked then. "
        "Use 'forkserver' or 'spawn'."
    )
    explained.__cause__ = error
    return explained

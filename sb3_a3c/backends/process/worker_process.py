"""
The life of a worker in a process of its own.

The main thread steps the worker; another one obeys what the main process says: permits, stop; a third calls methods of the
environments, one after another.
What is guaranteed: if the main process is gone, this one ends at once, even in the middle of a step (``lifeline``); it
ignores Ctrl-C, which is the main process's to handle; it sends a farewell and then closes its environments, unless it is
killed. What is assumed: that
environments may be entered by two threads, one at a time (``env_lock``), and nothing of the GIL.
"""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing import current_process
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_a3c.backends.process.channel import Channel
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.installation import Installation
from sb3_a3c.backends.process.lifeline import tie, watch
from sb3_a3c.backends.process.messages import (
    Answer,
    EnvCall,
    Farewell,
    Learn,
    Notice,
    Permits,
    Ready,
    Rollouts,
    Stop,
    Unclosed,
    Whereabouts,
    WhereAreYou,
    decode,
    encode,
    lighten,
)
from sb3_a3c.backends.process.parcel import Parcel, pack_return, unpack
from sb3_a3c.backends.quota import Quota
from sb3_a3c.envs.closing import close_environments
from sb3_a3c.envs.pipes import discard_answers
from sb3_a3c.envs.slices import environments_in, is_reset_by_pickling
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.policies.hooks import take_notices
from sb3_a3c.worker.errors import WorkerStopped
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.spec import WorkerSpec, env_seed

#: Seconds for which rollouts are gathered into one message: out of the air, between what a message costs (some 50 us)
#: and what a user notices.
_GATHER = 0.02
#: Seconds that are left to a step under way when the main process is gone, where the system does not end this one. Out of
#: the air.
_GRACE = 1.0
#: A note to what fails where a worker does something with an environment for the first time.
_NOTE = (
    "This was the first use of an environment in a worker's process, which has a copy of it: backend='process' pickles "
    "environments. If the copy is not whole (it lacks a connection or a simulator, for instance), use a SubprocVecEnv, which "
    "makes each environment in the process that steps it: SubprocVecEnv([make_env, ...]), or "
    "make_vec_env(..., vec_env_cls=SubprocVecEnv)."
)


@dataclass(frozen=True)
class Assignment:
    """
    What a worker process is started with.

    :param spec: What its worker is made of
    :param parameters: The shared parameters
    :param quota: Who may begin how many rollouts
    """

    spec: WorkerSpec
    parameters: SharedParameters
    quota: Quota


def live(
    connection: socket.socket,
    lifeline: Connection,
    main_process: int,
    parcel: Parcel,
    number: int,
    not_ours: Sequence[Connection | socket.socket],
    installation: Installation,
) -> None:
    """
    What the process does.

    :param connection: To the main process
    :param lifeline: A pipe that the main process holds the other end of
    :param main_process: The main process's id
    :param parcel: An :class:`Assignment`
    :param number: Which life of its worker this is, from 0
    :param not_ours: Connections that a fork has copied from the main process. Were they left open, nobody would notice
        that the main process is gone
    :param installation: The main process's
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in not_ours:
        other.close()
    main_end = watch(main_process)
    tie(lifeline)
    os.register_at_fork(after_in_child=connection.close)  # else an environment's own process would seem to be this one
    th.set_num_threads(1)  # many workers leave nothing to divide
    channel = Channel(connection)
    assignment: Assignment | None = None
    try:
        installation.adopt()
        assignment = _unpack(parcel)
        resident = _Resident(channel, main_end, assignment, parcel.handles, number)
    except BaseException as error:
        error.add_note(f"raised while the process of {current_process().name} was starting")
        channel.send(encode(Failure.of(error)))
        if assignment is not None and isinstance(assignment.spec.env, VecEnv):
            close_environments(environments_in(assignment.spec.env))
        return
    resident.live()


def _seed_of(seed: np.random.SeedSequence | None, number: int) -> np.random.SeedSequence | None:
    """Another for each life, so that none repeats the noise of the one before."""
    if seed is None or number == 0:
        return seed
    assert isinstance(seed.entropy, int)
    return np.random.SeedSequence([seed.entropy, number], spawn_key=seed.spawn_key)


def _unpack(parcel: Parcel) -> Assignment:
    np.seterr(**parcel.numpy_errors)  # environments may compute while they are unpickled
    try:
        return unpack(parcel.content, parcel.handles)
    except Exception as error:
        error.add_note(f"raised while the environments, or something else that the worker needs, were unpickled. {_NOTE}")
        raise


class _Resident:
    def __init__(
        self, channel: Channel, main_end: int | None, assignment: Assignment, handles: list[Any], number: int
    ) -> None:
        spec = replace(assignment.spec, seed=_seed_of(assignment.spec.seed, number))
        if spec.seed is not None:
            # Processes that are forked from one server begin alike, and an environment may draw from NumPy itself.
            set_random_seed(int(spec.seed.generate_state(1)[0]))
        self._channel = channel
        self._sources: list[Any] = [channel] if main_end is None else [channel, main_end]
        self._handles = handles
        self._quota = assignment.quota
        self._has_factory = spec.has_factory
        self._worker = spec.make(assignment.parameters, nullcontext())  # nobody else computes in this process
        self._worker.note_at_first_use = _NOTE
        if number > 0:
            discard_answers(self._worker.env, None)
        if number > 0 or is_reset_by_pickling(self._worker.env):
            self._worker.reset_envs(env_seed(spec.seed))
        self._has_answered = False
        self._writing = threading.Lock()
        self._permits = threading.Semaphore(0)
        self._calls: SimpleQueue[EnvCall] = SimpleQueue()
        self._stopping = threading.Event()
        self._gone = threading.Event()
        self._gathered: list[Rollout] = []
        self._sent_at = time.monotonic()

    def live(self) -> None:
        self._send(Ready())
        threading.Thread(target=self._obey, daemon=True).start()
        threading.Thread(target=self._answer, daemon=True).start()
        failure = None
        try:
            self._learn()
            self._send_gathered()
        except WorkerStopped:
            pass
        except BaseException as error:  # SystemExit too: it is the caller's, not this process's
            failure = Failure.of(explained(error))
        if failure is not None:
            with suppress(TypeError):  # one error is enough
                self._send_gathered()
            self._send(failure)
        self._stopping.wait()  # until then callbacks may still call the environments
        self._part()
        self._gone.set()

    def _learn(self) -> None:
        while True:
            started = time.monotonic()
            if not self._permits.acquire(blocking=False):
                self._send_gathered()  # the main process waits for them, and we for it
                self._permits.acquire()
            idle_seconds = time.monotonic() - started
            if self._stopping.is_set() or not self._quota.take(self._worker.index):
                return
            rollout = self._worker.step(idle_seconds)
            self._gathered.append(lighten(rollout))
            for text in take_notices():
                self._send(Notice(text))
            if time.monotonic() - self._sent_at > _GATHER:
                self._send_gathered()

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            try:
                content = encode(Rollouts(gathered))
            except Exception as error:
                raise TypeError(
                    f"infos, or what else callbacks see of a step, can't be sent to the main process: {error}"
                ) from error
            self._write(content)
        self._sent_at = time.monotonic()

    def _send(self, message: Any) -> None:
        self._write(encode(message))

    def _write(self, content: bytes) -> None:
        with self._writing:
            try:
                self._channel.send(content)
            except OSError:  # the main process is gone, which the other thread finds too
                self._gone.set()
                os._exit(1)

    def _part(self) -> None:
        """Send the environments back, and close what is here, unless that would close something that they share."""
        worker, lost = self._worker, ""
        if self._has_factory:
            self._send(Farewell(None, "", False, worker.last_obs, worker.last_episode_starts, worker.state, worker.failed))
            with worker.env_lock:
                worker.env.close()
            return
        env: bytes | None = None
        handles: list[Any] = []
        try:
            with worker.env_lock:  # a call that nobody waits for any more may be in the middle of them
                env = pack_return(worker.env, self._handles, handles)
        except Exception as error:
            lost = f"{type(error).__name__}: {error}"
        environments = environments_in(worker.env)
        # Of copies that have made no step, the originals are as they were. And if a copy has failed, it may not be whole.
        untouched = bool(environments) and not worker.has_stepped and (worker.failed or not self._has_answered)
        if untouched:
            env, lost = None, ""
        shares = not all(isinstance(handle, ResultsWriter) for handle in handles)
        self._send(Farewell(env, lost, shares, worker.last_obs, worker.last_episode_starts, worker.state, worker.failed))
        with worker.env_lock:
            failures = [] if shares else close_environments(environments)
        if failures and not untouched:
            self._send(Unclosed(failures))

    def _obey(self) -> None:
        """In a thread of its own."""
        while True:
            try:
                if self._channel not in wait(self._sources):
                    raise EOFError
                content = self._channel.receive()
            except (EOFError, OSError):
                self._end_with_the_main_process()
                return
            try:
                message = decode(content)
            except Exception as error:
                message = Failure.of(error)
            self._do(message)

    def _do(self, message: Any) -> None:
        match message:
            case Failure():  # whoever has sent it must not wait for an answer
                self._send(message)
            case Permits(n_rollouts):
                self._permits.release(n_rollouts)
            case Learn(hyperparameters):
                self._worker.hyperparameters = hyperparameters
            case EnvCall():  # it waits for the environments, and this thread has to go on reading
                self._calls.put(message)
            case WhereAreYou():
                self._send(Whereabouts(_stack()))
            case Stop():
                self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._worker.stop()
        self._permits.release()  # if the worker waits for one, it finds that it is to stop

    def _end_with_the_main_process(self) -> None:
        self._stop()
        if not self._gone.wait(_GRACE):
            os._exit(1)

    def _answer(self) -> None:
        """In a thread of its own: calls in the order in which they were made, also one that nobody waits for any more."""
        while True:
            call = self._calls.get()
            try:
                with self._worker.env_lock:
                    self._has_answered = True
                    value = getattr(self._worker.env.unwrapped, call.method)(*call.args, **call.kwargs)
                    content = encode(Answer(call.number, value))
            except BaseException as error:
                content = encode(Answer(call.number, None, Failure.of(error)))
            self._write(content)


def _stack() -> str:
    """What the worker's thread is in the middle of, from :meth:`Worker.step` on."""
    frames = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])  # type: ignore[index]
    ours = [depth for depth, frame in enumerate(frames) if frame.filename == __file__]
    return "".join(traceback.format_list(frames[max(ours, default=-1) + 1 :]))


def explained(error: BaseException) -> BaseException:
    """
    Say what is meant where torch does not: it refuses gradients in a fork, if it had threads for devices before.

    :param error: What the worker raised
    :return: The same; or of a fork after a backward pass, an error that names the cause and the cure
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

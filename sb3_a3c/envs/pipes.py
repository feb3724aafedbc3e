"""The pipes of a SubprocVecEnv: emptied after a step was interrupted, so that no answer is taken for the next one's."""

import os
import struct
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

#: Seconds to wait for the end of an interrupted step in the process of its environment. Chosen arbitrarily.
_PATIENCE = 10.0


class SynchronizedPipes:
    """
    A context manager that empties the pipes of a SubprocVecEnv if its block raises an exception, which may have come between
    a request and its answer.

    :param venv: The VecEnv. If it is not a SubprocVecEnv, nothing is done
    """

    def __init__(self, venv: VecEnv | None) -> None:
        self._venv = venv

    def __enter__(self) -> None: ...

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and self._venv is not None and isinstance(self._venv.unwrapped, SubprocVecEnv):
            self._venv.unwrapped.waiting = False
            try:
                discard_answers(self._venv, _PATIENCE)
            except TimeoutError:
                pass  # an environment is still in a step
            except (EOFError, OSError):
                _leave_unanswered(self._venv.unwrapped)


def discard_answers(venv: VecEnv, timeout: float | None) -> None:
    """
    Empty the pipes of a SubprocVecEnv whose last user has exited and may have left requests unanswered.

    :param venv: A slice, or a whole VecEnv. If it is not a SubprocVecEnv, nothing is done
    :param timeout: Seconds to wait for an answer, None: as long as a step takes
    :raises OSError: if a pipe is broken, or no answer comes
    :raises EOFError: if a process of the SubprocVecEnv has exited
    """
    if isinstance(venv.unwrapped, SubprocVecEnv):
        remotes = venv.unwrapped.remotes
        for remote, answers in [(remote, _send_random_requests(remote)) for remote in remotes]:
            _skip_to(remote, answers, timeout)


def _leave_unanswered(venv: SubprocVecEnv) -> None:
    """
    Leave a SubprocVecEnv whose processes have exited in the state in which A2C leaves it, waiting for the answers of a step:
    then ``close()`` raises EOFError. Ctrl-C in a terminal ends these processes, and programs expect that error.
    """
    venv.waiting = True
    for remote in venv.remotes:
        try:
            _skip_to(remote, _send_random_requests(remote), _PATIENCE)
            remote.send(("has_attr", "step"))  # close() takes the answer
        except TimeoutError:
            pass  # the step's own answer will come
        except (EOFError, OSError):
            for _ in range(2):  # the first error may be a connection reset, which is raised once
                with suppress(OSError):
                    while os.read(remote.fileno(), 1 << 16):
                        pass


def _send_random_requests(remote: Connection) -> bytes:
    """Send random requests, and return their expected answers. So many that they differ from any answers still in the pipe."""
    answers = [bool(byte & 1) for byte in os.urandom(48)]
    for answer in answers:
        remote.send(("has_attr", "step" if answer else "no such attribute"))
    pickled = {answer: bytes(ForkingPickler.dumps(answer)) for answer in (False, True)}
    return b"".join(struct.pack("!i", len(pickled[answer])) + pickled[answer] for answer in answers)


def _skip_to(remote: Connection, expected: bytes, timeout: float | None) -> None:
    """Read until the expected answers. Bytes are read, not messages: another process may have exited within a message."""
    read = b""
    while not read.endswith(expected):
        if not remote.poll(timeout):
            raise TimeoutError("an environment does not answer")
        content = os.read(remote.fileno(), 1 << 16)
        if not content:
            raise EOFError("the process of an environment has exited")
        read = (read + content)[-len(expected) :]

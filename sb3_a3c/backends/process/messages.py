"""What the main process and a worker process send each other, and how it is pickled."""

import copyreg
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.engines import State
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.worker.rollout import Rollout, arrays_of

#: Bytes up to which an array is sent together with those of other rollouts. Pickling one takes longer than copying it.
_SMALL = 1 << 14


@dataclass(frozen=True)
class Permits:
    """To a worker: it may make so many more rollouts."""

    n_rollouts: int


@dataclass(frozen=True)
class SetHyperparameters:
    """To a worker: it learns with these from its next rollout on."""

    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class EnvCall:
    """
    To a worker: call a method of its VecEnv, without wrappers, between two steps, and send the result.

    :param number: Counts the calls of the run. The same for all workers that are asked
    """

    number: int
    method: str
    args: tuple
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class StackRequest:
    """To a worker: send the stack of the thread that steps the environments."""


@dataclass(frozen=True)
class Stop:
    """To a worker: stop after the present step, and send the final state."""


@dataclass(frozen=True)
class Ready:
    """From a worker: it has started, and has done nothing yet."""


@dataclass(frozen=True)
class Rollouts:
    """From a worker: the rollouts made since it last sent any."""

    rollouts: list[Rollout]


@dataclass(frozen=True)
class Notice:
    """From a worker: a warning for the user."""

    text: str


@dataclass(frozen=True)
class EnvResult:
    """
    From a worker: what a call returned or raised.

    :param number: The call's. If the user has interrupted it, nobody waits for its result
    """

    number: int
    value: Any
    failure: Failure | None = None


@dataclass(frozen=True)
class Stack:
    """From a worker: the stack of the thread that steps the environments."""

    text: str


@dataclass(frozen=True)
class FinalState:
    """
    From a worker, when it has stopped.

    :param env: Its slice, packed; None if it can't be packed, or if the worker has done nothing with it
    :param lost: Why the slice can't be packed
    :param shares: Whether the environments hold a pipe, a lock or memory that those in the main process hold, too
    """

    env: bytes | None
    lost: str
    shares: bool
    last_obs: VecEnvObs
    last_episode_starts: np.ndarray
    state: State | None
    failed: bool


def encode(message: Any) -> bytes:
    """
    :param message: A message, or a failure
    :return: What :func:`decode` reads
    :raises Exception: if it can't be pickled
    """
    file = io.BytesIO()
    try:
        _Pickler(file, _stacked(message.rollouts) if isinstance(message, Rollouts) else {}).dump(message)
    except Exception:  # it has a class or function that can't be imported
        file = io.BytesIO()
        _CloudPickler(file, pickle.HIGHEST_PROTOCOL).dump(message)
    return file.getvalue()


def encode_rollouts(message: Any) -> bytes:
    """
    :param message: A message with rollouts
    :return: See :func:`encode`
    :raises TypeError: if something in a rollout can't be pickled
    """
    try:
        return encode(message)
    except Exception as error:
        raise TypeError(
            f"infos, or something else that callbacks see of a step, can't be sent to the process that learns: {error}"
        ) from error


def decode(content: bytes | bytearray | memoryview) -> Any:
    """
    :param content: An encoded message
    :return: The message
    """
    return pickle.loads(content)


def _stacked(rollouts: Sequence[Rollout]) -> dict[int, tuple[np.ndarray, int]]:
    """
    Stack arrays of several rollouts, which are faster to pickle and to load as one array.

    :param rollouts: The rollouts
    :return: For the id of an array: where it is, as an array and an index
    """
    places: dict[int, tuple[np.ndarray, int]] = {}
    for parts in zip(*map(arrays_of, rollouts), strict=False) if len(rollouts) > 1 else ():
        first = parts[0]
        is_alike = all(part.shape == first.shape and part.dtype == first.dtype for part in parts)
        if is_alike and id(first) not in places and first.nbytes <= _SMALL and not first.dtype.hasobject:
            stacked = np.array(parts)
            places.update({id(part): (stacked, index) for index, part in enumerate(parts)})
    return places


def _reduce_tensor(tensor: th.Tensor) -> Any:
    """Pickle it as an array: torch's own way is ten times slower, or goes through shared memory."""
    if tensor.layout is not th.strided or tensor.dtype is th.bfloat16:
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return _tensor, (tensor.detach().cpu().numpy(), tensor.device.type)


class _Pickler(pickle.Pickler):
    """
    Takes half as long as cloudpickle's.

    :param file: Where to write
    :param places: See :func:`_stacked`
    """

    def __init__(self, file: io.BytesIO, places: dict[int, tuple[np.ndarray, int]]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._places = places
        self.dispatch_table = {**copyreg.dispatch_table, th.Tensor: _reduce_tensor}
        if places:
            self.dispatch_table[np.ndarray] = self._reduce_array

    def _reduce_array(self, array: np.ndarray) -> Any:
        place = self._places.get(id(array))
        return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if place is None else (getitem, place)


class _CloudPickler(cloudpickle.Pickler):
    dispatch_table = {**cloudpickle.Pickler.dispatch_table, th.Tensor: _reduce_tensor}


def _tensor(array: np.ndarray, device: str) -> th.Tensor:
    return th.from_numpy(array) if device == "cpu" else th.from_numpy(array).to(device)

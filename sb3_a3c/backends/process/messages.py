"""What the main process and a worker process tell each other, and how it is written."""

import copyreg
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.engines import State
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.worker.rollout import ARRAYS_IN_THE_END, ARRAYS_OF_STEPS, Rollout


@dataclass(frozen=True)
class Permits:
    """To a worker: it may make so many rollouts more."""

    n_rollouts: int


@dataclass(frozen=True)
class Learn:
    """To a worker: from its next rollout on it learns with these."""

    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class EnvCall:
    """
    To a worker: call a method of the VecEnv inside its slice, between two steps, and answer.

    :param number: Which call of the run this is. The same for all workers that are asked
    """

    number: int
    method: str
    args: tuple
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class WhereAreYou:
    """To a worker: tell what it is in the middle of."""


@dataclass(frozen=True)
class Stop:
    """To a worker: end after the present step, and say farewell."""


@dataclass(frozen=True)
class Ready:
    """From a worker: it is there, and has done nothing yet."""


@dataclass(frozen=True)
class Rollouts:
    """From a worker: what it has made since it last sent any."""

    rollouts: list[Rollout]


@dataclass(frozen=True)
class Notice:
    """From a worker: something that the user is to be warned of."""

    text: str


@dataclass(frozen=True)
class Answer:
    """
    From a worker: what a call gave, or the error that it ended with.

    :param number: The call's. Nobody may be waiting for it any more: the user may have interrupted the call
    """

    number: int
    value: Any
    failure: Failure | None = None


@dataclass(frozen=True)
class Whereabouts:
    """From a worker: what it is in the middle of."""

    stack: str


@dataclass(frozen=True)
class Farewell:
    """
    From a worker, the last: what it has come to.

    :param env: Its slice, packed; None if that can't be done, or if the worker has done nothing with it
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


@dataclass(frozen=True)
class Unclosed:
    """From a worker, after its farewell: what went wrong when it closed its environments, which the main process has now."""

    failures: list[str]


def encode(message: Any) -> bytes:
    """
    :param message: A message, or a failure
    :return: What :func:`decode` reads
    :raises Exception: if there is something in it that can't be pickled
    """
    try:
        return _dump(_Pickler, message)
    except Exception:  # of a class or function that is in no module
        return _dump(_CloudPickler, message)


def decode(content: bytes | bytearray) -> Any:
    """
    :param content: An encoded message
    :return: The message
    """
    return pickle.loads(content)


def lighten(rollout: Rollout) -> Rollout:
    """
    Leave away what nobody will read.

    :param rollout: A rollout as its worker made it
    :return: One that is quickly written
    """
    if rollout.steps is not None:
        return _with(rollout, rollout_buffer=_arrays_of(rollout.rollout_buffer, _SHOWN_ARRAYS))
    endings = [
        ending._replace(infos=[{key: info[key] for key in _LOGGED_INFOS if key in info} for info in ending.infos])
        for ending in rollout.endings
    ]
    light = _arrays_of(rollout.rollout_buffer, _LOGGED_ARRAYS)
    return _with(rollout, rollout_buffer=light, endings=endings, last_values=_NOTHING)


def _arrays_of(buffer: RolloutBuffer, names: Sequence[str]) -> RolloutBuffer:
    """Arrays alone: its spaces and all else the main thread has itself."""
    light = object.__new__(RolloutBuffer)
    light.__dict__.update({name: getattr(buffer, name) for name in names})
    return light


def _with(rollout: Rollout, **changed: Any) -> Rollout:
    """As ``dataclasses.replace``, which takes ten times as long."""
    light = object.__new__(Rollout)
    light.__dict__.update(vars(rollout))
    light.__dict__.update(changed)
    return light


#: The explained variance is computed from these.
_LOGGED_ARRAYS = ("values", "returns")
_SHOWN_ARRAYS = (*ARRAYS_OF_STEPS, *ARRAYS_IN_THE_END)
#: What ``_update_info_buffer`` reads.
_LOGGED_INFOS = ("episode", "is_success")
_NOTHING = np.empty(0)


def _dump(pickler_class: type[pickle.Pickler], message: Any) -> bytes:
    file = io.BytesIO()
    pickler_class(file, pickle.HIGHEST_PROTOCOL).dump(message)
    return file.getvalue()


def _reduce_tensor(tensor: th.Tensor) -> Any:
    """As an array: torch's own way is ten times slower, or leads through shared memory."""
    if tensor.layout is not th.strided or tensor.dtype is th.bfloat16:
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return _tensor, (tensor.detach().cpu().numpy(), tensor.device.type)


class _Pickler(pickle.Pickler):
    """Takes half the time that cloudpickle takes."""

    dispatch_table = {**copyreg.dispatch_table, th.Tensor: _reduce_tensor}


class _CloudPickler(cloudpickle.Pickler):
    dispatch_table = {**cloudpickle.Pickler.dispatch_table, th.Tensor: _reduce_tensor}


def _tensor(array: np.ndarray, device: str) -> th.Tensor:
    return th.from_numpy(array) if device == "cpu" else th.from_numpy(array).to(device)

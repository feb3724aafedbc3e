"""
What goes to a worker process when it is started, and the environments that come back from it.

Nearly all of it is pickled, with cloudpickle, for environments and schedules are often defined in scripts. What can't be,
because both processes are to have the very same thing, goes beside as a handle: memory that is shared, locks, the pipes
of a SubprocVecEnv, the files that Monitor writes. On the way back a handle stands for what it was made of.

A parcel also takes along the sender's environment variables, because a fork server has those of its own start, and NumPy's
error handling, which belongs to the thread that packs it.
"""

import csv
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from inspect import getmembers
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_a3c.policies.copies import reduce_policy
from sb3_a3c.system.file_lock import FileLock


@dataclass(frozen=True)
class Parcel:
    """
    To be an argument of a process.

    :param content: What was packed, but for the handles
    :param handles: What is handed over while the process starts
    :param numpy_errors: NumPy's error handling, see ``np.geterr()``
    """

    content: bytes
    handles: list[Any]
    numpy_errors: dict[str, Any]

    def __reduce__(self) -> tuple[Callable[..., "Parcel"], tuple[Any, ...]]:
        handles = [_File.of(handle) if isinstance(handle, ResultsWriter) else handle for handle in self.handles]
        return _delivered, (self.content, handles, self.numpy_errors, dict(os.environ))


def pack(content: Any) -> Parcel:
    """
    :param content: What a process is to get
    :return: The parcel
    :raises Exception: if there is something in it that can be neither pickled nor handed over
    """
    handles: list[Any] = []
    return Parcel(_dump(content, handles, True, []), handles, dict(np.geterr()))


def pack_return(content: Any, handles: list[Any], used: list[Any]) -> bytes:
    """
    :param content: What goes back to where a parcel came from
    :param handles: Those of the parcel, as they arrived here
    :param used: Where to note which of them the content has, also if it can't be packed
    :return: What :func:`unpack` takes there, with the handles of that side
    :raises Exception: if there is something in it that can't be pickled
    """
    return _dump(content, handles, False, used)


def unpack(content: bytes, handles: list[Any]) -> Any:
    """
    :param content: The content of a parcel, or what came back
    :param handles: The parcel's, of this side
    :return: What was packed
    """
    return _Unpickler(io.BytesIO(content), handles).load()


def reclaim_files(parcel: Parcel) -> None:
    """
    Let files that were written to elsewhere go on here at their end.

    :param parcel: A parcel, when the process that got it is no more
    """
    for handle in parcel.handles:
        if isinstance(handle, ResultsWriter) and not handle.file_handler.closed:
            handle.file_handler.seek(0, os.SEEK_END)


def _dump(content: Any, handles: list[Any], growing: bool, used: list[Any]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, handles, growing, used).dump(content)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, handles: list[Any], growing: bool, used: list[Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._handles = handles
        self._growing = growing
        self._used = used
        self._indices = {id(handle): index for index, handle in enumerate(handles)}

    def persistent_id(self, obj: Any) -> int | None:
        """Which handle an object is, if it is one."""
        if isinstance(obj, Connection | FileLock | ResultsWriter) or (isinstance(obj, th.Tensor) and obj.is_shared()):
            if self._growing and id(obj) not in self._indices:
                self._indices[id(obj)] = len(self._handles)
                self._handles.append(obj)
            if id(obj) in self._indices:
                self._used.append(obj)
            return self._indices.get(id(obj))
        return None

    def reducer_override(self, obj: Any) -> Any:
        """VecNormalize leaves out what is around it when it is pickled, and a SubprocVecEnv has processes, which stay."""
        if isinstance(obj, VecEnvWrapper):
            state = {name: value for name, value in vars(obj).items() if name != "class_attributes"}
            return object.__new__, (type(obj),), state, None, None, _set_state
        if isinstance(obj, ActorCriticPolicy):
            return reduce_policy(obj)
        if isinstance(obj, SubprocVecEnv):
            return object.__new__, (type(obj),), {**vars(obj), "processes": [], "work_remotes": []}
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, handles: list[Any]) -> None:
        super().__init__(file)
        self._handles = handles

    def persistent_load(self, index: int) -> Any:
        """The handle that an object was replaced by."""
        return self._handles[index]


@dataclass(frozen=True)
class _File:
    """One of Monitor's files, which is opened again over there. Each row is one write, which goes to its end."""

    path: str
    fieldnames: list[str]

    @classmethod
    def of(cls, results_writer: ResultsWriter) -> "_File":
        return cls(results_writer.file_handler.name, list(results_writer.logger.fieldnames))

    def open(self) -> ResultsWriter:
        results_writer = object.__new__(ResultsWriter)  # its constructor would write another header
        results_writer.file_handler = open(self.path, "a", newline="\n")
        results_writer.logger = csv.DictWriter(results_writer.file_handler, self.fieldnames)
        return results_writer


def _delivered(content: bytes, handles: list[Any], numpy_errors: dict[str, Any], environ: dict[str, str]) -> Parcel:
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in environ.items() if os.environ.get(name) != value})
    return Parcel(content, [handle.open() if isinstance(handle, _File) else handle for handle in handles], numpy_errors)


def _set_state(venv: VecEnv, state: dict[str, Any]) -> None:
    venv.__dict__.update(state, class_attributes=dict(getmembers(type(venv))))

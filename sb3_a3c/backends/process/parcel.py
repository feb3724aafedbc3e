"""
Serialization of what a worker process gets when it starts, and of the environments that it sends back.

Most of it is pickled with cloudpickle, because environments and schedules are often defined in scripts. Objects that both
processes must share are passed as handles: shared memory, locks, the pipes of a SubprocVecEnv, the files that Monitor writes.
On the way back, a handle is replaced by the object that it was made of.

Handles that only a process which is starting can get (file descriptors) are arguments of the process. Everything else is its
first message. multiprocessing writes arguments into a pipe of which it holds the other end, too: if they are larger than the
pipe's buffer, it waits forever for a process that has died before it read them.

The message also holds the sender's environment variables, because a fork server keeps those that it was started with. And it
holds NumPy's error handling, which belongs to the thread that packs the parcel.
"""

import csv
import io
import os
import pickle
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

from sb3_a3c.policies.copies import IndexUnpickler, reduce_policy
from sb3_a3c.system.file_lock import FileLock

#: The first version that knows code objects of Python 3.11.
_OLDEST_CLOUDPICKLE = (2, 2)


@dataclass(frozen=True)
class Parcel:
    """
    What a process gets when it starts.

    :param content: The pickled content, without the handles
    :param handles: The objects that are passed beside it
    :param numpy_errors: NumPy's error handling, see ``np.geterr()``
    """

    content: bytes
    handles: list[Any]
    numpy_errors: dict[str, Any]

    def arguments(self) -> list[Any]:
        """
        :return: For the arguments of a process: the handles, None for those that come with the message
        """
        return [None if isinstance(handle, ResultsWriter) else handle for handle in self.handles]

    def message(self) -> "Delivery":
        """
        :return: The first message to the process
        """
        handles = enumerate(self.handles)
        files = {index: MonitorFile.of(handle) for index, handle in handles if isinstance(handle, ResultsWriter)}
        return Delivery(self.content, files, self.numpy_errors, dict(os.environ))


@dataclass(frozen=True)
class Delivery:
    """
    The first message to a process: a parcel without the handles that are arguments of the process.

    :param content: See :class:`Parcel`
    :param files: Monitor's files, by the indices of their handles
    :param numpy_errors: See :class:`Parcel`
    :param environ: The environment variables of the main process
    """

    content: bytes
    files: "dict[int, MonitorFile]"
    numpy_errors: dict[str, Any]
    environ: dict[str, str]

    def adopt(self, arguments: list[Any]) -> Parcel:
        """
        Set this process's environment variables and NumPy's error handling, and open the files.

        :param arguments: See :meth:`Parcel.arguments`
        :return: The parcel, in this process
        """
        for name in os.environ.keys() - self.environ.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in self.environ.items() if os.environ.get(name) != value})
        np.seterr(**self.numpy_errors)  # environments may compute while they are unpickled
        handles = [self.files[index].open() if index in self.files else one for index, one in enumerate(arguments)]
        return Parcel(self.content, handles, self.numpy_errors)


def pack(content: Any) -> Parcel:
    """
    :param content: The content for a process
    :return: The parcel
    :raises Exception: if a part of it can be neither pickled nor passed as a handle
    """
    handles: list[Any] = []
    return Parcel(_dump(content, handles, True, []), handles, dict(np.geterr()))


def pack_return(content: Any, handles: list[Any], used: list[Any]) -> bytes:
    """
    :param content: The content to send back to the sender of a parcel
    :param handles: The handles of the parcel in this process
    :param used: A list that gets the handles in the content, also if the content can't be pickled
    :return: The pickled content, for :func:`unpack` with the sender's handles
    :raises Exception: if a part of it can't be pickled
    """
    return _dump(content, handles, False, used)


def unpack(content: bytes, handles: list[Any]) -> Any:
    """
    :param content: The content of a parcel, or the result of :func:`pack_return`
    :param handles: The handles of the parcel in this process
    :return: The unpickled content
    """
    return IndexUnpickler(content, handles).load()


def note_of_cloudpickle() -> str:
    """
    :return: For the error of a worker that can't unpickle something: that cloudpickle is too old. Empty if it is not
    """
    version = cloudpickle.__version__
    if tuple(map(int, version.split(".")[:2])) >= _OLDEST_CLOUDPICKLE:
        return ""
    oldest = ".".join(map(str, _OLDEST_CLOUDPICKLE))
    return (
        f" The cause may be cloudpickle {version}, which is too old for this Python: functions and classes that are defined "
        f"in a script don't arrive in another process. Install a newer one with pip install 'cloudpickle>={oldest}'"
    )


def reclaim_files(parcel: Parcel) -> None:
    """
    Move the positions of files that another process has written to their ends.

    :param parcel: A parcel whose process has exited
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
        """The index of an object's handle, if it has one."""
        if isinstance(obj, Connection | FileLock | ResultsWriter) or (isinstance(obj, th.Tensor) and obj.is_shared()):
            if self._growing and id(obj) not in self._indices:
                self._indices[id(obj)] = len(self._handles)
                self._handles.append(obj)
            if id(obj) in self._indices:
                self._used.append(obj)
            return self._indices.get(id(obj))
        return None

    def reducer_override(self, obj: Any) -> Any:
        """Pickle what VecNormalize leaves out when it is pickled, and leave out the processes of a SubprocVecEnv."""
        if isinstance(obj, VecEnvWrapper):
            state = {name: value for name, value in vars(obj).items() if name != "class_attributes"}
            return object.__new__, (type(obj),), state, None, None, _set_state
        if isinstance(obj, ActorCriticPolicy):
            return reduce_policy(obj)
        if isinstance(obj, SubprocVecEnv):
            return object.__new__, (type(obj),), {**vars(obj), "processes": [], "work_remotes": []}
        return super().reducer_override(obj)


@dataclass(frozen=True)
class MonitorFile:
    """One of Monitor's files, which the other process opens again. Each row is written at once, at the end of the file."""

    path: str
    fieldnames: list[str]

    @classmethod
    def of(cls, results_writer: ResultsWriter) -> "MonitorFile":
        return cls(results_writer.file_handler.name, list(results_writer.logger.fieldnames))

    def open(self) -> ResultsWriter:
        results_writer = object.__new__(ResultsWriter)  # the constructor would write another header
        results_writer.file_handler = open(self.path, "a", newline="\n")
        results_writer.logger = csv.DictWriter(results_writer.file_handler, self.fieldnames)
        return results_writer


def _set_state(venv: VecEnv, state: dict[str, Any]) -> None:
    venv.__dict__.update(state, class_attributes=dict(getmembers(type(venv))))

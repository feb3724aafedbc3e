"""
Slices of a VecEnv: VecEnvs over some of its environments each, so that every worker steps its own.

A slice is made of the same classes as the whole (or of one that does the same in less time), around the very same
environments, and computes what the whole would for them. What it holds for each environment (frames, returns, episode
lengths) is read with :func:`read_state` and written back into the whole with :func:`write_state`. A wrapper can be sliced
if it is declared, by :func:`register_vec_env`.
"""

import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    StackedObservations,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_a3c.envs.lean_vec_envs import lean_class

#: Seconds to wait for the end of a step that was interrupted, in the process of its environment. Chosen arbitrarily.
_PATIENCE = 10.0

#: What one VecEnv, wrapped or wrapper, holds for each of its environments: attribute name -> value.
LayerState = dict[str, Any]


class CannotSlice(TypeError):
    """A VecEnv that is not known to work in slices."""


@dataclass(frozen=True)
class _Declaration:
    handles: tuple[str, ...]
    state: tuple[str, ...]


_DECLARATIONS: dict[type[VecEnv], _Declaration] = {}
#: Where a slice keeps its class's declaration. It travels with the slice: in a worker process the class may be another copy
#: (of a class in ``__main__``), or nobody may have declared it there.
_DECLARED = "_a3c_declaration"


def register_vec_env(vec_env_class: type[VecEnv], state: Sequence[str] = (), handles: Sequence[str] = ()) -> None:
    """
    Declare that a VecEnv, or a wrapper of one, can be sliced. It can if each of its environments is treated alone, and
    all that it holds for single environments is in attributes with an entry an environment: arrays with a first axis of
    ``n_envs``, lists or tuples of that length, dicts of those, or SB3's ``StackedObservations``.

    :param vec_env_class: The class itself; a subclass is declared on its own
    :param state: Names of such attributes that change with each step, and are written back after learning
    :param handles: Names of such attributes that only lead to the environments
    :raises TypeError: if it is not a class of VecEnvs
    """
    if not (isinstance(vec_env_class, type) and issubclass(vec_env_class, VecEnv)):
        raise TypeError(f"vec_env_class must be a subclass of VecEnv, not {vec_env_class!r}")
    _DECLARATIONS[vec_env_class] = _Declaration(tuple(handles), tuple(state))


register_vec_env(DummyVecEnv, ["reset_infos"], ["envs", "buf_obs", "buf_dones", "buf_rews", "buf_infos"])
register_vec_env(SubprocVecEnv, ["reset_infos"], ["remotes", "work_remotes", "processes"])
register_vec_env(VecNormalize, ["returns", "old_obs", "old_reward"])
register_vec_env(VecFrameStack, ["stacked_obs"])
register_vec_env(VecMonitor, ["episode_returns", "episode_lengths"])
register_vec_env(VecCheckNan, ["_observations", "_actions"])
register_vec_env(VecTransposeImage)
register_vec_env(VecExtractDictObs)


def slice_vec_env(venv: VecEnv, slices: Sequence[np.ndarray]) -> list[VecEnv]:
    """
    :param venv: The VecEnv to slice
    :param slices: For each slice, which environments it is of, from 0 to ``n_envs - 1``
    :return: The slices; they may be stepped from a thread each
    :raises CannotSlice: if the VecEnv, or one inside of it, is not declared
    """
    if type(venv) not in _DECLARATIONS:
        raise CannotSlice(
            f"{type(venv).__name__} is not known to work in slices (sb3_a3c.register_vec_env declares that a class does)"
        )
    declaration = _DECLARATIONS[type(venv)]
    inner = slice_vec_env(venv.venv, slices) if isinstance(venv, VecEnvWrapper) else [None] * len(slices)
    parts: list[VecEnv] = []
    for indices, inner_part in zip(slices, inner, strict=True):
        part: VecEnv = object.__new__(lean_class(venv))  # their constructors would wrap, reset or start anew
        part.__dict__.update(vars(venv))
        part.num_envs = len(indices)
        vars(part)[_DECLARED] = declaration
        for name in ("reset_infos", "_seeds", "_options", *declaration.handles, *declaration.state):
            if name in vars(venv):
                setattr(part, name, _take(vars(venv)[name], indices, venv.num_envs))
        if inner_part is not None:
            part.venv = inner_part  # type: ignore[attr-defined]
        parts.append(part)
    if isinstance(venv, VecMonitor):
        _divide_monitor(parts)  # type: ignore[arg-type]
    return parts


def read_state(venv: VecEnv) -> list[LayerState]:
    """
    :param venv: A slice, or a VecEnv as a whole
    :return: What it holds for each of its environments, the outermost wrapper first; it changes no more
    """
    layers = []
    for layer in _layers(venv):
        names = _declaration_of(layer).state
        values = {name: vars(layer)[name] for name in names if name in vars(layer)}
        layers.append({name: _keep(value) for name, value in values.items() if _is_each(value, layer.num_envs)})
    return layers


def changes_with_episodes(venv: VecEnv) -> bool:
    """
    :param venv: A slice
    :return: Whether :func:`read_state` gives something else only after a step that has ended an episode
    """
    states = (_declaration_of(layer).state for layer in _layers(venv))
    return set(chain.from_iterable(states)) <= {"reset_infos"}


def attributes_of_slices(venv: VecEnv) -> dict[tuple[int, str], Any]:
    """
    :param venv: A VecEnv that was sliced
    :return: The attributes of its wrappers that its slices have alike, such as switches, by the wrapper's depth and by name
    """
    own = {"venv", "num_envs", "class_attributes", "reset_infos", "_seeds", "_options", "obs_rms", "ret_rms"}
    found = {}
    for depth, layer in enumerate(_layers(venv)[:-1]):
        declaration = _DECLARATIONS[type(layer)]
        left_out = own | {*declaration.state, *declaration.handles}
        found.update({(depth, name): value for name, value in vars(layer).items() if name not in left_out})
    return found


def write_state(venv: VecEnv, states: Sequence[list[LayerState]]) -> None:
    """
    Let a VecEnv hold what its slices held.

    :param venv: The VecEnv that was sliced
    :param states: Each slice's state, in the order of the environments
    """
    for layer, *parts in zip(_layers(venv), *states, strict=True):
        for name in set.intersection(*map(set, parts)):
            setattr(layer, name, _join([part[name] for part in parts]))


def stack_states(states: Sequence[list[LayerState]]) -> list[LayerState]:
    """
    :param states: What :func:`read_state` gave, after each of some steps
    :return: All in one, which is sent in less time: arrays have another first axis, other values are in lists
    """
    return [
        {name: _stack([state[name] for state in steps]) for name in set.intersection(*map(set, steps))}
        for steps in zip(*states, strict=True)
    ]


def state_at(stacked: list[LayerState], n_steps: int) -> list[LayerState]:
    """
    :param stacked: What :func:`stack_states` gave
    :param n_steps: Which of the steps, from 0
    :return: What :func:`read_state` gave after it
    """
    return [{name: _entry(values, n_steps) for name, values in layer.items()} for layer in stacked]


def merge_counters(venv: VecEnv, slices: Sequence[VecEnv]) -> None:
    """
    Move to a VecEnv what its slices have counted for all their environments together.

    :param venv: The VecEnv that was sliced
    :param slices: Its slices, when they are done
    """
    for layer, *parts in zip(_layers(venv), *map(_layers, slices), strict=True):
        if isinstance(layer, VecMonitor):
            for part in parts:  # both at once, so that nothing counts twice if this is interrupted and repeated
                layer.episode_count, part.episode_count = layer.episode_count + part.episode_count, 0
        elif isinstance(layer, VecCheckNan):
            layer._user_warned = any(part._user_warned for part in parts)


def take_envs_back(venv: VecEnv, slices: Sequence[VecEnv]) -> None:
    """
    Let a VecEnv hold the environments that its slices hold: those that lived in other processes are new objects.

    :param venv: The VecEnv that was sliced
    :param slices: Its slices, when they are done
    """
    for layer, *parts in zip(_layers(venv), *map(_layers, slices), strict=True):
        for name in _declaration_of(layer).handles:
            whole, values = vars(layer)[name], [vars(part)[name] for part in parts]
            if isinstance(whole, list | tuple) and sum(map(len, values)) == len(whole):
                setattr(layer, name, type(whole)(chain.from_iterable(values)))


def environments_in(venv: VecEnv) -> list[gym.Env]:
    """
    :param venv: A slice, or a VecEnv as a whole
    :return: The environments that are objects in it, and not in processes of their own
    """
    base = venv.unwrapped
    values = [vars(base).get(name) for name in _declaration_of(base).handles]
    entries = chain.from_iterable(value for value in values if isinstance(value, list | tuple))
    return [entry for entry in entries if isinstance(entry, gym.Env)]


def begins_anew_elsewhere(venv: VecEnv) -> bool:
    """
    :param venv: A slice
    :return: Whether environments in it are made anew from their constructors' arguments when they are sent to another
        process, and have to be reset there (``gymnasium.utils.EzPickle``: Box2D's and MuJoCo's, for instance)
    """
    for env in vars(venv.unwrapped).get("envs", ()):
        while not isinstance(env, EzPickle) and isinstance(env, gym.Wrapper):
            env = env.env
        if isinstance(env, EzPickle):
            return True
    return False


def discard_answers(venv: VecEnv, patience: float | None) -> None:
    """
    Empty the pipes of a SubprocVecEnv, when the process that had asked something in them is no more.

    :param venv: A slice that lived in that process
    :param patience: Seconds to wait for something to come, None: as long as a step takes
    :raises OSError: if a pipe is broken, or nothing comes
    :raises EOFError: if a process of the SubprocVecEnv has ended
    """
    if isinstance(venv.unwrapped, SubprocVecEnv):
        remotes = venv.unwrapped.remotes
        for remote, answers in [(remote, _ask_at_random(remote)) for remote in remotes]:
            _skip_to(remote, answers, patience)


class SynchronizedPipes:
    """
    Leaves no answer in the pipes of a SubprocVecEnv, when what is entered ends with an exception: that may have come between
    a question and its answer, which would be taken for the next one's.

    :param venv: The VecEnv; if it is no SubprocVecEnv, nothing is done
    """

    def __init__(self, venv: VecEnv | None) -> None:
        self._venv = venv

    def __enter__(self) -> None: ...

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and self._venv is not None and isinstance(self._venv.unwrapped, SubprocVecEnv):
            self._venv.unwrapped.waiting = False
            with suppress(TimeoutError):  # an environment is still in a step
                try:
                    discard_answers(self._venv, _PATIENCE)
                except (EOFError, OSError) as reason:
                    if isinstance(reason, TimeoutError):
                        raise
                    _leave_unanswered(self._venv.unwrapped)


def _leave_unanswered(venv: SubprocVecEnv) -> None:
    """
    Leave a SubprocVecEnv with processes that have ended as A2C does, which waits for answers of a step by then: ``close()``
    raises EOFError. Ctrl-C in a terminal ends them, and programs expect that error.
    """
    venv.waiting = True
    for remote in venv.remotes:
        try:
            _skip_to(remote, _ask_at_random(remote), _PATIENCE)
            remote.send(("has_attr", "step"))  # close() takes the answer
        except TimeoutError:
            pass  # the step's own answer will come
        except (EOFError, OSError):
            for _ in range(2):  # the first error may be that the connection was reset, which is told once
                with suppress(OSError):
                    while os.read(remote.fileno(), 1 << 16):
                        pass


def _ask_at_random(remote: Connection) -> bytes:
    """Ask so many questions that their answers are like none that another process has asked for, and may not have read."""
    answers = [bool(byte & 1) for byte in os.urandom(48)]
    for answer in answers:
        remote.send(("has_attr", "step" if answer else "no such attribute"))
    pickled = {answer: bytes(ForkingPickler.dumps(answer)) for answer in (False, True)}
    return b"".join(struct.pack("!i", len(pickled[answer])) + pickled[answer] for answer in answers)


def _skip_to(remote: Connection, expected: bytes, patience: float | None) -> None:
    """Read bytes, not messages, for another process may have ended in the middle of reading one."""
    read = b""
    while not read.endswith(expected):
        if not remote.poll(patience):
            raise TimeoutError("an environment does not answer")
        content = os.read(remote.fileno(), 1 << 16)
        if not content:
            raise EOFError("the process of an environment has ended")
        read = (read + content)[-len(expected) :]


def _declaration_of(layer: VecEnv) -> _Declaration:
    """What is declared of a slice's layer, or of a whole VecEnv's; nothing if that isn't declared."""
    return vars(layer).get(_DECLARED) or _DECLARATIONS.get(type(layer)) or _Declaration((), ())


def _layers(venv: VecEnv) -> list[VecEnv]:
    layers = [venv]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


class _LockedWriter:
    """VecMonitor's file, to which the slices of one VecMonitor write from a thread each."""

    def __init__(self, results_writer: Any, lock: "threading.Lock | None") -> None:
        self._results_writer = results_writer
        self._lock = lock or threading.Lock()

    def write_row(self, episode_info: dict[str, Any]) -> None:
        with self._lock:
            self._results_writer.write_row(episode_info)

    def __reduce__(self) -> tuple[type, tuple[Any, None]]:
        return _LockedWriter, (self._results_writer, None)  # in another process there is but one slice


def _divide_monitor(parts: list[VecMonitor]) -> None:
    lock = threading.Lock()
    for part in parts:
        part.episode_count = 0
        if part.results_writer is not None:
            part.results_writer = _LockedWriter(part.results_writer, lock)  # type: ignore[assignment]


def _take(value: Any, indices: np.ndarray, n_envs: int) -> Any:
    """The entries of some environments; a value that has not got one an environment yet is for all."""
    if isinstance(value, StackedObservations):
        value = copy(value)
        name = "stacked_obs" if "stacked_obs" in vars(value) else "sub_stacked_observations"
        setattr(value, name, _take(vars(value)[name], indices, n_envs))
        return value
    if isinstance(value, dict):
        return type(value)((key, _take(entry, indices, n_envs)) for key, entry in value.items())
    if not _is_each(value, n_envs):
        return value
    return value[indices] if isinstance(value, np.ndarray) else [value[i] for i in indices]


def _is_each(value: Any, n_envs: int) -> bool:
    """Whether a value has got an entry for each environment (VecNormalize's last rewards have none before a step)."""
    if isinstance(value, dict):
        return all(_is_each(entry, n_envs) for entry in value.values())
    return isinstance(value, StackedObservations) or len(value) == n_envs


def _keep(value: Any) -> Any:
    """A copy of what the next step would write to. (StackedObservations makes a new array for each step.)"""
    if isinstance(value, StackedObservations):
        value = copy(value)
        if "sub_stacked_observations" in vars(value):
            value.sub_stacked_observations = {key: copy(sub) for key, sub in value.sub_stacked_observations.items()}
        return value
    if isinstance(value, dict):
        return {key: _keep(entry) for key, entry in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else list(value)


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values]) for key in values[0]}
    return np.array(values) if isinstance(values[0], np.ndarray) else values


def _entry(values: Any, index: int) -> Any:
    """The other way of ``_stack``."""
    return {key: _entry(value, index) for key, value in values.items()} if isinstance(values, dict) else values[index]


def _join(values: list[Any]) -> Any:
    """The other way of ``_take``."""
    first = values[0]
    if isinstance(first, StackedObservations):
        joined = copy(first)
        name = "stacked_obs" if "stacked_obs" in vars(first) else "sub_stacked_observations"
        setattr(joined, name, _join([vars(value)[name] for value in values]))
        return joined
    if isinstance(first, dict):
        return {key: _join([value[key] for value in values]) for key in first}
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    return [entry for value in values for entry in value]

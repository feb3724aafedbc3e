"""
Slices of a VecEnv: each worker steps a VecEnv over some of its environments.

A slice has the same classes as the whole (or faster equivalents, see :mod:`~sb3_a3c.envs.lean_vec_envs`) and holds the same
environment objects. What it holds for each environment (frames, returns, episode lengths) is read and written back with
:mod:`~sb3_a3c.envs.state`.
"""

import threading
from collections.abc import Sequence
from copy import copy
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import StackedObservations, VecCheckNan, VecEnv, VecEnvWrapper, VecMonitor

from sb3_a3c.envs.batches import Batch
from sb3_a3c.envs.declarations import DECLARATIONS, DECLARED, declaration_of, gym_layers_of, is_per_env, layers_of
from sb3_a3c.envs.lean_vec_envs import lean_class
from sb3_a3c.envs.vector_vec_env import VectorVecEnv


class CannotSlice(TypeError):
    """A VecEnv is not known to work in slices."""


def slice_vec_env(venv: VecEnv, slices: Sequence[np.ndarray]) -> list[VecEnv]:
    """
    :param venv: The VecEnv to slice
    :param slices: The environments of each slice, as indices from 0 to ``n_envs - 1``
    :return: The slices. Each may be stepped in a separate thread
    :raises CannotSlice: if the VecEnv, or one inside it, is not declared
    """
    if type(venv) not in DECLARATIONS:
        raise CannotSlice(
            f"{type(venv).__name__} is not known to work in slices (sb3_a3c.register_vec_env declares that a class does)"
        )
    declaration = DECLARATIONS[type(venv)]
    if isinstance(venv, VectorVecEnv):
        return [venv.part(indices) for indices in slices]
    inner = slice_vec_env(venv.venv, slices) if isinstance(venv, VecEnvWrapper) else [None] * len(slices)
    parts: list[VecEnv] = []
    for indices, inner_part in zip(slices, inner, strict=True):
        part: VecEnv = object.__new__(lean_class(venv))  # the constructor would wrap, reset or start processes
        part.__dict__.update(vars(venv))
        part.num_envs = len(indices)
        vars(part)[DECLARED] = declaration
        for name in ("reset_infos", "_seeds", "_options", *declaration.handles, *declaration.state):
            if name in vars(venv):
                setattr(part, name, _take(vars(venv)[name], indices, venv.num_envs))
        if inner_part is not None:
            part.venv = inner_part  # type: ignore[attr-defined]
        parts.append(part)
    if isinstance(venv, VecMonitor):
        _divide_monitor(parts)  # type: ignore[arg-type]
    return parts


def merge_counters(venv: VecEnv, slices: Sequence[VecEnv]) -> None:
    """
    Move counts over all environments of each slice to the VecEnv that was sliced.

    :param venv: The VecEnv that was sliced
    :param slices: Its slices, after learning
    """
    for layer, *parts in zip(layers_of(venv), *map(layers_of, slices), strict=True):
        if isinstance(layer, VecMonitor):
            for part in parts:  # one statement, so that nothing counts twice if this is interrupted and repeated
                layer.episode_count, part.episode_count = layer.episode_count + part.episode_count, 0
        elif isinstance(layer, VecCheckNan):
            layer._user_warned = any(part._user_warned for part in parts)


def take_envs_back(venv: VecEnv, slices: Sequence[VecEnv]) -> None:
    """
    Put the environments of the slices into the VecEnv that was sliced. Those that were in other processes are new objects.

    :param venv: The VecEnv that was sliced
    :param slices: Its slices, after learning
    """
    for layer, *parts in zip(layers_of(venv), *map(layers_of, slices), strict=True):
        for name in declaration_of(layer).handles:
            whole, values = vars(layer)[name], [vars(part)[name] for part in parts]
            if isinstance(whole, list | tuple) and sum(map(len, values)) == len(whole):
                setattr(layer, name, type(whole)(chain.from_iterable(values)))


def units_of(venv: VecEnv) -> list[np.ndarray]:
    """
    :param venv: A VecEnv
    :return: What can't be divided further: the indices of the environments of each batch, or of each environment
    """
    base = venv.unwrapped
    return base.batch_indices() if isinstance(base, VectorVecEnv) else np.split(np.arange(venv.num_envs), venv.num_envs)


def environments_in(venv: VecEnv) -> list[gym.Env | Batch]:
    """
    :param venv: A slice, or a whole VecEnv
    :return: Its environments or batches of them, except those of a SubprocVecEnv, which are in other processes
    """
    base = venv.unwrapped
    values = [vars(base).get(name) for name in declaration_of(base).handles]
    entries = chain.from_iterable(value for value in values if isinstance(value, list | tuple))
    return [entry for entry in entries if isinstance(entry, gym.Env | Batch)]


def is_reset_by_pickling(venv: VecEnv) -> bool:
    """
    :param venv: A slice
    :return: Whether unpickling calls the constructors of some of its environments, so that these must be reset in another
        process (batched environments, and ``gymnasium.utils.EzPickle``, used by Box2D and MuJoCo environments)
    """
    layers = chain.from_iterable(map(gym_layers_of, vars(venv.unwrapped).get("envs", ())))
    return isinstance(venv.unwrapped, VectorVecEnv) or any(isinstance(layer, EzPickle) for layer in layers)


class _LockedWriter:
    """VecMonitor's file, which the slices of one VecMonitor write to from several threads."""

    def __init__(self, results_writer: Any, lock: "threading.Lock | None") -> None:
        self._results_writer = results_writer
        self._lock = lock or threading.Lock()

    def write_row(self, episode_info: dict[str, Any]) -> None:
        with self._lock:
            self._results_writer.write_row(episode_info)

    def __reduce__(self) -> tuple[type, tuple[Any, None]]:
        return _LockedWriter, (self._results_writer, None)  # another process has only one slice


def _divide_monitor(parts: list[VecMonitor]) -> None:
    lock = threading.Lock()
    for part in parts:
        part.episode_count = 0
        if part.results_writer is not None:
            part.results_writer = _LockedWriter(part.results_writer, lock)  # type: ignore[assignment]


def _take(value: Any, indices: np.ndarray, n_envs: int) -> Any:
    """The entries of some environments. A value without an entry per environment is for all of them."""
    if isinstance(value, StackedObservations):
        value = copy(value)
        name = "stacked_obs" if "stacked_obs" in vars(value) else "sub_stacked_observations"
        setattr(value, name, _take(vars(value)[name], indices, n_envs))
        return value
    if isinstance(value, dict):
        return type(value)((key, _take(entry, indices, n_envs)) for key, entry in value.items())
    if not is_per_env(value, n_envs):
        return value
    return value[indices] if isinstance(value, np.ndarray) else [value[i] for i in indices]

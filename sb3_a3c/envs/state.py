"""What the wrappers of a VecEnv hold for each environment: read from slices, and written into the whole VecEnv."""

from collections.abc import Sequence
from copy import copy
from itertools import chain
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import StackedObservations, VecEnv

from sb3_a3c.envs.declarations import DECLARATIONS, declaration_of, is_per_env, layers_of

#: What one VecEnv, wrapped or wrapper, holds for each of its environments: attribute name -> value.
LayerState = dict[str, Any]
#: Attributes of wrappers that slices don't have in common with the whole, in addition to the declared ones.
_OWN = {"venv", "num_envs", "class_attributes", "reset_infos", "_seeds", "_options", "obs_rms", "ret_rms"}


def read_state(venv: VecEnv) -> list[LayerState]:
    """
    :param venv: A slice, or a whole VecEnv
    :return: What it holds for each of its environments, the outermost wrapper first. Later steps do not change it
    """
    states = []
    for layer in layers_of(venv):
        names = declaration_of(layer).state
        values = {name: vars(layer)[name] for name in names if name in vars(layer)}
        states.append({name: _copied(value) for name, value in values.items() if is_per_env(value, layer.num_envs)})
    return states


def write_state(venv: VecEnv, states: Sequence[list[LayerState]]) -> None:
    """
    Write the state of all slices into the VecEnv that was sliced.

    :param venv: The VecEnv that was sliced
    :param states: The state of each slice, in the order of the environments
    """
    for layer, *parts in zip(layers_of(venv), *states, strict=True):
        for name in set.intersection(*map(set, parts)):
            setattr(layer, name, _concat([part[name] for part in parts]))


def changes_only_with_episodes(venv: VecEnv) -> bool:
    """
    :param venv: A slice
    :return: Whether only a step that ends an episode changes the result of :func:`read_state`
    """
    states = (declaration_of(layer).state for layer in layers_of(venv))
    return set(chain.from_iterable(states)) <= {"reset_infos"}


def stack_states(states: Sequence[list[LayerState]]) -> list[LayerState]:
    """
    :param states: The results of :func:`read_state` after some steps
    :return: One state, which is faster to send: arrays have an additional first axis, other values are in lists
    """
    return [
        {name: _stack([state[name] for state in steps]) for name in set.intersection(*map(set, steps))}
        for steps in zip(*states, strict=True)
    ]


def state_at(stacked: list[LayerState], n_steps: int) -> list[LayerState]:
    """
    :param stacked: The result of :func:`stack_states`
    :param n_steps: Index of a step, from 0
    :return: The result of :func:`read_state` after that step
    """
    return [{name: _entry(values, n_steps) for name, values in layer.items()} for layer in stacked]


def shared_attributes(venv: VecEnv) -> dict[tuple[int, str], Any]:
    """
    :param venv: A VecEnv that was sliced
    :return: The attributes of its wrappers, such as switches, that are equal in all slices: (depth, name) -> value
    """
    found = {}
    for depth, layer in enumerate(layers_of(venv)[:-1]):
        declaration = DECLARATIONS[type(layer)]
        left_out = _OWN | {*declaration.state, *declaration.handles}
        found.update({(depth, name): value for name, value in vars(layer).items() if name not in left_out})
    return found


def is_equal(one: Any, other: Any) -> bool:
    """
    :param one: Arrays, or a result of :func:`read_state`
    :param other: The same of another VecEnv, or later
    :return: Whether all values are equal. Objects of other types must be the same
    """
    if isinstance(one, StackedObservations):
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(is_equal, one, other))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    return one is other or (isinstance(one, bool | int | float | str) and one == other)


def _copied(value: Any) -> Any:
    """A copy of what the next step writes to. (StackedObservations makes a new array at each step.)"""
    if isinstance(value, StackedObservations):
        value = copy(value)
        if "sub_stacked_observations" in vars(value):
            value.sub_stacked_observations = {key: copy(sub) for key, sub in value.sub_stacked_observations.items()}
        return value
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else list(value)


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values]) for key in values[0]}
    return np.array(values) if isinstance(values[0], np.ndarray) else values


def _entry(values: Any, index: int) -> Any:
    """The inverse of ``_stack``."""
    return {key: _entry(value, index) for key, value in values.items()} if isinstance(values, dict) else values[index]


def _concat(values: list[Any]) -> Any:
    """The inverse of slicing."""
    first = values[0]
    if isinstance(first, StackedObservations):
        joined = copy(first)
        name = "stacked_obs" if "stacked_obs" in vars(first) else "sub_stacked_observations"
        setattr(joined, name, _concat([vars(value)[name] for value in values]))
        return joined
    if isinstance(first, dict):
        return {key: _concat([value[key] for value in values]) for key in first}
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    return [entry for value in values for entry in value]

"""
Attributes of a VecEnv's wrappers, such as VecNormalize's ``training``, that a callback changes while workers step slices.

An attribute counts as changed if it was set to another object, or to another number. Changes within a container are not
noticed.
"""

from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_a3c.envs.declarations import layers_of
from sb3_a3c.envs.state import shared_attributes

_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class EnvAttributes:
    """
    Attributes to set in the slices of a VecEnv.

    :param version: The number of changes since the run began
    :param values: Tuples of a wrapper (0: the outermost), the name of an attribute, and its value
    """

    version: int = 0
    values: tuple[tuple[int, str, Any], ...] = field(default=(), compare=False)

    def set_in(self, venv: VecEnv) -> None:
        """
        :param venv: A slice of the VecEnv, with the same wrappers
        """
        for depth, name, value in self.values:
            setattr(layers_of(venv)[depth], name, value)


class AttributesOfEnv:
    """
    Reads the attributes of a VecEnv's wrappers, and remembers which have changed.

    :param venv: The VecEnv that was sliced
    """

    def __init__(self, venv: VecEnv) -> None:
        self._venv = venv
        self._seen = shared_attributes(venv)
        self._changed: dict[tuple[int, str], Any] = {}
        self._attributes = EnvAttributes()

    def read(self) -> EnvAttributes:
        """
        :return: All changes since the run began. If there are no new ones, this is the same object as before
        """
        now = shared_attributes(self._venv)
        changed = {key: value for key, value in now.items() if not (key in self._seen and _is_same(self._seen[key], value))}
        if changed:
            self._seen = now
            self._changed |= changed
            values = tuple((depth, name, value) for (depth, name), value in self._changed.items())
            self._attributes = EnvAttributes(self._attributes.version + 1, values)
        return self._attributes


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and one == other)

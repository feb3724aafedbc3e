"""The algorithms that can be compared, by name."""

from importlib import import_module

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_a3c.a3c import A3C
from sb3_a3c.comparison.faults import BadArgument

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"a3c": A3C, "a2c": A2C, "ppo": PPO}


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """
    :param name: A name in ``ALGORITHMS``, or ``module:Class`` for any other of Stable-Baselines3's kind
    :return: The class
    :raises BadArgument: if there is none
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(import_module(module_name), class_name) if module_name and class_name else None
    except (ImportError, AttributeError) as error:
        raise BadArgument(f"algos: {name!r} can't be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        allowed = f"some of {sorted(ALGORITHMS)}, or module:Class of an algorithm of Stable-Baselines3"
        raise BadArgument(f"algos must be {allowed}, but one is {name!r}")
    return found

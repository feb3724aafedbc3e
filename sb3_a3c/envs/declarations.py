"""Which VecEnvs can be sliced, and which of their attributes have one entry per environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
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


@dataclass(frozen=True)
class Declaration:
    """
    The attributes of a class of VecEnvs that have one entry per environment.

    :param state: Names of those that change with each step
    :param handles: Names of those that refer to the environments
    """

    state: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()


DECLARATIONS: dict[type[VecEnv], Declaration] = {}
#: The attribute of a slice that holds its class's declaration. In a worker process, the class may be another copy (a class in
#: ``__main__`` is), or may not be declared.
DECLARED = "_a3c_declaration"


def register_vec_env(vec_env_class: type[VecEnv], state: Sequence[str] = (), handles: Sequence[str] = ()) -> None:
    """
    Declare that a VecEnv, or a wrapper of one, can be sliced. This requires that it treats each environment separately, and
    that everything it holds for single environments is in attributes with one entry per environment: arrays with a first axis
    of ``n_envs``, lists or tuples of that length, dicts of those, or SB3's ``StackedObservations``.

    :param vec_env_class: The class. Subclasses must be declared separately
    :param state: Names of such attributes that change with each step. They are written back after learning
    :param handles: Names of such attributes that only refer to the environments
    :raises TypeError: if it is not a class of VecEnvs
    """
    if not (isinstance(vec_env_class, type) and issubclass(vec_env_class, VecEnv)):
        raise TypeError(f"vec_env_class must be a subclass of VecEnv, not {vec_env_class!r}")
    DECLARATIONS[vec_env_class] = Declaration(tuple(state), tuple(handles))


register_vec_env(DummyVecEnv, ["reset_infos"], ["envs", "buf_obs", "buf_dones", "buf_rews", "buf_infos"])
register_vec_env(SubprocVecEnv, ["reset_infos"], ["remotes", "work_remotes", "processes"])
register_vec_env(VecNormalize, ["returns", "old_obs", "old_reward"])
register_vec_env(VecFrameStack, ["stacked_obs"])
register_vec_env(VecMonitor, ["episode_returns", "episode_lengths"])
register_vec_env(VecCheckNan, ["_observations", "_actions"])
register_vec_env(VecTransposeImage)
register_vec_env(VecExtractDictObs)


def declaration_of(layer: VecEnv) -> Declaration:
    """
    :param layer: A VecEnv or a wrapper, whole or a slice
    :return: Its declaration, or that of the class that it extends, an empty one if there is none
    """
    declared = (DECLARATIONS[base] for base in type(layer).__mro__ if base in DECLARATIONS)
    return vars(layer).get(DECLARED) or next(declared, Declaration())


def layers_of(venv: VecEnv) -> list[VecEnv]:
    """
    :param venv: A VecEnv
    :return: Its wrappers, the outermost first, and the VecEnv inside them
    """
    layers = [venv]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def gym_layers_of(env: Any) -> list[Any]:
    """
    :param env: An environment of Gymnasium
    :return: Its wrappers, the outermost first, and the environment inside them
    """
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def is_per_env(value: Any, n_envs: int) -> bool:
    """
    :param value: The value of a declared attribute
    :param n_envs: The number of environments
    :return: Whether it has an entry for each environment now. (VecNormalize's last rewards have none before the first step)
    """
    if isinstance(value, dict):
        return all(is_per_env(entry, n_envs) for entry in value.values())
    return isinstance(value, StackedObservations) or len(value) == n_envs

"""
Settings of an algorithm for an environment, in rl-zoo3's form: read from a file, and made an environment and a model of.

Settings are kept as plain values, as they stand in the file, so that they can be stored, compared and handed to a process.
As with rl-zoo3, some of the text in them is Python, which is evaluated: use only files that you trust.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_a3c.comparison.algorithms import find_algorithm
from sb3_a3c.comparison.faults import BadArgument, check

Settings = dict[str, Any]

_ENV_KEYS = frozenset(
    {"n_envs", "n_timesteps", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "env_kwargs", "monitor_kwargs"}
)
_SCHEDULES = ("learning_rate", "vf_learning_rate", "clip_range", "clip_range_vf", "delta_std")
#: Arguments whose text is Python, and what it may name.
_PYTHON = ("policy_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
_NAMES = {"dict": dict, "list": list, "tuple": tuple, "nn": th.nn, "th": th, "RMSpropTFLike": RMSpropTFLike}
#: What is the comparison's to give.
_OURS = frozenset({"self", "env", "seed", "_init_setup_model"})


def read_settings(path: str | os.PathLike[str], env_id: str) -> Settings:
    """
    :param path: A YAML file: environment id -> settings; ``atari`` and ``default`` stand for what is not listed
    :param env_id: The id of an environment that has been made before
    :return: Its settings
    :raises BadArgument: if there is no such file, it is not of that form, or has none for the environment
    """
    import yaml  # of the extra: the command's --help must do without it

    name = os.fspath(path)
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArgument(f"settings: {name!r} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadArgument(f"settings: {name!r} is not YAML: {error}") from error
    if not (isinstance(entries, dict) and all(isinstance(values, dict) for values in entries.values())):
        raise BadArgument(f"settings: {name!r} must have environment ids with the settings of each, as rl-zoo3's files do")
    env_id = env_id.rpartition(":")[2]  # without the module that registers it
    fallback = "atari" if "AtariEnv" in str(gym.spec(env_id).entry_point) else "default"
    for entry in (env_id, fallback):
        if entry in entries:
            return dict(entries[entry])
    raise BadArgument(f"settings: {name!r} must have an entry {env_id!r} or {fallback!r}, but it has {sorted(entries)}")


def complete(settings: Settings, algorithm: str, env_id: str, n_envs: int) -> Settings:
    """
    :param settings: The user's settings, which may be empty
    :param algorithm: The algorithm's name
    :param env_id: The environment's id
    :param n_envs: The number of environments if the settings have none
    :return: The settings, completed by the policy and the number of environments
    :raises BadArgument: if a name in them is none of the algorithm's, or the environment can't be made
    """
    found = find_algorithm(algorithm)
    parameters = inspect.signature(found).parameters
    allowed = (set(parameters) - _OURS) | _ENV_KEYS
    for key, value in settings.items():
        check(key in allowed, f"a key in the settings of {algorithm}", key, f"one of {sorted(allowed)}")
        if key in parameters and isinstance(parameters[key].default, int | float):
            is_text = isinstance(_argument(key, settings), str)
            check(not is_text, f"{key} in the settings of {algorithm}", value, f"like its default, {parameters[key].default}")
    settings = {"n_envs": n_envs, **settings}
    n_envs = settings["n_envs"]
    check(
        isinstance(n_envs, int) and n_envs >= 1,
        f"n_envs in the settings of {algorithm}",
        n_envs,
        "a whole number of at least 1",
    )
    if "policy" not in settings:
        env = make_env(env_id, settings, n_envs=1, seed=0)
        settings["policy"] = _policy_for(env.observation_space)
        env.close()
    return settings


def make_env(
    env_id: str,
    settings: Settings,
    n_envs: int,
    seed: int,
    training: bool = True,
    outermost: Callable[[gym.Env], gym.Env] = lambda env: env,
) -> VecEnv:
    """
    :param env_id: The environment's id
    :param settings: The settings
    :param n_envs: How many environments the VecEnv has
    :param seed: Its seed
    :param training: Whether it is for training; if not, normalization statistics stay as they are, and rewards too
    :param outermost: A wrapper around each environment and the wrappers of the settings
    :return: The VecEnv, wrapped as rl-zoo3 wraps it
    """
    wrap = _wrappers("env_wrapper", settings)
    env = make_vec_env(
        partial(gym.make, env_id),  # given its id, SB3 has it render, for which LunarLander makes ever more particles
        n_envs=n_envs,
        seed=seed,
        env_kwargs=_evaluated("env_kwargs", settings),
        wrapper_class=lambda env: outermost(wrap(env)),
        monitor_kwargs=_evaluated("monitor_kwargs", settings),
    )
    env = _wrappers("vec_env_wrapper", settings)(env)
    normalize = _evaluated("normalize", settings)
    if normalize:
        kwargs = dict(normalize) if isinstance(normalize, Mapping) else {}
        if "gamma" in settings:
            kwargs["gamma"] = _number(settings["gamma"])
        env = VecNormalize(env, **(kwargs if training else kwargs | {"training": False, "norm_reward": False}))
    if settings.get("frame_stack"):
        env = VecFrameStack(env, settings["frame_stack"])
    return env


def make_model(algorithm: str, env: VecEnv, settings: Settings, seed: int) -> BaseAlgorithm:
    """
    :param algorithm: The algorithm's name
    :param env: What it learns from
    :param settings: The settings
    :param seed: Its seed
    :return: The model, on the CPU where the settings don't say otherwise
    """
    kwargs = {key: _argument(key, settings) for key in settings if key not in _ENV_KEYS}
    return find_algorithm(algorithm)(env=env, seed=seed, **{"device": "cpu", **kwargs})


def _policy_for(observation_space: spaces.Space) -> str:
    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(observation_space) else "MlpPolicy"


def _argument(key: str, settings: Settings) -> Any:
    value = settings[key]
    if key in _SCHEDULES and isinstance(value, str):
        initial = _number(value.removeprefix("lin_"))
        check(isinstance(initial, float), key, value, "a number, or lin_ and a number to decay linearly to 0")
        return LinearSchedule(initial, 0.0, 1.0) if value.startswith("lin_") else initial
    if key in _PYTHON:
        return _evaluated(key, settings)
    if key == "policy" and "." in value:
        return _imported(key, value)
    if key == "train_freq" and isinstance(value, list):
        return tuple(value)
    return _number(value)


def _number(value: Any) -> Any:
    """YAML takes ``1e-3``, without a point, for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _evaluated(key: str, settings: Settings) -> Any:
    """A value that may be Python in text, such as ``"dict(activation_fn=nn.ReLU)"``."""
    value = settings.get(key)
    if not isinstance(value, str):
        return value
    try:
        return eval(value, {"__builtins__": {}} | _NAMES)
    except Exception as error:
        raise BadArgument(
            f"{key} must be Python that names nothing but {sorted(_NAMES)}, but it is {value!r}: {error}"
        ) from error


def _wrappers(key: str, settings: Settings) -> Callable[[Any], Any]:
    """One wrapper, or a list of them from the inside out: ``module.Class``, or ``{module.Class: {argument: value}}``."""
    value = settings.get(key) or []
    wrappers = []
    for entry in value if isinstance(value, list) else [value]:
        ((name, kwargs),) = entry.items() if isinstance(entry, dict) and len(entry) == 1 else [(entry, None)]
        wrappers.append((_imported(key, name), kwargs or {}))

    def wrap(env: Any) -> Any:
        for wrapper_class, kwargs in wrappers:
            env = wrapper_class(env, **kwargs)
        return env

    return wrap


def _imported(key: str, name: Any) -> Any:
    try:
        module_name, _, class_name = name.rpartition(".")
        return getattr(import_module(module_name), class_name)
    except (AttributeError, ImportError, ValueError) as error:
        raise BadArgument(f"{key} must be module.Class, and be there to import, but it is {name!r}: {error}") from error

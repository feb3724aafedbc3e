"""
An algorithm's settings for an environment, in rl-zoo3's form: read from a file, and turned into an environment and a model.

Settings stay plain values, as they stand in the file, so that they can be stored, compared and sent to a process. As in
rl-zoo3, some text in them is evaluated as Python: use only files that you trust.
"""

import difflib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import partial, reduce
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_a3c.a3c import A3C
from sb3_a3c.comparison.errors import BadArgument, check
from sb3_a3c.policies.mnih_cnn import MnihCNN

Settings = dict[str, Any]

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"a3c": A3C, "a2c": A2C, "ppo": PPO}

_ENV_KEYS = frozenset(
    {"n_envs", "n_timesteps", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "env_kwargs", "monitor_kwargs"}
)
#: Arguments whose text is Python, and the names that it may use.
_PYTHON = ("policy_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
_NAMES = {
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "nn": th.nn,
    "th": th,
    "RMSpropTFLike": RMSpropTFLike,
    "MnihCNN": MnihCNN,
}
#: Arguments that the comparison sets itself.
_OURS = frozenset({"self", "env", "seed", "_init_setup_model"})


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """
    :param name: A name in ``ALGORITHMS``, or ``module:Class`` for another algorithm with Stable-Baselines3's interface
    :return: The class
    :raises BadArgument: if there is no such algorithm
    """
    try:
        found = None
        if isinstance(name, str):
            found = resolve_name(name) if ":" in name else ALGORITHMS.get(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadArgument(f"algos: {name!r} can't be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        allowed = f"names among {sorted(ALGORITHMS)}, or module:Class of an algorithm of Stable-Baselines3"
        raise BadArgument(f"algos must be {allowed}, but one is {name!r}")
    return found


def read_settings(path: str | os.PathLike[str], env_id: str) -> Settings:
    """
    :param path: A YAML file: environment id -> settings. ``atari`` and ``default`` are used for ids that are not listed
    :param env_id: The id of an environment that has been made before
    :return: The environment's settings
    :raises BadArgument: if the file can't be read, does not have this form, or has no entry for the environment
    """
    import yaml  # part of the extra, which the command's --help does not need

    name = os.fspath(path)
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArgument(f"settings: {name!r} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadArgument(f"settings: {name!r} is not YAML: {error}") from error
    if not (isinstance(entries, dict) and all(isinstance(values, dict) for values in entries.values())):
        raise BadArgument(f"settings: {name!r} must map environment ids to settings, as rl-zoo3's files do")
    env_id = env_id.rpartition(":")[2]  # without the module that registers it
    fallback = "atari" if "AtariEnv" in str(gym.spec(env_id).entry_point) else "default"
    entry = env_id if env_id in entries else fallback
    if entry not in entries:
        raise BadArgument(f"settings: {name!r} must have an entry {env_id!r} or {fallback!r}, but it has {sorted(entries)}")
    try:
        # The way through JSON makes them the same as those that are read from the file of a finished run.
        return {key: _number(value) for key, value in json.loads(json.dumps(entries[entry])).items()}
    except TypeError as error:
        raise BadArgument(f"settings: {name!r} must contain only numbers, text, lists and dicts: {error}") from error


def check_settings(settings: Settings, algorithm: str) -> None:
    """Raise :class:`BadArgument` if an algorithm has no argument of a name in the settings, or a value has the wrong type."""
    parameters = inspect.signature(find_algorithm(algorithm)).parameters
    allowed = (set(parameters) - _OURS) | _ENV_KEYS
    for key, value in settings.items():
        if key not in allowed:
            hint = "".join(f"Did you mean {name!r}? " for name in difflib.get_close_matches(str(key), allowed, n=1))
            raise BadArgument(
                f"the settings of {algorithm} must not have a key {key!r}. {hint}They may have {sorted(allowed)}"
            )
        if key in parameters and isinstance(parameters[key].default, int | float):
            is_text = isinstance(_argument(key, value), str)
            check(not is_text, f"{key} in the settings of {algorithm}", value, f"like its default, {parameters[key].default}")
    n_envs = settings["n_envs"]
    is_count = isinstance(n_envs, int) and n_envs >= 1
    check(is_count, f"n_envs in the settings of {algorithm}", n_envs, "an integer of at least 1")


def make_env(
    env_id: str,
    settings: Settings,
    n_envs: int,
    seed: int,
    training: bool = True,
    outermost: Callable[[gym.Env], gym.Env] = lambda env: env,
) -> VecEnv:
    """
    Make a VecEnv and wrap it as rl-zoo3 does.

    :param training: Whether it is for training. If not, VecNormalize neither updates its statistics nor normalizes rewards
    :param outermost: A wrapper around each environment and its wrappers
    """
    wrap = _wrappers("env_wrapper", settings)
    env = make_vec_env(
        partial(gym.make, env_id),  # if SB3 gets an id, it makes environments that render, and LunarLander's get slower
        n_envs=n_envs,
        seed=seed,
        env_kwargs=_evaluated("env_kwargs", settings.get("env_kwargs")),
        wrapper_class=lambda env: outermost(wrap(env)),
        monitor_kwargs=_evaluated("monitor_kwargs", settings.get("monitor_kwargs")),
    )
    env = _wrappers("vec_env_wrapper", settings)(env)
    normalize = _evaluated("normalize", settings.get("normalize"))
    if normalize:
        kwargs = dict(normalize) if isinstance(normalize, Mapping) else {}
        if "gamma" in settings:
            kwargs["gamma"] = settings["gamma"]
        env = VecNormalize(env, **(kwargs if training else kwargs | {"training": False, "norm_reward": False}))
    if settings.get("frame_stack"):
        env = VecFrameStack(env, settings["frame_stack"])
    return env


def make_model(algorithm: str, env: VecEnv, settings: Settings, seed: int) -> BaseAlgorithm:
    """Return a model with these settings, on the CPU unless they name another device."""
    kwargs = {key: _argument(key, value) for key, value in settings.items() if key not in _ENV_KEYS}
    return find_algorithm(algorithm)(env=env, seed=seed, **{"device": "cpu", **kwargs})


def _number(value: Any) -> Any:
    """Convert text such as ``1e-3``, which YAML does not read as a number because it has no point."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _argument(key: str, value: Any) -> Any:
    """The argument of an algorithm that a value in its settings stands for."""
    if key in _PYTHON:
        return _evaluated(key, value)
    if isinstance(value, str) and value.startswith("lin_"):
        initial = _number(value.removeprefix("lin_"))
        check(isinstance(initial, float), key, value, "a number, or lin_ and a number to decay linearly to 0")
        return LinearSchedule(initial, 0.0, 1.0)
    if key == "policy" and "." in value:
        return _imported(key, value)
    return tuple(value) if key == "train_freq" and isinstance(value, list) else value


def _evaluated(key: str, value: Any) -> Any:
    """Evaluate a value that may be text in Python, such as ``"dict(activation_fn=nn.ReLU)"``."""
    try:
        return eval(value, {"__builtins__": {}} | _NAMES) if isinstance(value, str) else value
    except Exception as error:
        raise BadArgument(f"{key} must be Python with no names but {sorted(_NAMES)}, but it is {value!r}: {error}") from error


def _wrappers(key: str, settings: Settings) -> Callable[[Any], Any]:
    """One wrapper or a list from the innermost to the outermost: ``module.Class`` or ``{module.Class: {argument: value}}``."""
    value = settings.get(key) or []
    wrappers = []
    for entry in value if isinstance(value, list) else [value]:
        ((name, kwargs),) = entry.items() if isinstance(entry, dict) and len(entry) == 1 else [(entry, None)]
        wrappers.append(partial(_imported(key, name), **(kwargs or {})))
    return lambda env: reduce(lambda wrapped, wrapper: wrapper(wrapped), wrappers, env)


def _imported(key: str, name: Any) -> Any:
    try:
        return resolve_name(name)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise BadArgument(f"{key} must be a module.Class that can be imported, but it is {name!r}: {error}") from error

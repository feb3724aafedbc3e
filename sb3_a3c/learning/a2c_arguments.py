"""Checks of those arguments that A2C has too and doesn't check: an error names the argument, its value and what is allowed."""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import BaseBuffer

from sb3_a3c.envs.making import check_env
from sb3_a3c.learning.arguments import check, is_whole


def check_a2c_arguments(values: Mapping[str, Any]) -> None:
    """
    :param values: The arguments of the constructor
    :raises ValueError: if one of those with an entry in ``_ALLOWED`` is not allowed, or there is no ``env``
    """
    for name, (allowed, accepts) in _ALLOWED.items():
        check(accepts(values[name]), name, values[name], allowed)
    if values["env"] is None and values["_init_setup_model"]:  # a model that is loaded may have none
        check_env(None)
    _warn_of_missing_gpu(values["device"])


def _warn_of_missing_gpu(device: Any) -> None:
    """Warn if a GPU is asked for where PyTorch has none. SB3 uses the CPU then, and says nothing."""
    if device != "auto" and th.device(device).type == "cuda" and not th.cuda.is_available():
        found = "is built without CUDA" if th.version.cuda is None else "finds no GPU"
        message = f"device is {str(device)!r}, but this PyTorch ({th.__version__}) {found}, so the CPU is used"
        warnings.warn(message, stacklevel=4)  # where the model is made


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, Integral) and value in (0, 1))


def _is_epsilon(value: Any) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf


def _is_buffer_class(value: Any) -> bool:
    return issubclass(value, BaseBuffer) if isinstance(value, type) else value is None or callable(value)


def _is_device(value: Any) -> bool:
    try:
        return value == "auto" or th.device(value) is not None
    except (RuntimeError, TypeError):
        return False


_FLAG = ("True or False", _is_flag)
_DICT = ("None or a dict", lambda value: value is None or isinstance(value, Mapping))

#: What is allowed, in words, and whether a value is.
_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "rms_prop_eps": ("a finite number of at least 0", _is_epsilon),
    "use_rms_prop": _FLAG,
    "use_sde": _FLAG,
    "sde_sample_freq": ("a whole number, -1 for one noise matrix per rollout", is_whole),
    "rollout_buffer_class": ("None or a class of rollout buffers", _is_buffer_class),
    "rollout_buffer_kwargs": _DICT,
    "normalize_advantage": _FLAG,
    "stats_window_size": (
        "a whole number of at least 0",
        lambda value: value is None or (is_whole(value) and value >= 0),
    ),
    "tensorboard_log": ("None or a path", lambda value: value is None or isinstance(value, str | os.PathLike)),
    "policy_kwargs": _DICT,
    "verbose": ("0, 1 or 2", lambda value: isinstance(value, Real)),
    "seed": (
        "None or an int from 0 to 2**32 - 1",  # random.seed() accepts no other whole numbers
        lambda value: value is None or (isinstance(value, int) and 0 <= value < 2**32),
    ),
    "device": ("'auto' or a device of PyTorch, such as 'cpu' or 'cuda'", _is_device),
}

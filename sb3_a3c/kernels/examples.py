"""The smallest call of each kernel: it compiles the kernel for the types of arrays that a run calls it with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import sb3_a3c.kernels.kernels as kernels
import sb3_a3c.kernels.normalization as normalization_kernels


class Example(NamedTuple):
    """
    :param kernel: The kernel that it calls, or one of them
    :param seconds: How long it takes to compile them, about; what is compiled at the same time is divided by this
    :param call: Calls them
    """

    kernel: str
    seconds: float
    call: Callable[[], None]


def _network() -> np.ndarray:
    """An observation and an action of one number, and a layer with a weight and a bias for the actor and for the critic."""
    table = np.zeros(kernels.N_FIELDS + 1 + kernels.LAYER_FIELDS, np.int64)
    table[[kernels.N_OBS, kernels.N_FEATURES, kernels.N_ACTIONS, kernels.WIDEST, kernels.STD_COLUMNS]] = 1
    table[[kernels.ACTOR, kernels.CRITIC]] = kernels.N_FIELDS
    table[kernels.N_FIELDS :] = 1, 1, 1, 0, 1
    return table


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _limits() -> np.ndarray:
    return np.array([0, -1, 1], np.float32)


def _act() -> None:
    rng, rows = np.ones(4, np.uint64), _zeros(3, 1, 1, 1)
    columns = _zeros(2, 1, 1)
    kernels.act(_network(), _limits(), _zeros(2), rng, _zeros(2), _zeros(1, 1), 0, *rows, *columns, _zeros(8))


def _draw_noise() -> None:
    kernels.draw_noise(_network(), _zeros(2), np.ones(4, np.uint64), _zeros(2))


def _predict_values() -> None:
    kernels.predict_values(_network(), _limits(), _zeros(2), _zeros(1, 1), _zeros(1), _zeros(8))


def _returns() -> None:
    rewards, episode_starts, values, last_values, advantages, returns = _zeros(6, 1, 1)
    kernels.returns(rewards, episode_starts, values, last_values, _zeros(1), 1.0, 1.0, advantages, returns)


def _gradient() -> None:
    rows, columns = _zeros(2, 1, 1, 1), _zeros(2, 1, 1)
    kernels.gradient(_network(), _limits(), _zeros(2), *rows, *columns, _zeros(8), _zeros(2), 0.0, 0.5, 0.5, False)


def _copy() -> None:
    kernels.copy(_zeros(2), _zeros(2))


def _step_optimizer(name: str, in_place: bool) -> None:
    """In place, as Hogwild steps, or to other arrays."""
    n_vectors = 3 if name == "adam_step" else 2
    options = (0.9, 0.999, 1e-5, 1) if name == "adam_step" else (0.99, 1e-5)
    vector, *statistics = np.ones((n_vectors, 2), np.float32)
    new = () if in_place else tuple(_zeros(n_vectors, 2))
    getattr(kernels, name)(vector, _zeros(2), *statistics, 0.0, *options, *new)


def _normalize_obs(dtype: type[np.floating]) -> None:
    obs, moments = np.zeros((1, 1), dtype), np.zeros((2, 1))
    normalization_kernels.step_obs(obs, *np.ones((2, 1)), 1.0, 1e-8, 10.0, _zeros(1, 1), np.zeros((2, 1), dtype), moments)
    mean, var = normalization_kernels.batch_moments(obs)
    _count_moments(mean, var)


def _normalize_rewards() -> None:
    (rewards, returns, new_returns), moments = np.zeros((3, 1)), np.zeros((2, 2, 1))
    mean, var = np.ones((2, 1))
    normalization_kernels.step_rewards(
        rewards, np.zeros(1, bool), returns, 1.0, mean, var, 1.0, 1e-8, 10.0, new_returns, _zeros(1), *moments
    )
    normalization_kernels.normalize(np.zeros((1, 1)), mean, var, 1e-8, 10.0)
    _count_moments(mean, var)


def _count_moments(batch_mean: np.ndarray, batch_var: np.ndarray) -> None:
    mean, var = np.ones((2, 1))
    normalization_kernels.count_moments(batch_mean, batch_var, 1.0, mean, var, 1.0)
    normalization_kernels.count_journal(batch_mean[None], batch_var[None], np.ones(1), mean, var, 1.0)


#: What :func:`~sb3_a3c.kernels.compilation.needed` may name.
EXAMPLES: dict[str, Example] = {
    "gradient": Example("gradient", 6.0, _gradient),
    "act": Example("act", 3.0, _act),
    "predict_values": Example("predict_values", 0.6, _predict_values),
    "returns": Example("returns", 0.2, _returns),
    "copy": Example("copy", 0.1, _copy),
    "draw_noise": Example("draw_noise", 0.4, _draw_noise),
    **{
        f"{name}{suffix}": Example(name, 0.4, lambda name=name, suffix=suffix: _step_optimizer(name, bool(suffix)))  # type: ignore[misc]
        for suffix in ("", ", in place")
        for name in ("rmsprop_step", "rmsprop_tf_step", "adam_step")
    },
    "normalize rewards": Example("step_rewards", 1.5, _normalize_rewards),
    "normalize float32": Example("step_obs", 1.2, lambda: _normalize_obs(np.float32)),
    "normalize float64": Example("step_obs", 1.2, lambda: _normalize_obs(np.float64)),
}

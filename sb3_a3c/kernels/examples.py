"""The smallest call of each kernel. It compiles the kernel for the types that a run calls it with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import sb3_a3c.kernels.network_table as fields
import sb3_a3c.kernels.recurrent_table as recurrent_fields
from sb3_a3c.kernels import optimizers
from sb3_a3c.kernels.acting import act, predict_values
from sb3_a3c.kernels.gradient import gradient
from sb3_a3c.kernels.normalization import count_journal, normalize, step_obs, step_rewards
from sb3_a3c.kernels.recurrent import encode, encoders_gradient
from sb3_a3c.kernels.returns import returns
from sb3_a3c.kernels.state_dependent_noise import draw_noise


class Example(NamedTuple):
    """
    :param kernel: The kernel that it calls. If it calls several, one of them
    :param seconds: About how long it takes to compile. Two processes share the work by this
    :param call: Calls the kernel
    """

    kernel: str
    seconds: float
    call: Callable[[], None]


def _network() -> np.ndarray:
    """One number per observation and per action, and one layer with one weight and one bias for both actor and critic."""
    table = np.zeros(fields.N_FIELDS + 1 + fields.LAYER_FIELDS, np.int64)
    table[[fields.N_OBS, fields.N_FEATURES, fields.N_ACTIONS, fields.WIDEST, fields.STD_COLUMNS]] = 1
    table[[fields.ACTOR_UNITS, fields.CRITIC_UNITS]] = 1
    table[[fields.ACTOR, fields.CRITIC]] = fields.N_FIELDS
    table[fields.N_FIELDS :] = 1, 1, 1, 0, 1
    return table


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _limits() -> np.ndarray:
    return np.array([0, -1, 1], np.float32)


def _act() -> None:
    rng, rows = np.ones(4, np.uint64), _zeros(3, 1, 1, 1)
    columns = _zeros(2, 1, 1)
    act(_network(), _limits(), _zeros(2), rng, _zeros(2), _zeros(1, 1), 0, *rows, *columns, _zeros(2), _zeros(8))


def _draw_noise() -> None:
    draw_noise(_network(), _zeros(2), np.ones(4, np.uint64), _zeros(2))


def _predict_values() -> None:
    predict_values(_network(), _limits(), _zeros(2), _zeros(1, 1), _zeros(1), _zeros(8))


def _returns() -> None:
    rewards, episode_starts, values, last_values, advantages, out = _zeros(6, 1, 1)
    returns(rewards, episode_starts, values, last_values, _zeros(1), 1.0, 1.0, advantages, out)


def _gradient() -> None:
    rows, columns = _zeros(2, 1, 1, 1), _zeros(2, 1, 1)
    gradient(
        *(_network(), _limits(), _zeros(2), *rows, *columns, np.ones((1, 1), bool)),
        *(_zeros(2), _zeros(8), _zeros(2), _zeros(0), 0.0, 0.5, 0.5, False),
    )


def _encoders() -> np.ndarray:
    """One number per observation, and an LSTM of one layer with one unit."""
    table = np.zeros(recurrent_fields.N_FIELDS + 1 + recurrent_fields.LAYER_FIELDS, np.int64)
    table[[fields.N_OBS, fields.N_FEATURES]] = 1
    table[[recurrent_fields.ACTOR_ENCODER, recurrent_fields.CRITIC_ENCODER]] = recurrent_fields.N_FIELDS
    table[recurrent_fields.N_FIELDS :] = 1, 1, 0, 4, 8, 12
    return table


def _encode() -> None:
    states, gates, rows = _zeros(1, 1, 2, 2, 1, 1), _zeros(1, 1, 1, 1, 4, 1), _zeros(1, 1, 1)
    encode(_encoders(), _zeros(16), rows, _zeros(1, 1), states, gates, _zeros(1, 1, 1, 1), 0, 1, 0, _zeros(8))


def _encoders_gradient() -> None:
    states, gates, rows = _zeros(1, 1, 2, 2, 1, 1), _zeros(1, 1, 1, 1, 4, 1), _zeros(1, 1, 1)
    delta, workspace, out = _zeros(1, 1, 1, 1), _zeros(16), _zeros(16)
    encoders_gradient(_encoders(), _zeros(16), rows, _zeros(1, 1), states, gates, delta, workspace, out, 0.5)


def _copy() -> None:
    optimizers.copy(_zeros(2), _zeros(2))


def _step_optimizer(name: str, in_place: bool) -> None:
    """In place, as in Hogwild, or to other arrays."""
    n_vectors = 3 if name == "adam_step" else 2
    options = (0.9, 0.999, 1e-5, 1) if name == "adam_step" else (0.99, 1e-5)
    vector, *statistics = np.ones((n_vectors, 2), np.float32)
    new = () if in_place else tuple(_zeros(n_vectors, 2))
    getattr(optimizers, name)(vector, _zeros(2), *statistics, 0.0, *options, *new)
    optimizers.total(vector)


def _normalize_obs(dtype: type[np.floating]) -> None:
    obs, batch_moments, moments = np.zeros((1, 1), dtype), np.zeros((2, 1), dtype), np.zeros((2, 1))
    step_obs(obs, *np.ones((2, 1)), 1.0, 1e-8, 10.0, _zeros(1, 1), batch_moments, moments)
    _count_journal(batch_moments)


def _normalize_rewards() -> None:
    (rewards, returns, new_returns), moments = np.zeros((3, 1)), np.zeros((2, 2, 1))
    step_rewards(rewards, np.zeros(1, bool), returns, 1.0, 0.0, 1.0, 1.0, 1e-8, 10.0, new_returns, _zeros(1), *moments)
    normalize(np.zeros((1, 1)), *np.ones((2, 1)), 1e-8, 10.0)
    _count_journal(np.ones((2, 1)))


def _count_journal(batch_moments: np.ndarray) -> None:
    count_journal(batch_moments[None], np.ones(1), *np.ones((2, 3)))


#: What :func:`~sb3_a3c.kernels.compilation.needed` may name.
EXAMPLES: dict[str, Example] = {
    "gradient": Example("gradient", 6.0, _gradient),
    "act": Example("act", 3.0, _act),
    "predict_values": Example("predict_values", 0.6, _predict_values),
    "returns": Example("returns", 0.2, _returns),
    "copy": Example("copy", 0.1, _copy),
    "encode": Example("encode", 1.5, _encode),
    "encoders_gradient": Example("encoders_gradient", 2.5, _encoders_gradient),
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

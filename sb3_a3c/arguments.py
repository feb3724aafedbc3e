"""Checks of what a user passes to A3C: a bad argument is told at once, by name, with its value and what is allowed."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, get_args

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import FloatSchedule

from sb3_a3c.backends import BACKENDS, RolloutOrder
from sb3_a3c.engines import ENGINES, choose_engine
from sb3_a3c.hyperparameters import as_numbers

if TYPE_CHECKING:
    from sb3_a3c.a3c import A3C


#: Of a saved model. To be counted up when an A3C of before could not go on with it.
FORMAT = 1
#: Arguments of which each worker may have a value of its own.
_OF_WORKERS = ("ent_coef", "std_scale")
#: What the zips of other on-policy algorithms have and A2C's have not.
_FOREIGN = ("batch_size", "n_epochs", "clip_range")
#: Methods that SB3's on-policy algorithms call and A3C does not: what to do instead of overriding them.
_NEVER_CALLED = {
    "train": "a policy class with its own evaluate_actions(), an optimizer_class in policy_kwargs, or a callback",
    "collect_rollouts": "a callback, a wrapper around the environments, or a rollout_buffer_class",
    "_update_learning_rate": "a function of the progress remaining for learning_rate",
}


def check_arguments(model: "A3C") -> None:
    """
    :param model: A model with its arguments, new, loaded or about to learn; it may have no policy yet
    :raises ValueError: if an argument is not allowed, or the model is a loaded one that this A3C can't go on with
    :raises TypeError: if a method is overridden that is never called
    """
    _check_origin(model)
    _check_overrides(model)
    check_n_workers(model.n_workers)
    _check_one_of("backend", model.backend, BACKENDS)
    _check_one_of("engine", model.engine, ENGINES)
    _check_one_of("rollout_order", model.rollout_order, get_args(RolloutOrder))
    for name in ("max_lead", "max_lead_bytes"):
        value = getattr(model, name)
        _check(_is_whole(value) and value >= 0, name, value, "a whole number of at least 0")
    _check(isinstance(model.use_locking, bool), "use_locking", model.use_locking, "True or False")
    _check_backend_kwargs(model.backend, model.backend_kwargs)
    _check(_is_whole(model.n_steps) and model.n_steps >= 1, "n_steps", model.n_steps, "a whole number of at least 1")
    _check_numbers(model)
    for name in ("learning_rate", "vf_learning_rate"):
        _check_learning_rate(name, getattr(model, name))


def check_policy(model: "A3C") -> None:
    """
    :param model: A model with its policy
    :raises ValueError: if the engine can't compute the policy, or the policy has nothing to scale
    """
    choose_engine(model.engine, model.policy, model.rollout_buffer_class)
    _check_std_scale(model)


def _check_overrides(model: "A3C") -> None:
    for name, instead in _NEVER_CALLED.items():
        if name in vars(model) or getattr(type(model), name) is not getattr(OnPolicyAlgorithm, name):
            raise TypeError(
                f"{name}() must not be overridden, but {type(model).__name__} overrides it: A3C never calls it, because its "
                f"workers collect rollouts and learn from them by themselves. Use {instead} instead"
            )


def _check_origin(model: "A3C") -> None:
    policy_class = model.policy_class
    is_policy = isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)
    allowed = "a name, or a class of actor-critic policies; a zip is to be A3C's or A2C's"
    _check(is_policy, "policy", policy_class, allowed)
    if foreign := [name for name in _FOREIGN if name in vars(model)]:
        raise ValueError(f"path must be a zip of A3C or A2C, but it is another algorithm's: it has {', '.join(foreign)}")
    if model._format > FORMAT:
        raise ValueError(
            f"path must be a zip of a format up to {FORMAT}, but it is of format {model._format}: a newer sb3_a3c wrote it"
        )


def check_n_workers(n_workers: Any) -> None:
    """
    :param n_workers: How many workers a user wants, None: as many as fit
    :raises ValueError: if it is neither None nor a positive whole number
    """
    if n_workers is not None:
        _check(_is_whole(n_workers) and n_workers >= 1, "n_workers", n_workers, "None or a whole number of at least 1")


def resolve_n_workers(model: "A3C", n_envs: int) -> int:
    """
    :param model: The model that is to learn
    :param n_envs: How many environments it has
    :return: How many workers it will have
    :raises ValueError: if it was to have more than there are environments, or an argument does not fit so many
    """
    check_n_workers(model.n_workers)
    n_workers = n_envs if model.n_workers is None else int(model.n_workers)
    if n_workers > n_envs:
        _check(False, "n_workers", n_workers, f"at most the number of environments, {n_envs}")
    for name in _OF_WORKERS:
        value = getattr(model, name)
        numbers = as_numbers(value)
        if isinstance(numbers, list):
            _check(len(numbers) == n_workers, name, value, f"a number, or {n_workers} of them: one per worker")
    one_step = model.n_steps == 1 and n_envs // n_workers == 1
    allowed = "False where a worker's rollout is a single step: n_steps is 1, and it has one environment"
    _check(not (model.normalize_advantage and one_step), "normalize_advantage", True, allowed)
    return n_workers


def check_learn(model: "A3C", total_timesteps: Any, log_interval: Any) -> None:
    """
    :param model: A model that is to learn
    :param total_timesteps: How many steps to learn from
    :param log_interval: Rollouts between two logs, None: no logs
    :raises ValueError: if it has no environment, one of these is not a number to count to, or an argument that was allowed
        when the model was made has been changed to a value that is not
    """
    check_arguments(model)
    buffer_size = model.rollout_buffer.buffer_size
    allowed = f"what it was when the model was made, {buffer_size}: the rollout buffer has so many steps"
    _check(model.n_steps == buffer_size, "n_steps", model.n_steps, allowed)
    _check(model.env is not None, "env", model.env, "given to load(), or with set_env(), before the model learns")
    _check(_is_finite(total_timesteps), "total_timesteps", total_timesteps, "a number")
    counts = log_interval is None or (_is_whole(log_interval) and log_interval >= 1)
    _check(counts, "log_interval", log_interval, "None or a whole number of at least 1")
    resolve_n_workers(model, model.n_envs)
    check_policy(model)


def check_hyperparameters(model: "A3C") -> None:
    """
    :param model: A model with its policy, in the midst of learning too: callbacks may change what workers compute with
    :raises ValueError: if a number is not one to compute with, or the policy has nothing to scale
    """
    _check_numbers(model)
    _check_std_scale(model)


def _check_std_scale(model: "A3C") -> None:
    if any(scale != 1 for scale in _each(model.std_scale)):
        log_std = getattr(model.policy, "log_std", None)
        has_own = isinstance(log_std, th.nn.Parameter) and log_std.requires_grad
        kind = f"{type(model.policy).__name__} for {model.action_space}"
        _check(has_own, "std_scale", model.std_scale, f"1.0 for a policy without a log_std to learn, as is this {kind}")


def _check_numbers(model: "A3C") -> None:
    for name in ("gamma", "gae_lambda"):
        value = getattr(model, name)
        _check(_is_finite(value) and 0 <= value <= 1, name, value, "a number from 0 to 1")
    _check(_is_finite(model.vf_coef), "vf_coef", model.vf_coef, "a number")
    norm, allowed = model.max_grad_norm, "a number above 0, or inf for gradients that are not clipped"
    _check(isinstance(norm, Real) and norm > 0, "max_grad_norm", norm, allowed)
    for name in _OF_WORKERS:
        value = getattr(model, name)
        _check(all(_is_finite(number) for number in _each(value)), name, value, "a number, or one per worker")
    _check(all(scale > 0 for scale in _each(model.std_scale)), "std_scale", model.std_scale, "above 0")


def _check_backend_kwargs(backend: str, backend_kwargs: Any) -> None:
    options = BACKENDS[backend].options
    if not options:
        _check(not backend_kwargs, "backend_kwargs", backend_kwargs, f"None: backend '{backend}' has no options")
    if not backend_kwargs:
        return
    named = isinstance(backend_kwargs, dict) and set(backend_kwargs) <= set(options)
    _check(named, "backend_kwargs", backend_kwargs, f"None, or a dict with some of {sorted(options)} for backend '{backend}'")
    for name, value in backend_kwargs.items():
        _check(options[name].accepts(value), f"backend_kwargs['{name}']", value, options[name].allowed)


def _check_learning_rate(name: str, value: Any) -> None:
    allowed = "a number of at least 0, or a function of the progress remaining that gives one"
    if value is None and name == "vf_learning_rate":
        return
    _check(isinstance(value, Real) or callable(value), name, value, allowed)
    first = FloatSchedule(value)(1.0)
    _check(_is_finite(first) and first >= 0, name, value if isinstance(value, Real) else first, allowed)


def _each(value: Any) -> list[Any]:
    """The numbers of an argument that has one for all workers, or one per worker."""
    numbers = as_numbers(value)
    return numbers if isinstance(numbers, list) else [numbers]


def _check_one_of(name: str, value: Any, names: Iterable[str]) -> None:
    _check(value in list(names), name, value, f"one of {sorted(names)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _check(allowed: bool, name: str, value: Any, allowed_values: str) -> None:
    if not allowed:
        raise ValueError(f"{name} must be {allowed_values}, but it is {value!r}")

"""A3C's arguments as they are at one moment, and their checks: an error names the argument, its value and what is allowed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, Self, get_args

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_a3c.backends import BACKENDS, RolloutOrder
from sb3_a3c.engines import ENGINES, choose_engine
from sb3_a3c.engines.hyperparameters import PerWorker, as_numbers
from sb3_a3c.envs.slices import units_of

#: Arguments that may have one value per worker.
_PER_WORKER = ("ent_coef", "std_scale")


@dataclass(frozen=True)
class Arguments:
    """
    The arguments of a model, with the names of A3C's constructor. Callbacks may change some of them while the model learns.

    :param vf_lr_schedule: The schedule made of ``vf_learning_rate``, None: the critic has no separate learning rate
    """

    n_steps: int
    learning_rate: float | Schedule
    gamma: float
    gae_lambda: float
    ent_coef: PerWorker
    vf_coef: float
    max_grad_norm: float
    normalize_advantage: bool
    sde_sample_freq: int
    device: th.device
    n_workers: int | None
    backend: str
    backend_kwargs: dict[str, Any] | None
    engine: str
    use_locking: bool
    rollout_order: RolloutOrder
    max_lead: int
    max_lead_bytes: int
    std_scale: PerWorker
    vf_learning_rate: float | Schedule | None
    vf_lr_schedule: Schedule | None

    @classmethod
    def of(cls, model: OnPolicyAlgorithm) -> Self:
        """
        :param model: A model of A3C, which has an attribute for each argument
        :return: Its arguments
        """
        return cls(*_read(model))

    def check(self) -> None:
        """
        Check each argument by itself.

        :raises ValueError: if an argument is not allowed
        """
        check_n_workers(self.n_workers)
        _check_one_of("backend", self.backend, BACKENDS)
        _check_one_of("engine", self.engine, ["auto", *ENGINES])
        _check_one_of("rollout_order", self.rollout_order, get_args(RolloutOrder))
        for name in ("max_lead", "max_lead_bytes"):
            value = getattr(self, name)
            check(is_whole(value) and value >= 0, name, value, "a whole number of at least 0")
        check(isinstance(self.use_locking, bool), "use_locking", self.use_locking, "True or False")
        _check_backend_kwargs(self.backend, self.backend_kwargs)
        check(is_whole(self.n_steps) and self.n_steps >= 1, "n_steps", self.n_steps, "a whole number of at least 1")
        self.check_hyperparameters()
        _check_learning_rate("learning_rate", self.learning_rate)
        if self.vf_learning_rate is not None:
            _check_learning_rate("vf_learning_rate", self.vf_learning_rate)

    def check_hyperparameters(self) -> None:
        """
        Check the numbers that workers compute with.

        :raises ValueError: if one of them is not allowed
        """
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            check(_is_finite(value) and 0 <= value <= 1, name, value, "a number from 0 to 1")
        check(_is_finite(self.vf_coef), "vf_coef", self.vf_coef, "a finite number")
        norm, allowed = self.max_grad_norm, "a number above 0, or inf for gradients that are not clipped"
        check(isinstance(norm, Real) and norm > 0, "max_grad_norm", norm, allowed)
        for name in _PER_WORKER:
            value = getattr(self, name)
            check(all(_is_finite(number) for number in _each(value)), name, value, "a finite number, or one per worker")
        check(all(scale > 0 for scale in _each(self.std_scale)), "std_scale", self.std_scale, "above 0")

    def check_policy(self, policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None) -> None:
        """
        :param policy: The policy of the model
        :param rollout_buffer_class: The class of its rollout buffers, None: SB3's
        :raises ValueError: if the engine can't compute the policy, or the policy has no standard deviation to scale
        """
        choose_engine(self.engine, policy, rollout_buffer_class)
        self.check_std_scale(policy)

    def check_std_scale(self, policy: ActorCriticPolicy) -> None:
        """
        :param policy: The policy of the model
        :raises ValueError: if the policy has no standard deviation to scale
        """
        if any(scale != 1 for scale in _each(self.std_scale)):
            log_std = getattr(policy, "log_std", None)
            has_own = isinstance(log_std, th.nn.Parameter) and log_std.requires_grad
            kind = f"{type(policy).__name__} for {policy.action_space}"
            check(has_own, "std_scale", self.std_scale, f"1.0, because this {kind} has no trainable log_std")

    def resolve_n_workers(self, env: VecEnv) -> int:
        """
        :param env: The environments
        :return: The number of workers
        :raises ValueError: if there are fewer environments (or batches of them) than workers, or an argument does not fit so
            many workers
        """
        check_n_workers(self.n_workers)
        n_envs, n_units = env.num_envs, len(units_of(env))
        n_workers = n_units if self.n_workers is None else int(self.n_workers)
        if n_workers > n_units:
            units = "environments" if n_units == n_envs else "batches of environments"
            allowed = f"at most the number of {units}, {n_units}"
            check(False, "n_workers", n_workers, f"{allowed} (for a loaded model, pass n_workers to load())")
        for name in _PER_WORKER:
            value = getattr(self, name)
            numbers = as_numbers(value)
            if isinstance(numbers, list):
                check(len(numbers) == n_workers, name, value, f"a number, or {n_workers} of them: one per worker")
        _check_one_of("backend", self.backend, BACKENDS)
        if n_workers > 1 and BACKENDS[self.backend].is_remote and self.device.type != "cpu":
            allowed = f"'cpu' with several workers and backend {self.backend!r}"
            check(False, "device", str(self.device), allowed)
        one_step = self.n_steps == 1 and n_envs // n_workers == 1
        allowed = "False where a worker's rollout is a single step: n_steps is 1, and it has one environment"
        check(not (self.normalize_advantage and one_step), "normalize_advantage", True, allowed)
        return n_workers


#: Reads all of them from a model. It is called for each rollout that a callback looks at.
_read = attrgetter(*(field.name for field in fields(Arguments)))


def check_n_workers(n_workers: Any) -> None:
    """
    :param n_workers: The number of workers that a user wants, None: one per environment
    :raises ValueError: if it is neither None nor a positive whole number
    """
    if n_workers is not None:
        check(is_whole(n_workers) and n_workers >= 1, "n_workers", n_workers, "None or a whole number of at least 1")


def check_learn(model: OnPolicyAlgorithm, total_timesteps: Any, log_interval: Any) -> None:
    """
    :param model: A model that is about to learn
    :param total_timesteps: The number of steps to learn from
    :param log_interval: Rollouts between two logs, None: no logs
    :raises ValueError: if the model has no environment, one of these is not allowed, or an argument has been changed to a
        value that is not allowed since the model was made
    """
    arguments = Arguments.of(model)
    arguments.check()
    buffer_size = model.rollout_buffer.buffer_size
    allowed = f"what it was when the model was made, {buffer_size}: the rollout buffer has that many steps"
    check(model.n_steps == buffer_size, "n_steps", model.n_steps, allowed)
    check(model.env is not None, "env", model.env, "given to load(), or with set_env(), before the model learns")
    check(_is_finite(total_timesteps), "total_timesteps", total_timesteps, "a number")
    counts = log_interval is None or (is_whole(log_interval) and log_interval >= 1)
    check(counts, "log_interval", log_interval, "None or a whole number of at least 1")
    assert model.env is not None
    arguments.resolve_n_workers(model.env)
    arguments.check_policy(model.policy, model.rollout_buffer_class)


def _check_backend_kwargs(backend: str, backend_kwargs: Any) -> None:
    options = BACKENDS[backend].options
    if backend_kwargs is None:
        return
    allowed = f"None, or a dict with some of {sorted(options)}" if options else "None, because there are no options"
    named = isinstance(backend_kwargs, dict) and set(backend_kwargs) <= set(options)
    check(named, "backend_kwargs", backend_kwargs, f"{allowed} for backend '{backend}'")
    for name, value in backend_kwargs.items():
        check(options[name].accepts(value), f"backend_kwargs['{name}']", value, options[name].allowed)


def _check_learning_rate(name: str, value: Any) -> None:
    allowed = "a number of at least 0, or a function of the progress remaining that gives one"
    check(isinstance(value, Real) or callable(value), name, value, allowed)
    try:
        first = FloatSchedule(value)(1.0)
    except Exception as error:
        raise ValueError(f"{name} must be {allowed}, but {value!r} raises {type(error).__name__}: {error}") from error
    check(_is_finite(first) and first >= 0, name, value if isinstance(value, Real) else first, allowed)


def _each(value: Any) -> list[Any]:
    """The numbers of an argument that has one for all workers, or one per worker."""
    numbers = as_numbers(value)
    return numbers if isinstance(numbers, list) else [numbers]


def _check_one_of(name: str, value: Any, names: Iterable[str]) -> None:
    check(value in list(names), name, value, f"one of {sorted(names)}")


def is_whole(value: Any) -> bool:
    """
    :param value: The value of an argument
    :return: Whether it is a whole number, and not True or False
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def check(allowed: bool, name: str, value: Any, allowed_values: str) -> None:
    """
    :param allowed: Whether the value is allowed
    :param name: The name of an argument
    :param value: Its value
    :param allowed_values: The allowed values, in words
    :raises ValueError: if it is not allowed
    """
    if not allowed:
        raise ValueError(f"{name} must be {allowed_values}, but it is {value!r}")

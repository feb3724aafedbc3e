"""The terms of a run: everything but the order of updates that its result depends on. A replay must have the same."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import StackedObservations, VecEnv

from sb3_a3c.engines import State
from sb3_a3c.engines.hyperparameters import as_numbers
from sb3_a3c.envs.declarations import gym_layers_of, layers_of
from sb3_a3c.envs.normalization import moments_of, running_statistics
from sb3_a3c.envs.state import read_state

#: Attributes of a model that are numbers, and are compared by value.
_ATTRIBUTES = (
    "n_steps",
    "rollout_order",
    "seed",
    "num_timesteps",
    "gamma",
    "gae_lambda",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "normalize_advantage",
    "use_sde",
    "sde_sample_freq",
    "std_scale",
)
_LIBRARIES = (th, np, sb3, gym)
#: State of wrappers that later steps do not depend on.
_PAST = ("reset_infos", "old_obs", "old_reward")
#: Numbers of wrappers that results do not depend on.
_COUNTERS = ("t_start", "episode_count", "num_envs")
#: Values of the progress remaining at which schedules of learning rates are compared.
_PROGRESS = np.linspace(1.0, 0.0, 101).tolist()

_EXPLAINED = {
    "n_rollouts": "total_timesteps of learn() make {} rollouts, and made {}",
    "num_timesteps": "the model has learned {} steps before, and had {}",
    "torch_threads": "torch computes with {} threads, and did with {}",
    "versions": "the versions are {}, and were {}",
}
_DIFFERENT = {
    "learning_rate": "learning_rate is another schedule",
    "vf_learning_rate": "vf_learning_rate is another schedule",
    "policy": "its policy is of another class, or made with other policy_kwargs",
    "parameters": "its parameters are not those that the recorded run began with",
    "optimizer_statistics": "the statistics of its optimizer are not those that the recorded run began with",
    "environments": "its environments are of other classes, or in other wrappers",
    "environment_arguments": "its environments are made with other arguments",
    "environment_generators": "the random generators of its environments are in another state (their seed is another one)",
    "wrapper_options": "a wrapper of its environments has other options",
    "wrapper_state": "what wrappers of its environments hold (VecNormalize its statistics and returns) differs",
    "observations": "its environments' observations are not those that the recorded run began with",
    "hidden_state": "the hidden state of its policy is not that with which the recorded run began",
    "generators": "its random generators are in another state",
}


@dataclass(frozen=True)
class Terms:
    """
    What a replay must have in common with the recorded run.

    :param values: Values to show to the user, by name
    :param checksums: Checksums of everything else, by name. None: unknown
    """

    values: dict[str, Any]
    checksums: dict[str, int | None]

    def differences(self, recorded: "Terms") -> list[str]:
        """
        :param recorded: The terms of the recorded run
        :return: A message for each difference. Different values cause different checksums, so then only values are named
        """
        pairs = [(name, self.values.get(name), recorded.values.get(name)) for name in {**self.values, **recorded.values}]
        values = [
            _EXPLAINED.get(name, f"{name} is {{}}, and was {{}}").format(mine, theirs)
            for name, mine, theirs in pairs
            if mine != theirs
        ]
        sums = [(name, mine, recorded.checksums.get(name)) for name, mine in self.checksums.items()]
        return values or [
            _DIFFERENT[name] for name, mine, theirs in sums if mine is not None and theirs is not None and mine != theirs
        ]


def terms_of(
    model: OnPolicyAlgorithm,
    vf_lr_schedule: Schedule | None,
    n_workers: int,
    n_rollouts: int,
    engine: str,
    seed: np.random.SeedSequence | None,
) -> Terms:
    """
    :param model: A model that is about to learn
    :param vf_lr_schedule: The learning rate of the critic, None: it has no separate one
    :param n_workers: The number of workers
    :param n_rollouts: The number of rollouts of all environments
    :param engine: Name of the engine
    :param seed: Seed of the first worker, None: it uses the global generators
    :return: The terms of its run
    """
    env, policy = model.env, model.policy
    assert env is not None
    optimizer = policy.optimizer
    wrappers = layers_of(env)[:-1]
    assert model.rollout_buffer_class is not None
    values = {
        "n_workers": n_workers,
        "n_envs": env.num_envs,
        "n_rollouts": n_rollouts,
        "total_timesteps": model._total_timesteps,
        "engine": engine,
        "device": str(model.device),
        "torch_threads": th.get_num_threads() if n_workers == 1 else 1,
        **{name: as_numbers(getattr(model, name)) for name in _ATTRIBUTES},
        "learning_rate": _described(model.lr_schedule),
        "vf_learning_rate": None if vf_lr_schedule is None else _described(vf_lr_schedule),
        "optimizer": type(optimizer).__qualname__,
        "optimizer_options": str([_options(group) for group in optimizer.param_groups]),
        "rollout_buffer_class": model.rollout_buffer_class.__qualname__,
        "wrappers": [type(wrapper).__qualname__ for wrapper in wrappers],
        "versions": ", ".join(f"{library.__name__} {library.__version__}" for library in _LIBRARIES),
    }
    parts = {
        "learning_rate": _sampled(model.lr_schedule),
        "vf_learning_rate": _sampled(vf_lr_schedule),
        "policy": _structure(policy),
        "parameters": policy.state_dict(),
        "optimizer_statistics": optimizer.state_dict()["state"],
        "environments": _classes(env),
        "environment_arguments": _arguments(env),
        "environment_generators": env.get_attr("np_random") if env.has_attr("np_random") else None,
        "wrapper_options": [_numbers(wrapper) for wrapper in wrappers],
        "wrapper_state": [
            [{name: part for name, part in layer.items() if name not in _PAST} for layer in read_state(env)],
            [moments_of(rms) for rms in running_statistics(env)],
        ],
        "observations": [model._last_obs, model._last_episode_starts],
        "hidden_state": hidden_state(model),
        "generators": _global_generators(model.device) if seed is None else [seed.entropy, seed.spawn_key],
    }
    return Terms(values, {name: None if part is None else checksum(part) for name, part in parts.items()})


def hidden_state(model: OnPolicyAlgorithm) -> State | None:
    """
    :param model: A model that is about to learn
    :return: The hidden state of its recurrent policy, of each environment. None: it begins anew
    """
    starts = model._last_episode_starts
    return None if starts is None or starts.all() else model._last_states  # type: ignore[attr-defined]


def _global_generators(device: th.device) -> list[Any]:
    states = [np.random.get_state(legacy=False), th.get_rng_state()]
    return [*states, th.cuda.get_rng_state(device)] if device.type == "cuda" else states


def checksum(value: Any) -> int:
    """
    :param value: Arrays, tensors, generators, numbers and strings, also in lists and dicts. Other objects count by their class
    :return: A checksum of all of them
    """
    crc = 0
    for content in _contents(value):
        crc = zlib.crc32(content, crc)
    return crc


def _contents(value: Any) -> Iterator[bytes]:
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, th.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype is th.bfloat16 else value).numpy()
    elif isinstance(value, np.random.Generator):
        value = value.bit_generator.state
    elif isinstance(value, StackedObservations):
        value = {name: part for name, part in vars(value).items() if "stacked" in name}
    if isinstance(value, dict):
        value = [[name, value[name]] for name in sorted(value, key=str)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, list | tuple | np.ndarray):
        yield f"{len(value)} parts".encode()
        for part in value:
            yield from _contents(part)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        yield repr(value).encode()
    else:
        yield type(value).__qualname__.encode()


def _described(schedule: Callable[[float], float]) -> str:
    first, last = _sampled(schedule)[0], _sampled(schedule)[-1]
    return str(first) if first == last else f"a schedule from {first} to {last}"


def _sampled(schedule: Callable[[float], float] | None) -> Any:
    return schedule and [float(schedule(progress_remaining)) for progress_remaining in _PROGRESS]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """All options but the learning rate, which changes with each step."""
    return {name: option for name, option in sorted(group.items()) if name not in ("params", "lr", "initial_lr")}


def _structure(policy: ActorCriticPolicy) -> list[Any]:
    trainable = [name for name, param in policy.named_parameters() if param.requires_grad]
    numbers = _numbers(policy)
    numbers.pop("training")  # it changes with each rollout
    return [type(policy).__qualname__, repr(policy), trainable, numbers]


def _numbers(thing: Any) -> dict[str, Any]:
    """Its attributes that are plain numbers."""
    named = vars(thing).items()
    return {name: value for name, value in named if isinstance(value, bool | int | float) and name not in _COUNTERS}


def _environments(env: VecEnv) -> list[gym.Env]:
    """The environments in this process."""
    return vars(env.unwrapped).get("envs", [])


def _classes(env: VecEnv) -> list[str] | None:
    """The classes of the environments with their wrappers, each once. None: unknown."""
    chains = [[type(layer).__qualname__ for layer in gym_layers_of(one)] for one in _environments(env)]
    return list(dict.fromkeys(map(" of ".join, chains))) or None


def _arguments(env: VecEnv) -> Any:
    specs = [getattr(one.unwrapped, "spec", None) for one in _environments(env)]
    return [spec and [spec.id, spec.max_episode_steps, spec.kwargs] for spec in specs] or None

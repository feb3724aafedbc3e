"""All runs of a comparison, each with its settings, checked as far as can be before anything runs."""

import json
import os
from dataclasses import dataclass

import gymnasium as gym

from sb3_a3c.a3c import A3C
from sb3_a3c.comparison.algorithms import find_algorithm
from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.faults import BadArgument, check
from sb3_a3c.comparison.run import RunSpec
from sb3_a3c.comparison.settings import Settings, complete, make_env, make_model, read_settings

#: Evaluations of a run, where a user does not say how often. Out of the air: enough points for a curve.
_N_EVALUATIONS = 30


@dataclass(frozen=True)
class Plan:
    """
    :param arguments: What the user asked for
    :param specs: All runs, in the order in which they are made: a seed of every algorithm before the next seed, so that
        what changes on the machine meanwhile does not fall on one algorithm alone
    :param threshold: A return to reach, None: none
    """

    arguments: Arguments
    specs: list[RunSpec]
    threshold: float | None


def make_plan(arguments: Arguments) -> Plan:
    """
    :param arguments: What the user asks for
    :return: The plan
    :raises BadArgument: if something is not allowed, or an algorithm can't be made with its settings
    """
    arguments.check()
    reward_threshold = _check_env(arguments.env)
    specs = [spec for algo in arguments.algos for spec in _specs_of(algo, arguments)]
    specs.sort(key=lambda spec: spec.seed)
    return Plan(arguments, specs, reward_threshold if arguments.threshold is None else float(arguments.threshold))


def rehearse(plan: Plan) -> None:
    """
    Let A3C compile its kernels, which it does once on a machine, so that no run's clock counts it.

    :param plan: The plan
    """
    for spec in plan.specs:
        if spec.seed == 0 and issubclass(find_algorithm(spec.algorithm), A3C):
            env = make_env(spec.env, spec.settings, spec.settings["n_envs"], seed=0)
            make_model(spec.algorithm, env, spec.settings, seed=0).learn(1)
            env.close()


def _check_env(env: str) -> float | None:
    """Returns the threshold that gymnasium knows."""
    try:
        made = gym.make(env)
    except Exception as error:  # of any kind: what environments raise where a library is missing
        raise BadArgument(
            f"env must be the id of an environment that gymnasium can make, but {env!r} is not: {error}"
        ) from error
    made.close()
    return None if made.spec is None else made.spec.reward_threshold


def _specs_of(algo: str, arguments: Arguments) -> list[RunSpec]:
    path = arguments.settings.get(algo)
    settings = {} if path is None else read_settings(path, arguments.env)
    settings = _plain(algo, complete(settings, algo, arguments.env, arguments.n_envs))
    timesteps = _timesteps(algo, arguments, settings)
    interval = arguments.eval_interval or max(timesteps // _N_EVALUATIONS, 1)
    check(interval <= timesteps, "eval_interval", interval, f"at most the steps of a run, {timesteps}")
    _check_model(algo, arguments, settings)
    n_eval_episodes, num_threads = arguments.n_eval_episodes, arguments.num_threads
    return [
        RunSpec(arguments.env, algo, seed, timesteps, settings, interval, n_eval_episodes, num_threads)
        for seed in range(arguments.seeds)
    ]


def _timesteps(algo: str, arguments: Arguments, settings: Settings) -> int:
    if arguments.timesteps is not None:
        return arguments.timesteps
    found = settings.get("n_timesteps")
    if found is None:
        raise BadArgument(f"timesteps must be given, for there are no settings of {algo} with n_timesteps")
    check(
        isinstance(found, int | float) and found >= 1,
        f"n_timesteps in the settings of {algo}",
        found,
        "a number of at least 1",
    )
    return int(found)


def _check_model(algo: str, arguments: Arguments, settings: Settings) -> None:
    path = arguments.settings.get(algo)
    source = "its defaults" if path is None else f"the settings in {os.fspath(path)!r}"
    try:
        env = make_env(arguments.env, settings, settings["n_envs"], seed=0)
        make_model(algo, env, settings, seed=0)
        env.close()
    except Exception as error:  # of any kind: SB3 asserts, torch has its own
        raise BadArgument(f"{algo} can't be made for {arguments.env!r} with {source}: {error}") from error


def _plain(algo: str, settings: Settings) -> Settings:
    """As they come back from a file, so that they can be compared with those of a finished run."""
    try:
        return json.loads(json.dumps(settings))
    except TypeError as error:
        raise BadArgument(f"settings of {algo} must be numbers, text, lists and dicts: {error}") from error

"""All runs of a comparison with their settings, checked as far as possible before anything runs."""

import os
from collections.abc import Sequence

import gymnasium as gym
from stable_baselines3.common.preprocessing import is_image_space

from sb3_a3c.a3c import A3C
from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.errors import BadArgument, check
from sb3_a3c.comparison.run import RunSpec
from sb3_a3c.comparison.settings import Settings, check_settings, find_algorithm, make_env, make_model, read_settings

#: Evaluations per run if the user sets no interval. Chosen arbitrarily: enough points for a curve.
_N_EVALUATIONS = 30


def make_specs(arguments: Arguments) -> list[RunSpec]:
    """
    :return: All runs in order: one seed of every algorithm before the next seed, so that a change in the machine's speed does
        not fall on one algorithm alone
    :raises BadArgument: if a model can't be made with its settings
    """
    specs = [spec for algo in arguments.algos for spec in _specs_of(algo, arguments)]
    return sorted(specs, key=lambda spec: spec.seed)


def find_threshold(arguments: Arguments) -> float | None:
    """
    :return: The user's threshold, or the one that gymnasium knows, if there is one
    :raises BadArgument: if the environment can't be made
    """
    try:
        env = gym.make(arguments.env)
    except Exception as error:  # any type: a library that the environment needs may be missing
        allowed = "the id of an environment that gymnasium can make"
        raise BadArgument(f"env must be {allowed}, but {arguments.env!r} is not: {error}") from error
    env.close()
    if arguments.threshold is not None:
        return float(arguments.threshold)
    return None if env.spec is None else env.spec.reward_threshold


def compile_kernels(specs: Sequence[RunSpec]) -> None:
    """Let A3C compile its kernels, which happens once per machine, so that no run's clock includes it."""
    for spec in specs:
        if spec.seed == 0 and issubclass(find_algorithm(spec.algorithm), A3C):
            env = make_env(spec.env, spec.settings, spec.settings["n_envs"], seed=0)
            make_model(spec.algorithm, env, spec.settings, seed=0).learn(1)
            env.close()


def _specs_of(algo: str, arguments: Arguments) -> list[RunSpec]:
    path = arguments.settings.get(algo)
    settings = {"n_envs": arguments.n_envs} | ({} if path is None else read_settings(path, arguments.env))
    check_settings(settings, algo)
    timesteps = _timesteps(algo, arguments, settings)
    interval = arguments.eval_interval or max(timesteps // _N_EVALUATIONS, 1)
    check(interval <= timesteps, "eval_interval", interval, f"at most the steps of a run, {timesteps}")
    try:
        env = make_env(arguments.env, settings, settings["n_envs"], seed=0)
        settings.setdefault("policy", _policy_for(env.observation_space))
        make_model(algo, env, settings, seed=0)
        env.close()
    except Exception as error:  # any type: SB3 uses assertions, torch its own errors
        source = "its defaults" if path is None else f"the settings in {os.fspath(path)!r}"
        raise BadArgument(f"{algo} can't be made for {arguments.env!r} with {source}: {error}") from error
    constant = (timesteps, settings, interval, arguments.n_eval_episodes, arguments.num_threads)
    return [RunSpec(arguments.env, algo, seed, *constant) for seed in range(arguments.seeds)]


def _timesteps(algo: str, arguments: Arguments, settings: Settings) -> int:
    if arguments.timesteps is not None:
        return arguments.timesteps
    found = settings.get("n_timesteps")
    if found is None:
        raise BadArgument(f"timesteps must be given, because {algo} has no settings with n_timesteps")
    is_count = isinstance(found, int | float) and found >= 1
    check(is_count, f"n_timesteps in the settings of {algo}", found, "a number of at least 1")
    return int(found)


def _policy_for(observation_space: gym.Space) -> str:
    if isinstance(observation_space, gym.spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(observation_space) else "MlpPolicy"

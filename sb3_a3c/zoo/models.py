"""A model with settings that are known to work, for an environment id."""

from pathlib import Path
from typing import Any

from sb3_a3c.a3c import A3C
from sb3_a3c.comparison.errors import check
from sb3_a3c.comparison.settings import check_settings, make_env, make_model, read_settings

#: A3C's settings in rl-zoo3's form.
SETTINGS = Path(__file__).with_name("a3c.yml")


def make(env_id: str, seed: int = 0, **changes: Any) -> A3C:
    """
    Make a model and its environments with the settings of ``sb3_a3c/zoo/a3c.yml``::

        model = zoo.make("Pendulum-v1")
        model.learn(150_000)

    :param env_id: The id of an environment that has settings
    :param seed: Seed of the model, and of the first environment
    :param changes: Settings to replace, such as ``n_envs=16``
    :return: The model
    :raises BadArgument: (a ValueError) if there are no settings for the environment, or if one of ``changes`` is not allowed
    """
    check(isinstance(env_id, str), "env_id", env_id, "the id of an environment")
    check(isinstance(seed, int), "seed", seed, "a whole number")
    settings = read_settings(SETTINGS, env_id) | changes
    check_settings(settings, "a3c")
    model = make_model("a3c", make_env(env_id, settings, settings["n_envs"], seed), settings, seed)
    assert isinstance(model, A3C)
    return model

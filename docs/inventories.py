"""
Inventories of other projects' names, for links to their documentation.

Sphinx can link to another project if it has the project's inventory, which it usually downloads. Here the inventories are made
from the short list below when the documentation is built, so the build needs no network, and no link appears or breaks because
a host does not answer. A new name is added below, with the page that documents it. ``tests/test_docs.py`` checks that
each name exists in the installed version of its project.
"""

import zlib
from pathlib import Path

_CLASS, _FUNCTION, _EXCEPTION, _MODULE = "py:class", "py:function", "py:exception", "py:module"

#: For each project: where its documentation is; for each of its pages and each role: the names.
NAMES: dict[str, tuple[str, dict[str, dict[str, list[str]]]]] = {
    "stable_baselines3": (
        "https://stable-baselines3.readthedocs.io/en/master/",
        {
            "modules/a2c.html": {
                _CLASS: [
                    "stable_baselines3.a2c.A2C",
                    "stable_baselines3.common.policies.ActorCriticPolicy",
                    "stable_baselines3.common.policies.ActorCriticCnnPolicy",
                    "stable_baselines3.common.policies.MultiInputActorCriticPolicy",
                ]
            },
            "modules/ppo.html": {_CLASS: ["stable_baselines3.ppo.PPO"]},
            "modules/base.html": {
                _CLASS: [
                    "stable_baselines3.common.base_class.BaseAlgorithm",
                    "stable_baselines3.common.on_policy_algorithm.OnPolicyAlgorithm",
                ]
            },
            "guide/vec_envs.html": {
                _CLASS: [
                    "stable_baselines3.common.vec_env.VecEnv",
                    "stable_baselines3.common.vec_env.DummyVecEnv",
                    "stable_baselines3.common.vec_env.SubprocVecEnv",
                    "stable_baselines3.common.vec_env.VecNormalize",
                    "stable_baselines3.common.vec_env.VecFrameStack",
                    "stable_baselines3.common.vec_env.VecMonitor",
                    "stable_baselines3.common.vec_env.VecCheckNan",
                    "stable_baselines3.common.vec_env.VecTransposeImage",
                    "stable_baselines3.common.vec_env.VecExtractDictObs",
                    "stable_baselines3.common.vec_env.VecVideoRecorder",
                ]
            },
            "guide/callbacks.html": {
                _CLASS: [
                    "stable_baselines3.common.callbacks.BaseCallback",
                    "stable_baselines3.common.callbacks.CheckpointCallback",
                    "stable_baselines3.common.callbacks.EvalCallback",
                    "stable_baselines3.common.callbacks.ProgressBarCallback",
                ]
            },
            "common/env_util.html": {_FUNCTION: ["stable_baselines3.common.env_util.make_vec_env"]},
            "common/evaluation.html": {_FUNCTION: ["stable_baselines3.common.evaluation.evaluate_policy"]},
            "common/logger.html": {_CLASS: ["stable_baselines3.common.logger.Logger"]},
            "common/monitor.html": {_CLASS: ["stable_baselines3.common.monitor.Monitor"]},
        },
    ),
    "gymnasium": (
        "https://gymnasium.farama.org/",
        {
            "api/env/": {_CLASS: ["gymnasium.Env"]},
            "api/registry/": {_FUNCTION: ["gymnasium.make", "gymnasium.make_vec"]},
            "api/spaces/fundamental/": {
                _CLASS: [
                    "gymnasium.spaces.Box",
                    "gymnasium.spaces.Discrete",
                    "gymnasium.spaces.MultiBinary",
                    "gymnasium.spaces.MultiDiscrete",
                ]
            },
            "api/spaces/composite/": {_CLASS: ["gymnasium.spaces.Dict", "gymnasium.spaces.Tuple"]},
            "api/spaces/": {_CLASS: ["gymnasium.spaces.Space"]},
            "api/vector/": {_CLASS: ["gymnasium.vector.VectorEnv"]},
        },
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {
            "tensors.html": {_CLASS: ["torch.Tensor"]},
            "tensor_attributes.html": {_CLASS: ["torch.device"]},
            "optim.html": {_CLASS: ["torch.optim.Optimizer"]},
            "generated/torch.nn.Module.html": {_CLASS: ["torch.nn.Module"]},
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {"reference/generated/numpy.ndarray.html": {_CLASS: ["numpy.ndarray"]}},
    ),
    "python": (
        "https://docs.python.org/3/",
        {
            "library/functions.html": {_CLASS: ["bool", "float", "int", "object"]},
            "library/stdtypes.html": {_CLASS: ["bytes", "dict", "list", "str", "tuple"]},
            "library/exceptions.html": {
                _EXCEPTION: [
                    "ArithmeticError",
                    "Exception",
                    "ImportError",
                    "KeyboardInterrupt",
                    "RuntimeError",
                    "TypeError",
                    "ValueError",
                ]
            },
            "library/collections.html": {_CLASS: ["collections.deque"]},
            "library/collections.abc.html": {
                _CLASS: [
                    "collections.abc.Callable",
                    "collections.abc.Iterable",
                    "collections.abc.Iterator",
                    "collections.abc.Mapping",
                    "collections.abc.Sequence",
                ]
            },
            "library/io.html": {_CLASS: ["io.BufferedIOBase"]},
            "library/os.html": {_CLASS: ["os.PathLike"]},
            "library/pathlib.html": {_CLASS: ["pathlib.Path"]},
        },
    ),
}

#: Where a name that annotations have is documented under another one.
ALIASES = {
    "stable_baselines3": {
        "stable_baselines3.A2C": "stable_baselines3.a2c.A2C",
        "stable_baselines3.PPO": "stable_baselines3.ppo.PPO",
        "stable_baselines3.common.vec_env.base_vec_env.VecEnv": "stable_baselines3.common.vec_env.VecEnv",
        "stable_baselines3.common.vec_env.vec_normalize.VecNormalize": "stable_baselines3.common.vec_env.VecNormalize",
    },
    "gymnasium": {
        "gymnasium.core.Env": "gymnasium.Env",
        "gymnasium.spaces.space.Space": "gymnasium.spaces.Space",
        "gymnasium.vector.vector_env.VectorEnv": "gymnasium.vector.VectorEnv",
    },
    "torch": {
        "torch.nn.modules.module.Module": "torch.nn.Module",
        "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    },
}


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """
    :param folder: Where to write one ``.inv`` file per project
    :return: Sphinx's ``intersphinx_mapping``
    """
    folder.mkdir(parents=True, exist_ok=True)
    for project in NAMES:
        (folder / f"{project}.inv").write_bytes(_inventory(project))
    return {project: (url, str(folder / f"{project}.inv")) for project, (url, _) in NAMES.items()}


def _inventory(project: str) -> bytes:
    """Version 2 of the format: a line per name, with its role, priority, address and title, compressed."""
    addresses = {
        name: (role, f"{page}#{name}")
        for page, roles in NAMES[project][1].items()
        for role, names in roles.items()
        for name in names
    }
    addresses |= {alias: addresses[name] for alias, name in ALIASES.get(project, {}).items()}
    lines = [f"{name} {role} 1 {address} -\n" for name, (role, address) in sorted(addresses.items())]
    head = [
        "# Sphinx inventory version 2",
        f"# Project: {project}",
        "# Version:",
        "# The remainder of this file is compressed using zlib.",
    ]
    return "".join(f"{line}\n" for line in head).encode() + zlib.compress("".join(lines).encode())

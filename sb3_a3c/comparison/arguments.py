"""What a user asks for, checked without looking further than the arguments themselves."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from sb3_a3c.comparison.algorithms import find_algorithm
from sb3_a3c.comparison.faults import check

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Arguments:
    """
    :param env: The id of an environment that gymnasium knows, ``module:Id`` to have a module imported that registers it
    :param algos: Names of algorithms: ``a3c``, ``a2c``, ``ppo``, or ``module:Class`` for another of Stable-Baselines3's kind
    :param seeds: How often each learns, with the seeds 0, 1, ...
    :param timesteps: Steps of a run. ``None``: each algorithm's ``n_timesteps`` in its settings
    :param out: The folder for runs, tables and reports. What is finished there is not done again
    :param settings: A file in rl-zoo3's form for some algorithms, by name; the others have their defaults
    :param n_envs: Environments of each algorithm, unless its settings give another number
    :param threshold: A return to reach. ``None``: the one that gymnasium knows, if it does
    :param eval_interval: Steps between two evaluations. ``None``: a thirtieth of the run
    :param n_eval_episodes: Episodes of an evaluation
    :param num_threads: Threads that torch may use; for small networks one is fastest
    :param jobs: Runs made at once. More than one disturb each other's clock
    """

    env: str
    algos: Sequence[str] = ("a3c", "a2c", "ppo")
    seeds: int = 5
    timesteps: int | None = None
    out: PathLike = "runs/comparison"
    settings: Mapping[str, PathLike] = field(default_factory=dict)
    n_envs: int = 8
    threshold: float | None = None
    eval_interval: int | None = None
    n_eval_episodes: int = 10
    num_threads: int = 1
    jobs: int = 1

    def check(self) -> None:
        """
        :raises BadArgument: if one of them is of a kind or value that is not allowed
        """
        for name in ("seeds", "timesteps", "n_envs", "eval_interval", "n_eval_episodes", "num_threads", "jobs"):
            value = getattr(self, name)
            if value is not None or name not in ("timesteps", "eval_interval"):
                whole = isinstance(value, Integral) and not isinstance(value, bool)
                check(whole and value >= 1, name, value, "a whole number of at least 1")
        finite = self.threshold is None or (isinstance(self.threshold, Real) and math.isfinite(self.threshold))
        check(finite, "threshold", self.threshold, "a finite number, or None for the one that gymnasium knows")
        check(not isinstance(self.algos, str) and len(self.algos) >= 1, "algos", self.algos, "a list of at least one name")
        check(len(set(self.algos)) == len(self.algos), "algos", list(self.algos), "names of which none comes twice")
        for algo in self.algos:
            find_algorithm(algo)
        for algo in self.settings:
            check(algo in self.algos, "settings", algo, f"for one of the algorithms compared, {list(self.algos)}")

    def command(self) -> str:
        """
        :return: What to type to get the same
        """
        words: list[Any] = ["python", "-m", "sb3_a3c.compare"]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "settings":
                value = [f"{algo}={os.fspath(path)}" for algo, path in value.items()]
            if option.name in ("env", "algos", "seeds", "out") or (value and value != option.default):
                words += [f"--{option.name.replace('_', '-')}", *(value if isinstance(value, list | tuple) else [value])]
        return shlex.join(map(str, words))

"""The arguments of a comparison, and checks that need nothing but them."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from sb3_a3c.comparison.errors import check
from sb3_a3c.comparison.settings import find_algorithm

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Arguments:
    """See :func:`sb3_a3c.compare.compare`."""

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
        """Raise :class:`BadArgument` if an argument has a type or value that is not allowed."""
        for name in ("seeds", "timesteps", "n_envs", "eval_interval", "n_eval_episodes", "num_threads", "jobs"):
            value = getattr(self, name)
            is_integer = isinstance(value, Integral) and not isinstance(value, bool)
            is_optional = name in ("timesteps", "eval_interval")
            check((is_optional and value is None) or (is_integer and value >= 1), name, value, "an integer of at least 1")
        is_finite = self.threshold is None or (isinstance(self.threshold, Real) and math.isfinite(self.threshold))
        check(is_finite, "threshold", self.threshold, "a finite number, or None for the one that gymnasium knows")
        check(not isinstance(self.algos, str) and len(self.algos) >= 1, "algos", self.algos, "a list of at least one name")
        check(len(set(self.algos)) == len(self.algos), "algos", list(self.algos), "a list without repetitions")
        for algo in self.algos:
            find_algorithm(algo)
        for algo in self.settings:
            check(algo in self.algos, "settings", algo, f"for one of the compared algorithms, {list(self.algos)}")

    def command(self) -> str:
        """Return the command line with the same arguments."""
        words: list[Any] = ["python", "-m", "sb3_a3c.compare"]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "settings":
                value = [f"{algo}={os.fspath(path)}" for algo, path in value.items()]
            if option.name in ("env", "algos", "seeds", "out") or (value and value != option.default):
                words += [f"--{option.name.replace('_', '-')}", *(value if isinstance(value, list | tuple) else [value])]
        return shlex.join(map(str, words))

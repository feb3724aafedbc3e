"""
Environments with uneven step times, which record their times.

Times come in blocks of fifty: fifty quantiles of the distribution, in an order that each environment draws from its own seeded
generator. So no environment is slower than another by chance, which would show in runs as short as these. The last case has
one environment that is always slower. Episodes have 50 steps, and their starts are spread evenly over the environments, as in
the middle of a long run.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from sb3_a3c.backends import RolloutOrder

N_ENVS = 8
N_STEPS = 5
EPISODE_STEPS = 50
MEAN_SECONDS = 0.002
RESET_SECONDS = 0.1


@dataclass(frozen=True)
class Case:
    """
    One way to take unevenly long.

    :param title: What to call it
    :param step_seconds: A block of the seconds that steps take, of shape ``(EPISODE_STEPS,)``
    :param reset_seconds: Seconds that a reset takes
    :param slowness: How many times longer the first environment takes
    :param rollout_order: A3C's argument
    """

    title: str
    step_seconds: np.ndarray
    reset_seconds: float = 0.0
    slowness: float = 1.0
    rollout_order: RolloutOrder = "env"

    def times(self, index: int, seed: int) -> "Times":
        """
        :param index: Which environment
        :param seed: With the index, the seed of its generator
        :return: The seconds that it takes
        """
        return Times(self, index, seed)

    def rates(self, seed: int) -> tuple[float, float]:
        """
        :param seed: The seed of the environments' generators
        :return: Steps/s of all environments by the times drawn: if nobody waits, and if all wait for the slowest
        """
        times = np.array(
            [[step + (reset or 0.0) for step, reset in islice(self.times(i, seed), 10 * EPISODE_STEPS)] for i in range(N_ENVS)]
        )
        return float((1.0 / times.mean(axis=1)).sum()), float(N_ENVS / times.max(axis=0).mean())


class Times(Iterator[tuple[float, float | None]]):
    """
    Seconds of each step; and of the reset after it, None: the episode goes on. An object that goes to another process with
    its environment, and back.

    :param case: The case
    :param index: Which environment
    :param seed: With the index, the seed of its generator
    """

    def __init__(self, case: Case, index: int, seed: int) -> None:
        self._case = case
        self._factor = case.slowness if index == 0 else 1.0
        self._rng = np.random.default_rng([seed, index])
        self._block: list[float] = []
        self._n_steps = index * EPISODE_STEPS // N_ENVS

    def __next__(self) -> tuple[float, float | None]:
        if not self._block:
            self._block = self._rng.permutation(self._case.step_seconds).tolist()
        self._n_steps += 1
        ends = self._n_steps % EPISODE_STEPS == 0
        return self._factor * self._block.pop(), self._factor * self._case.reset_seconds if ends else None


def _pareto_seconds(alpha: float) -> np.ndarray:
    """Quantiles of a Pareto distribution, which for ``alpha`` below 2 has no variance, scaled to the mean."""
    quantiles = (1.0 - (np.arange(EPISODE_STEPS) + 0.5) / EPISODE_STEPS) ** (-1.0 / alpha)
    return quantiles * MEAN_SECONDS / quantiles.mean()


CASES = {
    "even": Case("even", np.full(EPISODE_STEPS, MEAN_SECONDS)),
    "heavy": Case("heavy tails", _pareto_seconds(1.5)),
    "resets": Case("slow resets", np.full(EPISODE_STEPS, MEAN_SECONDS), reset_seconds=RESET_SECONDS),
    "slow": Case("one ten times slower", np.full(EPISODE_STEPS, MEAN_SECONDS), slowness=10.0, rollout_order="arrival"),
}


class Call(NamedTuple):
    """
    A call of an environment.

    :param is_step: Whether of ``step``, and not of ``reset``
    :param drawn_seconds: How long it should have taken
    :param began: When it began, by the machine's monotonic clock
    :param ended: When it ended
    """

    is_step: bool
    drawn_seconds: float
    began: float
    ended: float


class UnevenEnv(gym.Env):
    """
    Noise to see and a coin to guess: all that matters is how long it takes.

    :param index: Which of the environments it is
    """

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, index: int) -> None:
        self._index = index
        self.play("even", 0)

    def play(self, case: str, seed: int) -> None:
        """
        Begin anew to take time, and to measure it; the episode goes on.

        :param case: A key of ``CASES``
        :param seed: The seed of all environments
        """
        self._times = CASES[case].times(self._index, seed)
        self._rng = np.random.default_rng([seed, self._index, 1])
        self._reset_seconds: float | None = None
        self._calls: list[tuple[bool, float, float, float]] = []

    def read_calls(self) -> list[tuple[bool, float, float, float]]:
        """:return: The fields of each :class:`Call`, as plain numbers that any process can unpickle"""
        return self._calls

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._take_time(False, self._reset_seconds or 0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seconds, self._reset_seconds = next(self._times)
        obs = self._take_time(True, seconds)
        return obs, float(action == self._rng.integers(2)), self._reset_seconds is not None, False, {}

    def _take_time(self, is_step: bool, seconds: float) -> np.ndarray:
        began = time.monotonic()
        time.sleep(seconds)
        obs = self._rng.uniform(-1.0, 1.0, 4).astype(np.float32)
        self._calls.append((is_step, seconds, began, time.monotonic()))
        return obs

"""
How near A3C comes to the speed at which nobody waits for anybody, with environments that take unevenly long.

Eight environments sleep, 20 ms a step on average (the slow one of the last case: 200 ms), and A3C steps each in a thread
of its own, with the torch engine. Beside it runs A2C on a SubprocVecEnv of the same environments, which draw the same times
again.

What the figures are. ``steps/s`` is environment steps by wall-clock seconds of ``learn()``, after a rollout to warm up.
An environment's clock runs while it is inside of ``step`` or ``reset``, so it counts what a sleep really took, and not
its policy's computation, updates, or any wait for others. The no-wait limit is what the environments would reach if each
were left again the moment that it is done,

    limit = sum over environments of (its steps / seconds on its clock),

by the clocks of that very run. In order "arrival" an environment's part of that is its own pace, however few steps it
made. In order "env" all make equally many steps, so no more than a slow environment's pace times eight is possible: that
row is for information. A clock of a thread also counts how long a thread that wakes up waits for the GIL or a core, which
lowers the limit; ``of drawn limit`` is therefore the share of the limit by the times that the environments drew,
which nothing can lower and no sleep quite keeps. ``CPU ms`` is what a step costs the whole A3C process: what of it falls
between two steps of an environment is time lost, and so is the wait for the one that computes.

Times come in blocks of fifty, the same fifty quantiles of their distribution in an order that each environment draws from
its own seeded generator. So none is slower than another by luck, as would show in runs as short as these, in which all
make equally many steps: lastingly different environments are the last case. Episodes of 50 steps begin spread evenly
over the environments, as those of a long run would.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from report import report
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_a3c import A3C
from sb3_a3c.backends import RolloutOrder

N_ENVS = 8
N_STEPS = 5
EPISODE_STEPS = 50
MEAN_SECONDS = 0.02
TARGET = 0.85


@dataclass(frozen=True)
class Case:
    """
    One way to take unevenly long.

    :param title: What to call it
    :param step_seconds: A block of the seconds that steps take, of shape ``(EPISODE_STEPS,)``
    :param reset_seconds: Seconds that a reset takes
    :param slowness: How many times longer the first environment takes
    :param rollout_orders: In which orders A3C is to run
    :param duration: How many times longer than others A3C's runs in order "arrival" are to be
    """

    title: str
    step_seconds: np.ndarray
    reset_seconds: float = 0.0
    slowness: float = 1.0
    rollout_orders: tuple[RolloutOrder, ...] = ("env",)
    duration: float = 1.0

    def times(self, index: int, seed: int) -> Iterator[tuple[float, float | None]]:
        """
        :param index: Which environment
        :param seed: With the index, the seed of its generator
        :return: Seconds of each step; and of the reset after it, None: the episode goes on
        """
        rng = np.random.default_rng([seed, index])
        factor = self.slowness if index == 0 else 1.0
        n_steps = index * EPISODE_STEPS // N_ENVS
        while True:
            for seconds in rng.permutation(self.step_seconds):
                n_steps += 1
                ends = n_steps % EPISODE_STEPS == 0
                yield factor * float(seconds), factor * self.reset_seconds if ends else None

    def rates(self, seed: int) -> tuple[float, float]:
        """
        :param seed: The seed of the environments' generators
        :return: Steps/s of all environments by the times drawn: if nobody waits, and if all wait for the slowest
        """
        times = np.array(
            [[step + (reset or 0.0) for step, reset in islice(self.times(i, seed), 10 * EPISODE_STEPS)] for i in range(N_ENVS)]
        )
        return float((1.0 / times.mean(axis=1)).sum()), float(N_ENVS / times.max(axis=0).mean())


def _pareto_seconds(alpha: float) -> np.ndarray:
    """Quantiles of a Pareto distribution, which for ``alpha`` below 2 has no variance, scaled to the mean."""
    quantiles = (1.0 - (np.arange(EPISODE_STEPS) + 0.5) / EPISODE_STEPS) ** (-1.0 / alpha)
    return quantiles * MEAN_SECONDS / quantiles.mean()


_SHORT_SECONDS = 0.005
CASES = {
    "even": Case("even", np.full(EPISODE_STEPS, MEAN_SECONDS)),
    "heavy": Case("heavy tails", _pareto_seconds(1.5)),
    "resets": Case(
        "slow resets",
        np.full(EPISODE_STEPS, _SHORT_SECONDS),
        reset_seconds=EPISODE_STEPS * (MEAN_SECONDS - _SHORT_SECONDS),
    ),
    # A run ends with the slow environment's last rollout, which takes a second: the longer, the less that matters.
    "slow": Case(
        "one ten times slower",
        np.full(EPISODE_STEPS, MEAN_SECONDS),
        slowness=10.0,
        rollout_orders=("arrival", "env"),
        duration=3.0,
    ),
}


class Clock(NamedTuple):
    """
    What an environment has measured since it began to play a case.

    :param n_steps: Steps
    :param seconds: Seconds inside of ``step`` and ``reset``
    :param drawn_seconds: How many those should have been
    """

    n_steps: int
    seconds: float
    drawn_seconds: float


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
        self._n_steps = 0
        self._seconds = 0.0
        self._drawn_seconds = 0.0

    def read_clock(self) -> tuple[int, float, float]:
        """:return: The fields of a :class:`Clock`, as plain numbers that any process can unpickle"""
        return self._n_steps, self._seconds, self._drawn_seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        started = time.perf_counter()
        super().reset(seed=seed)
        self._sleep(self._reset_seconds or 0.0)
        obs = self._observe()
        self._seconds += time.perf_counter() - started
        return obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        started = time.perf_counter()
        seconds, self._reset_seconds = next(self._times)
        self._sleep(seconds)
        reward = float(action == self._rng.integers(2))
        obs = self._observe()
        self._n_steps += 1
        self._seconds += time.perf_counter() - started
        return obs, reward, self._reset_seconds is not None, False, {}

    def _sleep(self, seconds: float) -> None:
        self._drawn_seconds += seconds
        time.sleep(seconds)

    def _observe(self) -> np.ndarray:
        return self._rng.uniform(-1.0, 1.0, 4).astype(np.float32)


@dataclass(frozen=True)
class Run:
    """
    One measured call of ``learn()``.

    :param rate: Steps/s
    :param limit: The no-wait limit, in steps/s
    :param drawn_limit: The same by the times drawn
    :param cpu_seconds: Processor seconds of this process for each step
    """

    rate: float
    limit: float
    drawn_limit: float
    cpu_seconds: float


def measure(model: OnPolicyAlgorithm, case: str, seed: int, total_timesteps: int) -> Run:
    """
    :param model: A new model, of environments of :class:`UnevenEnv`
    :param case: A key of ``CASES``
    :param seed: The seed of the environments' times
    :param total_timesteps: How long to learn
    :return: How fast that was
    """
    assert model.env is not None
    model.env.env_method("play", "even", seed)
    model.learn(N_STEPS * N_ENVS)
    model.env.env_method("play", case, seed)
    warm_up = model.num_timesteps
    cpu_started, started = time.process_time(), time.perf_counter()
    model.learn(total_timesteps, reset_num_timesteps=False)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    clocks = [Clock(*numbers) for numbers in model.env.env_method("read_clock")]
    n_steps = sum(clock.n_steps for clock in clocks)
    assert n_steps == model.num_timesteps - warm_up
    return Run(
        rate=n_steps / seconds,
        limit=sum(clock.n_steps / clock.seconds for clock in clocks),
        drawn_limit=sum(clock.n_steps / clock.drawn_seconds for clock in clocks),
        cpu_seconds=cpu_seconds / n_steps,
    )


def measure_a3c(venv: VecEnv, case: str, rollout_order: RolloutOrder, seed: int, seconds: float) -> Run:
    """
    :param venv: A DummyVecEnv of the environments
    :param case: A key of ``CASES``
    :param rollout_order: A3C's argument
    :param seed: The seed of the model and the environments
    :param seconds: How long the run should take
    :return: A3C's run
    """
    no_wait_rate, all_wait_rate = CASES[case].rates(seed)
    if rollout_order == "arrival":
        rate = no_wait_rate * CASES[case].duration
    else:
        rate = no_wait_rate if CASES[case].slowness == 1.0 else all_wait_rate
    model = A3C(
        "MlpPolicy",
        venv,
        n_steps=N_STEPS,
        seed=seed,
        device="cpu",
        n_workers=N_ENVS,
        backend="thread",
        engine="torch",
        rollout_order=rollout_order,
    )
    return measure(model, case, seed, _timesteps(rate * seconds))


def measure_a2c(venv: VecEnv, case: str, seed: int, seconds: float) -> Run:
    """
    :param venv: A SubprocVecEnv of the environments
    :param case: A key of ``CASES``
    :param seed: The seed of the model and the environments
    :param seconds: How long the run should take
    :return: A2C's run
    """
    model = A2C("MlpPolicy", venv, n_steps=N_STEPS, seed=seed, device="cpu")
    return measure(model, case, seed, _timesteps(CASES[case].rates(seed)[1] * seconds))


def _timesteps(about: float) -> int:
    """Whole blocks of times for each environment, and whole rollouts at least."""
    per_env = about / N_ENVS
    unit = EPISODE_STEPS if per_env > 0.5 * EPISODE_STEPS else N_STEPS
    return N_ENVS * unit * max(1, round(per_env / unit))


class Row(NamedTuple):
    """A row of the table: a case, an order of rollouts, and the runs of each repetition."""

    case: str
    rollout_order: RolloutOrder
    a3c_runs: list[Run]
    a2c_runs: list[Run]

    def cells(self) -> list[str]:
        """:return: Medians over the repetitions; those of ratios are of each repetition's ratio"""
        a3c, a2c = self.a3c_runs, self.a2c_runs
        return [
            CASES[self.case].title,
            self.rollout_order,
            f"{statistics.median(run.limit for run in a3c):.0f}",
            f"{statistics.median(run.rate for run in a3c):.0f}",
            f"{self.share():.1%}",
            f"{min(run.rate / run.limit for run in a3c):.1%}",
            f"{statistics.median(run.rate / run.drawn_limit for run in a3c):.1%}",
            f"{1000 * statistics.median(run.cpu_seconds for run in a3c):.2f}",
            f"{statistics.median(run.rate for run in a2c):.0f}",
            f"{statistics.median(run.rate / run.limit for run in a2c):.1%}",
            f"{statistics.median(one.rate / other.rate for one, other in zip(a3c, a2c, strict=True)):.1f}",
        ]

    def share(self) -> float:
        """:return: A3C's steps/s by the no-wait limit"""
        return statistics.median(run.rate / run.limit for run in self.a3c_runs)

    def aimed_at(self) -> bool:
        """:return: Whether the target is for this row: with a slow environment it is for order "arrival" """
        return CASES[self.case].slowness == 1.0 or self.rollout_order == "arrival"


HEADER = [
    "Environments",
    "Order",
    "No-wait limit",
    "A3C steps/s",
    "A3C of limit",
    "least",
    "of drawn limit",
    "CPU ms",
    "A2C steps/s",
    "A2C of limit",
    "A3C / A2C",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each, one after the other (default: 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long a run lasts (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of models and times (default: 0)")
    parser.add_argument("--quick", action="store_true", help="one repetition, runs of half a second, no file")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seconds = 1, 0.5
    rows = [Row(case, order, [], []) for case in CASES for order in CASES[case].rollout_orders]
    env_fns: list[Callable[[], gym.Env]] = [partial(UnevenEnv, index) for index in range(N_ENVS)]
    get_context("forkserver").set_forkserver_preload(["stable_baselines3", "sb3_a3c"])
    a3c_venv, a2c_venv = DummyVecEnv(env_fns), SubprocVecEnv(env_fns, start_method="forkserver")
    try:
        for seed in range(args.seed, args.seed + args.repetitions):
            for case in CASES:
                a2c_run = measure_a2c(a2c_venv, case, seed, args.seconds)
                for row in (row for row in rows if row.case == case):
                    row.a2c_runs.append(a2c_run)
                    row.a3c_runs.append(measure_a3c(a3c_venv, case, row.rollout_order, seed, args.seconds))
    finally:
        a2c_venv.close()
    missed = [CASES[row.case].title for row in rows if row.aimed_at() and row.share() < TARGET]
    verdict = f"missed with {', '.join(missed)}" if missed else "met"
    notes = [
        f"Medians of {args.repetitions} repetition(s); {N_ENVS} environments and workers, n_steps={N_STEPS}, backend thread, "
        "engine torch, A2C on a SubprocVecEnv. What each figure is, and the no-wait limit above all, is said at the top of "
        "the script. Order env with a slow environment is for information.",
        "A quick run shows that the script works, not how fast A3C is: it is mostly beginning and end."
        if args.quick
        else f"Target, at least {TARGET:.0%} of the limit: {verdict}.",
    ]
    report("uneven_envs", "Environments that take unevenly long", HEADER, [row.cells() for row in rows], notes, not args.quick)


if __name__ == "__main__":
    main()

"""
How close A3C and A2C come to the speed at which no environment waits for another, with eight environments whose step times are
uneven. A3C comes close to it in all four cases. A2C falls further behind the more uneven the steps are.

Eight environments sleep, 2 ms per step on average (20 ms for the slow one of the last case). A3C steps each in its own thread
or process. A2C steps the same environments, with the same times, in a SubprocVecEnv.

The columns. ``steps/s`` is environment steps divided by the seconds during which all environments are at work: from the start
of the second rollout of the last environment until the first environment has finished its part of the run. So the start of
the workers is not measured. An environment's clock runs while it is inside of ``step`` or ``reset``. So it counts the time
that a sleep really took, and not the policy's computation, updates or waits. The no-wait limit is what the environments would
reach if each were stepped again immediately,

    limit = sum over environments of (its steps / seconds on its clock),

with the clocks of the same period. With the environment that is ten times slower, ``rollout_order`` is "arrival", and each
environment contributes its own pace to the limit. With "env", all environments make the same number of steps. The clock of a
thread also counts the time that it waits for the GIL or a core when it wakes up, which lowers the limit. Therefore ``of drawn
limit`` is the share of the limit that follows from the times that the environments drew. Nothing can lower that limit, and no
sleep quite keeps to it.

``uneven.py`` describes how the environments draw their times.

    python benchmarks/uneven_envs.py
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from arguments import Option, parse_arguments
from report import bars, report
from speed import preload
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from uneven import CASES, EPISODE_STEPS, N_ENVS, N_STEPS, Call, UnevenEnv

from sb3_a3c import A3C

TARGET = 0.9
BACKENDS = ("thread", "process")


@dataclass(frozen=True)
class Run:
    """
    One measured call of ``learn()``.

    :param rate: Steps/s
    :param limit: The no-wait limit, in steps/s
    :param drawn_limit: The same by the times drawn
    """

    rate: float
    limit: float
    drawn_limit: float


def measure(model: OnPolicyAlgorithm, case: str, seed: int, timesteps: float) -> Run:
    """
    :param model: A new model, of environments of :class:`UnevenEnv`
    :param case: A key of ``CASES``
    :param seed: The seed of the environments' times
    :param timesteps: How long to learn, about
    :return: How fast that was
    """
    assert model.env is not None
    model.env.env_method("play", case, seed)
    model.learn(_timesteps(timesteps))
    calls = [[Call(*fields) for fields in env_calls] for env_calls in model.env.env_method("read_calls")]
    assert sum(call.is_step for env_calls in calls for call in env_calls) == model.num_timesteps
    second_rollouts = [[call.began for call in env_calls if call.is_step][N_STEPS:] for env_calls in calls]
    if not all(second_rollouts):
        raise RuntimeError("the run is so short that an environment has not begun its second rollout")
    began, ended = max(steps[0] for steps in second_rollouts), min(env_calls[-1].ended for env_calls in calls)
    clocks = [_sum_between(began, ended, env_calls) for env_calls in calls]
    return Run(
        rate=sum(n_steps for n_steps, _, _ in clocks) / (ended - began),
        limit=sum(n_steps / seconds for n_steps, seconds, _ in clocks),
        drawn_limit=sum(n_steps / drawn_seconds for n_steps, _, drawn_seconds in clocks),
    )


def _sum_between(began: float, ended: float, calls: Sequence[Call]) -> tuple[float, float, float]:
    """Steps, seconds and drawn seconds of one environment in that time; a call under way counts by its part."""
    is_step, drawn_seconds, begins, ends = (np.array(column) for column in zip(*calls, strict=True))
    inside = np.maximum(np.minimum(ends, ended) - np.maximum(begins, began), 0.0)
    part = inside / (ends - begins)
    return float((part * is_step).sum()), float(inside.sum()), float((part * drawn_seconds).sum())


def measure_a3c(venv: VecEnv, case: str, backend: str, seed: int, seconds: float) -> Run:
    """
    :param venv: A DummyVecEnv of the environments
    :param case: A key of ``CASES``
    :param backend: A3C's argument
    :param seed: The seed of the model and the environments
    :param seconds: How long the run should take
    :return: A3C's run
    """
    model = A3C(
        "MlpPolicy",
        venv,
        n_steps=N_STEPS,
        seed=seed,
        n_workers=N_ENVS,
        backend=backend,
        rollout_order=CASES[case].rollout_order,
    )
    return measure(model, case, seed, CASES[case].rates(seed)[0] * seconds)


def measure_a2c(venv: VecEnv, case: str, seed: int, seconds: float) -> Run:
    """
    :param venv: A SubprocVecEnv of the environments
    :param case: A key of ``CASES``
    :param seed: The seed of the model and the environments
    :param seconds: How long the run should take
    :return: A2C's run
    """
    model = A2C("MlpPolicy", venv, n_steps=N_STEPS, seed=seed, device="cpu")
    return measure(model, case, seed, CASES[case].rates(seed)[1] * seconds)


def _timesteps(about: float) -> int:
    """Whole blocks of times for each environment, and whole rollouts at least."""
    per_env = about / N_ENVS
    unit = EPISODE_STEPS if per_env > 0.5 * EPISODE_STEPS else N_STEPS
    return N_ENVS * unit * max(1, round(per_env / unit))


class Row(NamedTuple):
    """A row of the table: a case, where workers live, and the runs of each repetition."""

    case: str
    backend: str
    a3c_runs: list[Run]
    a2c_runs: list[Run]

    def cells(self) -> list[str]:
        """:return: Medians over the repetitions; those of ratios are of each repetition's ratio"""
        a3c, a2c = self.a3c_runs, self.a2c_runs
        return [
            CASES[self.case].title,
            self.backend,
            f"{statistics.median(run.limit for run in a3c):,.0f}",
            f"{statistics.median(run.rate for run in a3c):,.0f}",
            f"{self.share():.1%}",
            f"{min(run.rate / run.limit for run in a3c):.1%}",
            f"{statistics.median(run.rate / run.drawn_limit for run in a3c):.1%}",
            f"{statistics.median(run.rate for run in a2c):,.0f}",
            f"{statistics.median(run.rate / run.limit for run in a2c):.1%}",
            f"{statistics.median(one.rate / other.rate for one, other in zip(a3c, a2c, strict=True)):.1f}",
        ]

    def share(self) -> float:
        """:return: A3C's steps/s by the no-wait limit"""
        return statistics.median(run.rate / run.limit for run in self.a3c_runs)


HEADER = [
    "Environments",
    "Workers",
    "No-wait limit",
    "A3C steps/s",
    "of limit",
    "least",
    "of drawn limit",
    "A2C steps/s",
    "of limit",
    "A3C / A2C",
]


def main() -> None:
    args = parse_arguments(
        __doc__,
        seconds=Option(5.0, 0.4, "approximate duration of a run"),
        backends=Option(",".join(BACKENDS), "thread", "where A3C's workers run, separated by commas"),
    )
    rows = [Row(case, backend, [], []) for case in CASES for backend in args.backends.split(",")]
    env_fns: list[Callable[[], gym.Env]] = [partial(UnevenEnv, index) for index in range(N_ENVS)]
    preload()
    a3c_venv = DummyVecEnv(env_fns)
    with closing(SubprocVecEnv(env_fns, start_method="forkserver")) as a2c_venv:
        for seed in range(args.repetitions):
            for case in CASES:
                a2c_run = measure_a2c(a2c_venv, case, seed, args.seconds)
                for row in (row for row in rows if row.case == case):
                    row.a2c_runs.append(a2c_run)
                    row.a3c_runs.append(measure_a3c(a3c_venv, case, row.backend, seed, args.seconds))
    missed = [f"{CASES[row.case].title} ({row.backend})" for row in rows if row.share() < TARGET]
    verdict = f"missed with {', '.join(missed)}" if missed else "met"
    notes = [
        f"Medians of {args.repetitions} repetition(s); {N_ENVS} environments and workers, n_steps={N_STEPS}, MlpPolicy, A2C "
        "on a SubprocVecEnv. The docstring of the script explains the columns, the no-wait limit in particular.",
        f"Target, at least {TARGET:.0%} of the limit: {verdict}.",
    ]
    panels: dict[str, dict[str, float]] = {CASES[case].title: {} for case in CASES}
    for row in rows:
        panel = panels[CASES[row.case].title]
        panel["A2C, SubprocVecEnv"] = 100 * statistics.median(run.rate / run.limit for run in row.a2c_runs)
        panel[f"A3C, {row.backend}"] = 100 * row.share()
    draw = bars(panels, "% of the no-wait limit", mark=(100 * TARGET, "the target"))
    report(args, "Environments with uneven step times", HEADER, [row.cells() for row in rows], notes, draw)


if __name__ == "__main__":
    main()

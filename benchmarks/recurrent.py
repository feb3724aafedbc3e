"""
Steps per second of A3C and RecurrentPPO with LSTMs of 64 to 256 units, on CartPole and Pendulum without velocities. A3C makes
tens of times as many: compiled kernels compute its LSTM, and it learns from each step once, where RecurrentPPO learns ten
times.

CartPole and Pendulum without their velocities, which a policy has to remember; MlpLstmPolicy with separate LSTMs of 64, 128
and 256 units for actor and critic; 1 and 8 environments. A3C's ``n_steps`` is 16. RecurrentPPO has its defaults: it learns
from each rollout of 128 steps in ten epochs, A3C from each of 16 steps once. So a step of one is not worth a step of the
other. Each repetition runs all rows one after another, and ratios are of two rows of the same repetition.

    python benchmarks/recurrent.py
"""

import re
import statistics
from contextlib import closing
from itertools import product
from typing import Any, NamedTuple

import torch as th
from arguments import Option, parse_arguments
from memory_envs import WithoutVelocities
from report import bars, report
from sb3_contrib import RecurrentPPO
from speed import measure, median_and_ratios, preload
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_a3c import A3C

#: The tasks, and which of their observations are not velocities.
TASKS = {"CartPole-v1": [0, 2], "Pendulum-v1": [0, 1]}
SIZES = [64, 128, 256]


class Row(NamedTuple):
    """
    An algorithm to measure.

    :param algorithm: Its class
    :param kwargs: Its arguments
    :param rates: About how many steps/s it makes with LSTMs of 64, 128 and 256 units, so that each row runs about equally long
    """

    algorithm: type[OnPolicyAlgorithm]
    kwargs: dict[str, Any]
    rates: tuple[float, float, float]


BASE = "RecurrentPPO"
ROWS = {
    BASE: Row(RecurrentPPO, {}, (600, 500, 300)),
    "A3C, 1 worker, torch engine": Row(A3C, dict(n_workers=1, n_steps=16, engine="torch"), (2_000, 1_500, 800)),
    "A3C, 1 worker": Row(A3C, dict(n_workers=1, n_steps=16), (20_000, 12_000, 5_000)),
    "A3C, 2 processes": Row(A3C, dict(n_workers=2, n_steps=16, backend="process"), (30_000, 15_000, 8_000)),
}


class Case(NamedTuple):
    """What to measure: keys of ``TASKS`` and ``ROWS``, and numbers of environments and of hidden units."""

    task: str
    n_envs: int
    size: int
    row: str

    def __str__(self) -> str:
        return f"{self.task}, {self.n_envs}, {self.size}: {self.row}"


CASES = [Case(*case) for case in product(TASKS, (1, 8), SIZES, ROWS) if not (case[1] == 1 and "2 processes" in case[3])]


def measure_rate(case: Case, seconds: float) -> float:
    """
    :param case: What to measure
    :param seconds: Seconds, about
    :return: Steps/s
    """
    algorithm, kwargs, rates = ROWS[case.row]
    kept = TASKS[case.task]
    env = make_vec_env(case.task, case.n_envs, seed=0, wrapper_class=lambda env: WithoutVelocities(env, kept))
    with closing(env):
        policy_kwargs = dict(lstm_hidden_size=case.size)
        model = algorithm("MlpLstmPolicy", env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **kwargs)  # type: ignore
        return measure(model, rates[SIZES.index(case.size)] * seconds).rate


def main() -> None:
    args = parse_arguments(
        __doc__,
        seconds=Option(2.0, 0.01, "approximate duration of a run"),
        only=Option("", "^CartPole-v1, 1, 64", "pattern of what to measure, such as 'Pendulum-v1, 8'; all if empty"),
    )
    preload()
    th.set_num_threads(1)  # for all: to divide steps of a few environments among threads costs more time than it saves
    rates: dict[Case, list[float]] = {case: [] for case in CASES if re.search(args.only, str(case._replace(row=BASE)))}
    for _ in range(args.repetitions):
        for case, values in rates.items():
            values.append(measure_rate(case, args.seconds))
    rows = [
        [case.row, case.task, str(case.n_envs), str(case.size), *median_and_ratios(values, rates[case._replace(row=BASE)])]
        for case, values in rates.items()
    ]
    notes = [
        f"Medians of {args.repetitions} repetition(s); MlpLstmPolicy, one torch thread. A3C's n_steps is 16, and it learns "
        "from each step once. RecurrentPPO learns from each step in ten epochs, so a step of one is not worth a step of the "
        "other."
    ]
    panels: dict[str, dict[str, float]] = {}
    for case, values in rates.items():
        title = f"{case.task}, {case.n_envs} environment(s)"
        panels.setdefault(title, {})[f"{case.row}, {case.size} units"] = statistics.median(values)
    header = ["Algorithm", "Task", "Environments", "Units", "Steps/s", "By RecurrentPPO's", "least"]
    report(args, "LSTMs: steps per second", header, rows, notes, bars(panels, "steps/s"))


if __name__ == "__main__":
    main()

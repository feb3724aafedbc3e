"""
Steps per second of A3C and A2C on Pendulum, with callbacks that read every step, that evaluate, or both. A3C is faster than
A2C with all of them, and fastest if callbacks look at the model only, because then no steps are reported to them.

Pendulum, eight environments, ``n_steps`` 8. One callback reads rewards, dones and infos at each step; the other is an
EvalCallback that evaluates every 10,000 steps. ``Reading``: the first callback only. ``Evaluating``: both, over the whole time
of the run. ``Apart``: the same run without the seconds that evaluation takes. A3C's workers go on learning during an
evaluation, until they are ``max_lead`` rollouts ahead, so this column is too high by these steps, which ``Evaluating`` counts
too. ``Only evaluating``: the EvalCallback only, also without the seconds of the evaluation; no steps are reported to it.

    python benchmarks/callbacks.py
"""

import re
import statistics
import time
from typing import Any, NamedTuple

import torch as th
from arguments import Option, parse_arguments
from report import bars, report
from speed import A3C_ROWS, Speed, measure, median_and_ratios, preload
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_a3c import A3C, register_callback

ENV_ID, N_ENVS, N_STEPS = "Pendulum-v1", 8, 8
EVAL_TIMESTEPS = 10_000


class Reader(BaseCallback):
    """Reads what callbacks mostly read, at each step: sums of rewards, episodes that ended, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.total_reward = 0.0
        self.n_dones = 0
        self.episode_returns: list[float] = []

    def _on_step(self) -> bool:
        self.total_reward += float(self.locals["rewards"].sum())
        self.n_dones += int(self.locals["dones"].sum())
        self.episode_returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


class TimedEvalCallback(EvalCallback):
    """
    An EvalCallback that knows how long it evaluated.

    :param eval_freq: Steps of all environments between two evaluations
    """

    def __init__(self, eval_freq: int) -> None:
        super().__init__(make_vec_env(ENV_ID, seed=1), eval_freq=max(1, eval_freq // N_ENVS), verbose=0)
        self.seconds: list[float] = []  # of each run

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.seconds.append(0.0)

    def _on_step(self) -> bool:
        started = time.perf_counter()
        going_on = super()._on_step()
        self.seconds[-1] += time.perf_counter() - started
        return going_on


register_callback(
    TimedEvalCallback, lambda callback, n_steps: callback.n_calls % callback.eval_freq + n_steps >= callback.eval_freq
)


class Rates(NamedTuple):
    """Steps/s, see the top."""

    reading: float
    evaluating: float
    apart: float
    only_evaluating: float


def make_model(kwargs: dict[str, Any] | None) -> OnPolicyAlgorithm:
    """
    :param kwargs: A3C's arguments, None: A2C
    :return: A new model
    """
    env = make_vec_env(ENV_ID, n_envs=N_ENVS, seed=0)
    if kwargs is None:
        return A2C("MlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu")
    return A3C("MlpPolicy", env, n_steps=N_STEPS, seed=0, **kwargs)


def measure_rates(kwargs: dict[str, Any] | None, timesteps: float, eval_freq: int) -> Rates:
    """
    :param kwargs: A3C's arguments, None: A2C
    :param timesteps: How many steps, about
    :param eval_freq: Steps between two evaluations
    :return: How fast that is
    """
    reading = measure(make_model(kwargs), timesteps, Reader())
    evaluation = TimedEvalCallback(eval_freq)
    evaluating = measure(make_model(kwargs), timesteps, [Reader(), evaluation])
    only_evaluation = TimedEvalCallback(eval_freq)
    only_evaluating = measure(make_model(kwargs), timesteps, only_evaluation)
    return Rates(reading.rate, evaluating.rate, apart(evaluating, evaluation), apart(only_evaluating, only_evaluation))


def apart(speed: Speed, evaluation: TimedEvalCallback) -> float:
    """
    :param speed: How fast two runs were with an evaluation
    :param evaluation: What evaluated
    :return: Steps/s without the seconds that it took
    """
    _, short, long = evaluation.seconds
    return speed.n_steps / (speed.seconds - (long - short))


def main() -> None:
    args = parse_arguments(
        __doc__,
        timesteps=Option(80_000, 640, "of a run; A2C makes a third"),
        frequency=Option(EVAL_TIMESTEPS, 320, "steps between two evaluations"),
        only=Option("", "thread", "pattern of what to measure in addition to A2C; all if empty"),
    )
    preload()
    th.set_num_threads(1)  # for all: to divide so small a network among threads only costs time
    kwargs_of = {"A2C": None, **{name: kw for name, kw in A3C_ROWS.items() if re.search(args.only, name)}}
    runs: dict[str, list[Rates]] = {name: [] for name in kwargs_of}
    for _ in range(args.repetitions):
        for name, kwargs in kwargs_of.items():
            runs[name].append(measure_rates(kwargs, args.timesteps / (3 if kwargs is None else 1), args.frequency))
    columns = {name: [list(column) for column in zip(*rates, strict=True)] for name, rates in runs.items()}
    rows = [
        [
            name,
            *(
                cell
                for column, base in zip(columns[name], columns["A2C"], strict=True)
                for cell in median_and_ratios(column, base)
            ),
        ]
        for name in runs
    ]
    notes = [
        f"Medians of {args.repetitions} repetition(s); {ENV_ID}, {N_ENVS} environments, n_steps={N_STEPS}, MlpPolicy, an "
        f"evaluation of five episodes every {args.frequency:,} steps. The docstring of the script explains the columns; "
        "ratios are to A2C's."
    ]
    panels = {
        title: {name: statistics.median(columns[name][i]) for name in runs}
        for i, title in enumerate(["Reading", "Evaluating", "Apart", "Only evaluating"])
    }
    header = ["Algorithm"] + [cell for what in panels for cell in (what, "by A2C's", "least")]
    report(args, "Callbacks: steps per second", header, rows, notes, bars(panels, "steps/s"))


if __name__ == "__main__":
    main()

"""
Steps per second of A3C and A2C with a convolutional network, on eight environments that return images as Atari games do. Two
worker processes make somewhat more steps than A2C. Eight workers make fewer, because torch computes the network for each of
them separately.

Eight environments that return noise, four frames of 84 x 84 pixels, CnnPolicy, ``n_steps`` 5. torch computes all of it. A2C
uses torch's default number of threads, or one. A3C uses one torch thread per worker if there are several workers.

    python benchmarks/cnn.py
"""

import re
import statistics
from contextlib import closing
from typing import Any

import torch as th
from arguments import Option, parse_arguments
from report import bars, report
from speed import A3C_ROWS, measure, median_and_ratios, preload
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_a3c import A3C

N_ENVS = 8
_ONE_THREAD, _SUBPROCESSES = "A2C, one torch thread", "A2C, SubprocVecEnv"
#: A3C's arguments, None: A2C, which comes first, for ratios are to it.
ROWS: dict[str, dict[str, Any] | None] = {"A2C": None, _ONE_THREAD: None, _SUBPROCESSES: None, **A3C_ROWS}


def measure_rate(name: str, timesteps: int) -> float:
    """
    :param name: A key of ``ROWS``
    :param timesteps: How many steps
    :return: Steps/s
    """
    subprocesses: dict[str, Any] = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="forkserver"))
    env = make_vec_env(
        FakeImageEnv,
        N_ENVS,
        seed=0,
        env_kwargs=dict(n_channels=4),
        **(subprocesses if name == _SUBPROCESSES else {}),
    )
    kwargs, n_threads = ROWS[name], th.get_num_threads()
    with closing(env):
        th.set_num_threads(1 if name == _ONE_THREAD else n_threads)
        model: OnPolicyAlgorithm
        if kwargs is None:
            model = A2C("CnnPolicy", env, seed=0, device="cpu")
        else:
            model = A3C("CnnPolicy", env, seed=0, **kwargs)
        rate = measure(model, timesteps).rate
    th.set_num_threads(n_threads)
    return rate


def main() -> None:
    args = parse_arguments(
        __doc__,
        timesteps=Option(2_500, 10, "of a run"),
        only=Option("", "2 threads", "pattern of what to measure in addition to A2C; all if empty"),
    )
    preload()
    rates: dict[str, list[float]] = {name: [] for name in ROWS if name == "A2C" or re.search(args.only, name)}
    for _ in range(args.repetitions):
        for name in rates:
            rates[name].append(measure_rate(name, args.timesteps))
    rows = [[name, *median_and_ratios(values, rates["A2C"])] for name, values in rates.items()]
    notes = [
        f"Medians of {args.repetitions} repetition(s); {N_ENVS} environments, n_steps=5, CnnPolicy, "
        f"{th.get_num_threads()} torch threads for A2C; ratios are to A2C on a DummyVecEnv."
    ]
    panels = {"": {name: statistics.median(values) for name, values in rates.items()}}
    header = ["Algorithm", "Steps/s", "By A2C's", "least"]
    report(args, "Convolutions: steps per second", header, rows, notes, bars(panels, "steps/s"))


if __name__ == "__main__":
    main()

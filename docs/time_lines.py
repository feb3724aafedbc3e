"""
Draw why A3C is fast, for the home page: time lines of A2C's environments and of A3C's, from a simulation.

Both have the same environments, and each environment takes the same time for its first step, its second step and so on. The
times are those of the case "heavy tails" of ``benchmarks/uneven_envs.py``. A2C makes its next step when all environments have
made theirs; in A3C each environment goes on at once. The time of the policy and of updates is left out of both.
"""

from collections.abc import Sequence
from itertools import accumulate, islice

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from uneven import CASES

N_ENVS, SEED, MILLISECONDS = 4, 0, 60.0
STEP, OTHER_STEP, WAIT = "#1f77b4", "#5fa2d6", "#e8e8e8"

#: Start and end of a step, in milliseconds.
Step = tuple[float, float]


def draw_times(n_steps: int) -> list[list[float]]:
    """
    :param n_steps: How many steps of each environment
    :return: For each environment: how many milliseconds each of its steps takes
    """
    return [[1e3 * seconds for seconds, _ in islice(CASES["heavy"].times(i, SEED), n_steps)] for i in range(N_ENVS)]


def synchronous(times: Sequence[Sequence[float]]) -> list[list[Step]]:
    """
    :param times: See :func:`draw_times`
    :return: For each environment: its steps, where each begins when all environments have made the one before
    """
    starts = [0.0, *accumulate(map(max, zip(*times, strict=True)))]
    return [[(start, start + time) for start, time in zip(starts, of_env, strict=False)] for of_env in times]


def asynchronous(times: Sequence[Sequence[float]]) -> list[list[Step]]:
    """
    :param times: See :func:`draw_times`
    :return: For each environment: its steps, where each begins when its own last one has ended
    """
    ends = [list(accumulate(of_env)) for of_env in times]
    return [list(zip([0.0, *of_env], of_env, strict=False)) for of_env in ends]


def draw_steps(axes: Axes, name: str, steps: Sequence[Sequence[Step]]) -> None:
    finished = sum(end <= MILLISECONDS for of_env in steps for _, end in of_env)
    for env, of_env in enumerate(steps):
        axes.broken_barh([(0, MILLISECONDS)], (env - 0.36, 0.72), color=WAIT)
        bars = [(start, end - start) for start, end in of_env if start < MILLISECONDS]
        axes.broken_barh(bars[::2], (env - 0.36, 0.72), color=STEP)
        axes.broken_barh(bars[1::2], (env - 0.36, 0.72), color=OTHER_STEP)
    axes.set_title(f"{name}: {finished} steps in {MILLISECONDS:.0f} ms", loc="left", fontsize=11, weight="bold")
    axes.set_yticks(range(N_ENVS), [f"environment {env}" for env in range(N_ENVS)], fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, MILLISECONDS)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw() -> None:
    times = draw_times(50)
    _, (above, below) = plt.subplots(2, 1, figsize=(5.2, 4.2), sharex=True, layout="constrained")
    draw_steps(above, "A2C", synchronous(times))
    draw_steps(below, "A3C", asynchronous(times))
    below.set_xlabel("milliseconds (each blue bar: a step; grey: waiting)", fontsize=10)


draw()

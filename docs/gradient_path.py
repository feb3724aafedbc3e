"""
Draw the path of one gradient through the package, for architecture.rst.

Every name in the picture is read from the code, and every call is looked up in the source of its caller. So the build of the
documentation fails if the picture is no longer true.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

import sb3_a3c
from sb3_a3c.backends import Backend
from sb3_a3c.engines import Engine
from sb3_a3c.learning.policy_sync import PolicySync
from sb3_a3c.learning.reporter import Reporter
from sb3_a3c.learning.run import run
from sb3_a3c.learning.steps import report_steps
from sb3_a3c.parameters.protocol import Parameters
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.worker.collector import Collector
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.worker import Worker

BLUE, GREEN, YELLOW = "#dbe9f6", "#dff0df", "#fdf3d0"


class Station(NamedTuple):
    """
    :param what: What happens there
    :param caller: The class or function whose code does it
    :param calls: What that code calls
    """

    what: str
    caller: Any
    calls: tuple[Callable, ...] = ()


IN_THE_WORKER = [
    Station(r"pull: $\theta' \leftarrow \theta$", Worker.collect, (Parameters.pull,)),
    Station("collect n_steps steps of its environments", Collector.collect, (Engine.act, VecEnv.step)),
    Station("compute returns and advantages", Worker.compute_gradient, (Engine.compute_returns,)),
    Station("compute the gradient, clipped", Worker.compute_gradient, (Engine.gradient,)),
    Station(r"push: $\theta \leftarrow$ optimizer($\theta$, gradient)", Worker.push, (Parameters.push,)),
    Station("return an immutable message", Rollout),
]
IN_THE_MAIN_THREAD = [
    Station("receive one rollout per worker", run, (Backend.collect,)),
    Station("report them, one step at a time", Reporter.report, (report_steps,)),
    Station("call the callbacks, write the log", report_steps, (BaseCallback.on_step,)),
]
SHARED = Station("shared parameters", SharedParameters)
POLICY = Station("model.policy", PolicySync, (SharedParameters.read,))


def check(station: Station) -> None:
    """
    :raises LookupError: if the module of the caller does not call what the picture says
    """
    source = inspect.getsource(inspect.getmodule(station.caller))  # type: ignore[arg-type]
    for callee in station.calls:
        if f".{callee.__name__}(" not in source and f" {callee.__name__}(" not in source:
            raise LookupError(f"{station.caller.__qualname__} does not call {callee.__qualname__}: correct {__file__}")


def code_of(station: Station, arrow: str) -> str:
    """
    :return: Who calls what, and in which file
    """
    file = Path(inspect.getfile(station.caller)).relative_to(Path(sb3_a3c.__file__).parent)
    calls = "".join(f"{arrow}{callee.__qualname__}" for callee in station.calls)
    return f"{station.caller.__qualname__}{calls}\n{file}"


def draw_station(axes: Axes, station: Station, x: float, y: float, width: float, height: float, colour: str) -> None:
    check(station)
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec="#555555"))
    axes.text(x + width / 2, y + height - 0.1, station.what, ha="center", va="top", fontsize=11, weight="bold")
    code = code_of(station, " → " if width > 3 else "\n→ ")
    axes.text(x + width / 2, y + height - 0.36, code, ha="center", va="top", fontsize=9, family="monospace")


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops=dict(arrowstyle="-|>", color="#333333", linewidth=1.4))


def draw() -> None:
    top, height, step, left, width = 9.0, 0.8, 1.04, 0.1, 4.5
    _, axes = plt.subplots(figsize=(7, 9.8), layout="constrained")
    stations = [*IN_THE_WORKER, *IN_THE_MAIN_THREAD]
    bottoms = [top - step * index - (0.45 if index >= len(IN_THE_WORKER) else 0.0) for index in range(len(stations))]
    for index, (station, y) in enumerate(zip(stations, bottoms, strict=True)):
        draw_station(axes, station, left, y, width, height, BLUE if index < len(IN_THE_WORKER) else GREEN)
        if index:
            draw_arrow(axes, (left + width / 2, bottoms[index - 1]), (left + width / 2, y + height))
    axes.text(left, top + height + 0.12, "in each worker (a thread or a process)", fontsize=10, style="italic")
    axes.text(left, bottoms[len(IN_THE_WORKER)] + height + 0.1, "in the main thread", fontsize=10, style="italic")

    right, side, push = left + width + 0.5, 2.1, bottoms[4]
    draw_station(axes, SHARED, right, push, side, top + height - push, YELLOW)
    draw_arrow(axes, (right, top + height / 2), (left + width, top + height / 2))
    draw_arrow(axes, (left + width, push + height / 2), (right, push + height / 2))
    draw_station(axes, POLICY, right, bottoms[7], side, height + 0.2, YELLOW)
    draw_arrow(axes, (right + side / 2, push), (right + side / 2, bottoms[7] + height + 0.2))
    draw_arrow(axes, (right, bottoms[7] + 0.2), (left + width, bottoms[8] + 0.5))
    axes.set_xlim(0, right + side + 0.1)
    axes.set_ylim(bottoms[-1] - 0.1, top + height + 0.45)
    axes.axis("off")


draw()

"""Draw what A3C is, for the home page: the shared network, and workers that pull, collect and push on their own."""

from itertools import pairwise

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

SHARED, LOCAL, ENV = "#fdf3d0", "#dbe9f6", "#dff0df"
PULL, PUSH = "#1f77b4", "#c0392b"
#: What each worker does at the moment that the picture shows. No two of them are at the same point.
MOMENTS = ["pulls", "collects", "computes\nits gradient", "pushes"]


def draw_box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.1", fc=colour, ec="#555555"))


def draw_network(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    """A state goes in at the left; the policy and the value come out at the right."""
    layers = [
        [(x + column * width / 2, y + height * (row + 1) / (size + 1)) for row in range(size)]
        for column, size in enumerate((3, 4, 2))
    ]
    for before, after in pairwise(layers):
        for start in before:
            for end in after:
                axes.plot(*zip(start, end, strict=True), color="#999999", linewidth=0.6, zorder=2)
    for layer, colour in zip(layers, ("#777777", "#777777", "#333333"), strict=True):
        axes.plot(*zip(*layer, strict=True), "o", color=colour, markersize=4, zorder=3)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, is_now: bool) -> None:
    style = dict(arrowstyle="-|>", color=colour, linewidth=2.2 if is_now else 1.0, alpha=1.0 if is_now else 0.35)
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def draw_worker(axes: Axes, index: int, left: float, width: float) -> None:
    moment, middle = MOMENTS[index], left + width / 2
    draw_arrow(axes, (middle - 0.25, 3.6), (middle - 0.25, 2.85), PULL, is_now=moment == "pulls")
    draw_arrow(axes, (middle + 0.25, 2.85), (middle + 0.25, 3.6), PUSH, is_now=moment == "pushes")
    draw_box(axes, left, 1.25, width, 1.6, LOCAL)
    axes.text(middle, 2.7, f"worker {index}", ha="center", va="top", fontsize=10, weight="bold")
    draw_network(axes, left + 0.3, 1.72, width - 0.6, 0.72)
    axes.text(middle, 1.68, r"copy $\theta'$", ha="center", va="top", fontsize=10)
    draw_box(axes, left, 0.1, width, 0.55, ENV)
    axes.text(middle, 0.37, "environments", ha="center", va="center", fontsize=9)
    is_collecting = moment == "collects"
    draw_arrow(axes, (middle - 0.25, 1.25), (middle - 0.25, 0.65), "#333333", is_collecting)
    draw_arrow(axes, (middle + 0.25, 0.65), (middle + 0.25, 1.25), "#333333", is_collecting)
    axes.text(middle, -0.05, moment, ha="center", va="top", fontsize=10, style="italic")


def draw() -> None:
    width, gap = 1.5, 0.2
    right = len(MOMENTS) * width + (len(MOMENTS) - 1) * gap
    _, axes = plt.subplots(figsize=(5.2, 4.5), layout="constrained")
    draw_box(axes, 0, 3.6, right, 1.25, SHARED)
    draw_network(axes, 2.75, 3.75, 1.4, 0.95)
    axes.text(0.15, 4.45, "shared network", va="center", fontsize=12, weight="bold")
    axes.text(0.15, 4.02, r"parameters $\theta$, optimizer", va="center", fontsize=10)
    axes.text(2.6, 4.22, r"$s$", ha="right", va="center", fontsize=11)
    axes.text(4.3, 4.39, r"policy $\pi(a \mid s)$", va="center", fontsize=10)
    axes.text(4.3, 4.06, r"value $V(s)$", va="center", fontsize=10)
    for index in range(len(MOMENTS)):
        draw_worker(axes, index, index * (width + gap), width)
    axes.text(0.4, 3.22, "pull", ha="right", va="center", fontsize=10, color=PULL)
    axes.text(right - 0.38, 3.22, "push", ha="left", va="center", fontsize=10, color=PUSH)
    axes.set_xlim(-0.05, right + 0.05)
    axes.set_ylim(-0.6, 4.9)
    axes.axis("off")


draw()

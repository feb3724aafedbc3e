"""
The picture of a comparison: learning curves by steps and by seconds, one below the other so that it can be read on a phone.

With five seeds or more it shows interquartile means and their 95 % intervals, with fewer one line per run.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sb3_a3c.comparison.estimates import AXES, MIN_SEEDS, Axis, Summary, learning_curve, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LABELS: dict[Axis, str] = {"timesteps": "environment steps", "seconds": "seconds of training"}


def draw(summaries: Sequence[Summary], threshold: float | None) -> bytes:
    """Return the picture as a PNG."""
    from matplotlib.figure import Figure  # here, because processes of runs may import this module too

    figure = Figure(figsize=(6, 7.5), layout="constrained")
    panels = figure.subplots(len(AXES), 1)
    draw_curves(panels, summaries, threshold)
    for panel in panels:
        panel.set_ylabel("mean return of an evaluation")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def draw_curves(panels: Sequence["Axes"], summaries: Sequence[Summary], threshold: float | None) -> None:
    """Draw the learning curves by steps and by seconds into two panels, with a line at the threshold."""
    for panel, axis in zip(panels, AXES, strict=True):
        for index, summary in enumerate(summaries):
            colour = _COLOURS[index % len(_COLOURS)]
            if len(summary.results) < MIN_SEEDS:
                lines = [points(result, axis) for result in summary.results]
            else:
                at, estimate = learning_curve(summary.results, axis)
                lines = [(at, estimate.iqm)]
                panel.fill_between(at, estimate.low, estimate.high, color=colour, alpha=0.2, linewidth=0)
            for line_index, (at, returns) in enumerate(lines):
                panel.plot(at, returns, color=colour, label=None if line_index else summary.algorithm)
                panel.plot(at[-1], returns[-1], "o", color=colour, markersize=4)
        if threshold is not None:
            panel.axhline(threshold, color="0.4", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
        panel.set_xlabel(_LABELS[axis])
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")

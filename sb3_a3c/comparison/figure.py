"""The picture of a comparison: learning curves by steps and by seconds."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sb3_a3c.comparison.estimates import AXES, Axis, Summary, learning_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LABELS: dict[Axis, str] = {"timesteps": "environment steps", "seconds": "seconds of training"}


def draw(summaries: Sequence[Summary], threshold: float | None) -> bytes:
    """
    :param summaries: The algorithms
    :param threshold: A return to reach, which gets a line, None: none
    :return: A PNG
    """
    from matplotlib.figure import Figure  # here, for the runs' processes import this module too, and have no time

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    draw_curves(panels, summaries, threshold)
    panels[0].set_ylabel("mean return of an evaluation")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def draw_curves(panels: Sequence["Axes"], summaries: Sequence[Summary], threshold: float | None) -> None:
    """
    :param panels: Where to draw the learning curves: by steps, by seconds
    :param summaries: The algorithms
    :param threshold: A return to reach, which gets a line, None: none
    """
    for panel, axis in zip(panels, AXES, strict=True):
        for index, summary in enumerate(summaries):
            curve = learning_curve(summary.results, axis)
            colour = _COLOURS[index % len(_COLOURS)]
            panel.plot(curve.at, curve.estimate.iqm, color=colour, label=summary.algorithm)
            panel.fill_between(curve.at, curve.estimate.low, curve.estimate.high, color=colour, alpha=0.2, linewidth=0)
            panel.plot(curve.at[-1], curve.estimate.iqm[-1], "o", color=colour, markersize=4)
        if threshold is not None:
            panel.axhline(threshold, color="0.4", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
        panel.set_xlabel(_LABELS[axis])
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")

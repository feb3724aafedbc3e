"""
The report of a benchmark: a table with its machine, versions and command, printed, and written as a page with a picture.

A page can be read alone. It begins with the first paragraph of the script's docstring, which says in a few sentences what was
run, on what, and what it shows. Then come the picture, the table, and the rest of the docstring. What a docstring says about
results has to be true of the committed figures: read it again after each run.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_a3c.comparison.provenance import Provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUICK = "A quick run: it shows that the script works, and not how fast anything is."
_DETAILS = "How it was measured"
#: A narrow picture at a high resolution has letters that can be read on a phone.
_WIDTH, _DOTS_PER_INCH = 6.0, 120


def report(
    args: argparse.Namespace,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    draw: "Callable[[Figure], None]",
) -> None:
    """
    :param args: The command line, see :func:`~arguments.parse_arguments`
    :param title: The report's headline
    :param header: Names of the table's columns
    :param rows: The table's rows
    :param notes: Paragraphs that explain the table
    :param draw: What draws the picture
    """
    name = Path(sys.argv[0]).stem
    table = _table(header, rows)
    explained = [*notes, *([_QUICK] if args.quick else []), _origin()]
    print("\n\n".join([title, table, *explained]))
    if args.out is None:
        return
    from matplotlib.figure import Figure  # here, for worker processes import the benchmark too

    args.out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(_WIDTH, 3.5), layout="constrained")
    draw(figure)
    figure.savefig(args.out / f"{name}.png", dpi=_DOTS_PER_INCH, pil_kwargs=dict(optimize=True))
    lead, details = lead_and_details(args.description)
    picture = f".. image:: {name}.png\n   :alt: {title}, as a picture"
    if details:
        explained.append(f"{_DETAILS}\n{'-' * len(_DETAILS)}\n\n{details}")
    page = "\n\n".join([f"{title}\n{'=' * len(title)}", lead, picture, table, *explained]) + "\n"
    (args.out / f"{name}.rst").write_text(page, encoding="utf-8")


def lead_and_details(description: str) -> tuple[str, str]:
    """
    :param description: A script's docstring
    :return: Its first paragraph, and the others without the commands
    """
    lead, *others = description.strip().split("\n\n")
    return lead, "\n\n".join(paragraph for paragraph in others if not paragraph.startswith("    python "))


def bars(
    panels: Mapping[str, Mapping[str, float]], label: str, mark: tuple[float, str] | None = None, share_x: bool = True
) -> "Callable[[Figure], None]":
    """
    :param panels: For each panel's title: the values by their names
    :param label: What the values are
    :param mark: A value to compare with, and its name
    :param share_x: Whether the panels have one scale
    :return: What draws them as bars
    """

    def draw(figure: "Figure") -> None:
        heights = [1 + len(values) for values in panels.values()]
        figure.set_size_inches(_WIDTH, 0.6 + 0.27 * sum(heights))
        all_axes = figure.subplots(len(panels), 1, sharex=share_x, squeeze=False, height_ratios=heights)[:, 0]
        for i, (axes, (title, values)) in enumerate(zip(all_axes, panels.items(), strict=True)):
            drawn = axes.barh(list(values), list(values.values()), color=f"C{i}")
            axes.bar_label(
                drawn, [f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}" for value in values.values()], padding=3
            )
            axes.set_title(title, loc="left", fontsize="medium")
            axes.invert_yaxis()
            axes.margins(x=0.17)
            axes.locator_params(axis="x", nbins=5)
            axes.xaxis.set_major_formatter("{x:,.10g}")
            axes.spines[["top", "right"]].set_visible(False)
            if mark is not None:
                axes.axvline(mark[0], color="black", linestyle=":", label=mark[1])
        all_axes[-1].set_xlabel(label if mark is None else f"{label} (dotted: {mark[1]})")

    return draw


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in reStructuredText whose columns are aligned, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in [header, *rows]]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _origin() -> str:
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    here = Provenance.here(jobs=1)
    return "\n".join([f"- Command: ``{command}``", f"- Machine: {here.machine}", f"- Versions: {here.versions}"])

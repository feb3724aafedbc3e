"""
Figures on pages come from the benchmarks' tables.

The role ``:measured:`` reads one cell of a table in ``docs/benchmarks`` when the documentation is built::

    :measured:`throughput: A3C, 2 processes | 8 environments: By A2C's`

The page, what the row's first cells are, and the column. So a page never shows a figure that its benchmark's page does not
show, and the build fails if there is no such cell.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes

PAGES = Path(__file__).parent / "benchmarks"


def read_table(page: str) -> tuple[list[str], list[list[str]]]:
    """
    :param page: Name of a benchmark
    :return: The header and the rows of the table on its page. Where two columns have one name, the second is ``name (2)``
    """
    lines = (PAGES / f"{page}.rst").read_text(encoding="utf-8").splitlines()
    first, header_end, last = (i for i, line in enumerate(lines) if re.fullmatch(r"=+( =+)+", line))
    columns = [slice(*match.span()) for match in re.finditer("=+", lines[first])]
    header, *rows = (
        [line[column].strip() for column in columns] for line in [lines[first + 1], *lines[header_end + 1 : last]]
    )
    for i, name in enumerate(header):
        if earlier := header[:i].count(name):
            header[i] = f"{name} ({earlier + 1})"
    return header, rows


def measured(page: str, row: Sequence[str], column: str) -> str:
    """
    :param page: Name of a benchmark
    :param row: The row's first cells
    :param column: Name of the column
    :return: The cell
    :raises LookupError: if the table does not have it
    """
    header, rows = read_table(page)
    found = [cells for cells in rows if cells[: len(row)] == list(row)]
    if len(found) != 1 or column not in header:
        raise LookupError(f"docs/benchmarks/{page}.rst does not have one row {' | '.join(row)} and a column {column}")
    return found[0][header.index(column)]


def measured_role(name: str, rawtext: str, text: str, *args: Any, **kwargs: Any) -> tuple[list[nodes.Node], list[nodes.Node]]:
    page, cell = text.split(": ", 1)
    row, column = cell.rsplit(": ", 1)
    return [nodes.inline(rawtext, measured(page, row.split(" | "), column), classes=["measured"])], []


def mark_tables(app: Any, doctree: nodes.document) -> None:
    """Mark the tables of benchmarks, because they hold numbers. A "-" in a cell is not a list."""
    if app.env.docname.startswith(f"{PAGES.name}/"):
        for table in doctree.findall(nodes.table):
            table["classes"].append("numbers")
            for empty in [found for found in table.findall(nodes.bullet_list) if not found.astext()]:
                empty.replace_self(nodes.paragraph("", "-"))


def setup(app: Any) -> dict[str, bool]:
    app.add_role("measured", measured_role)
    app.connect("doctree-read", mark_tables)
    return dict(parallel_read_safe=True)

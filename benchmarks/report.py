"""The report of a benchmark: a table with its machine, versions and command, printed, and written as a page of the docs."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from sb3_a3c.cores import usable_cores

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("sb3_a3c", "stable_baselines3", "gymnasium", "torch", "numpy")


def report(
    name: str, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], write: bool
) -> None:
    """
    :param name: The benchmark's name, that of its file in ``docs/benchmarks``
    :param title: The report's headline
    :param header: Names of the table's columns
    :param rows: The table's rows
    :param notes: Paragraphs that explain the table
    :param write: Whether to write the report to its file, or to print it only
    """
    text = "\n\n".join([f"{title}\n{'=' * len(title)}", _table(header, rows), *notes, _origin()]) + "\n"
    print(text)
    if write:
        path = _ROOT / "docs" / "benchmarks" / f"{name}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in reStructuredText whose columns are aligned, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in [header, *rows]]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _origin() -> str:
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return "\n".join(
        [
            f"- Command: ``{command}``",
            f"- Machine: {_processor()}, {usable_cores()} of {os.cpu_count()} cores usable, {platform.system()}",
            f"- Versions: Python {platform.python_version()}, {versions}",
        ]
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

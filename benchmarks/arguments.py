"""The command line that all benchmarks share."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

_DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


class Option(NamedTuple):
    """
    An option of a benchmark.

    :param default: Its value
    :param quick: Its value in a quick run
    :param help: What it means
    """

    default: Any
    quick: Any
    help: str


def parse_arguments(description: str | None, repetitions: int = 3, **options: Option) -> argparse.Namespace:
    """
    :param description: The benchmark's docstring
    :param repetitions: How often everything is measured
    :param options: Its options by their names
    :return: The options' values, ``description``, and ``out``: the folder to write the report to, None: it is printed only
    """
    options = {"repetitions": Option(repetitions, 1, "of everything, one after another"), **options}
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, option in options.items():
        parser.add_argument(f"--{name}", type=type(option.default), help=f"{option.help} (default: {option.default})")
    parser.add_argument(
        "--quick", action="store_true", help="a short run that shows whether the script works; its numbers mean nothing"
    )
    parser.add_argument("--out", type=Path, help="folder of the report (default: docs/benchmarks; none for a quick run)")
    args = parser.parse_args(namespace=argparse.Namespace(description=description))
    for name, option in options.items():
        if getattr(args, name) is None:
            setattr(args, name, option.quick if args.quick else option.default)
    if args.out is None and not args.quick:
        args.out = _DOCS
    return args

"""
rl-zoo3's commands, with A3C as the algorithm a3c:

    python -m sb3_a3c.zoo train --algo a3c --env CartPole-v1
    python -m sb3_a3c.zoo enjoy --algo a3c --env CartPole-v1 -f logs/ --no-render
    python -m sb3_a3c.zoo optimize --algo a3c --env CartPole-v1 --n-trials 20

Each command has the options that it has in rl-zoo3, and works for rl-zoo3's own algorithms too. COMMAND --help lists them.
"""

import runpy
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from sb3_a3c.system.extras import MissingExtra

#: The commands, and the modules of rl-zoo3 that are run for them.
COMMANDS = {
    "train": "rl_zoo3.train",
    "optimize": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "benchmark": "rl_zoo3.benchmark",
    "plot_train": "rl_zoo3.plots.plot_train",
    "all_plots": "rl_zoo3.plots.all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "load_from_hub": "rl_zoo3.load_from_hub",
}


def main(argv: Sequence[str]) -> None:
    """
    Run a command.

    :param argv: The command, and its options
    """
    if not argv or argv[0] not in COMMANDS:
        known = f"{__doc__}\nCommands: {', '.join(COMMANDS)}\n"
        if argv and argv[0] in ("-h", "--help"):
            sys.stdout.write(known)
            return
        sys.exit(f"{known}\nThe first argument must be a command, but it is {argv[0]!r}" if argv else known)
    try:
        import sb3_a3c.zoo  # noqa: F401  registers A3C, before the command reads the names of algorithms
    except MissingExtra as error:
        sys.exit(str(error))
    command, *options = argv
    sys.argv = [f"python -m sb3_a3c.zoo {command}", *(["-optimize"] if command == "optimize" else []), *options]
    if command in ("benchmark", "record_training"):
        subprocess.call = _call  # type: ignore[assignment]
    runpy.run_module(COMMANDS[command], run_name="__main__", alter_sys=False)


def _call(command: Sequence[str], *args: Any, **kwargs: Any) -> int:
    """Commands that rl-zoo3 runs as ``python enjoy.py`` and ``python -m rl_zoo3.record_video`` have to know A3C, too."""
    ours = {("python", "enjoy.py"): "enjoy", ("python", "-m", "rl_zoo3.record_video"): "record"}
    for start, name in ours.items():
        if tuple(command[: len(start)]) == start:
            command = [sys.executable, "-m", "sb3_a3c.zoo", name, *command[len(start) :]]
    return subprocess.run(command, *args, check=False, **kwargs).returncode


if __name__ == "__main__":
    main(sys.argv[1:])

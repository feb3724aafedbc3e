"""The machine and the versions of a run, so that figures of different machines are not mixed up."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

from sb3_a3c.system.cores import usable_cores

_PACKAGES = ("sb3_a3c", "stable_baselines3", "gymnasium", "torch", "numpy", "numba")


@dataclass(frozen=True)
class Provenance:
    """Processor and cores, versions of Python and packages, and the number of runs made at once."""

    machine: str
    versions: str
    jobs: int

    @classmethod
    def here(cls, jobs: int) -> Self:
        """Return this machine and the installed versions."""
        machine = f"{_processor()}, {usable_cores()} of {os.cpu_count()} cores usable, {platform.system()}"
        versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
        return cls(machine, f"Python {platform.python_version()}, {versions}", jobs)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""With what and where runs were made, so that nobody takes figures of one machine for those of another."""

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
    """
    :param machine: Processor and cores
    :param versions: Of Python and of the packages that matter
    :param jobs: Runs that were made at once
    """

    machine: str
    versions: str
    jobs: int

    @classmethod
    def here(cls, jobs: int) -> Self:
        """
        :param jobs: Runs that are made at once
        :return: This machine, and what is installed
        """
        machine = f"{_processor()}, {usable_cores()} of {os.cpu_count()} cores usable, {platform.system()}"
        versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
        return cls(machine, f"Python {platform.python_version()}, {versions}", jobs)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""The number of cores that this process may use, by its affinity and the quota of its control groups (e.g. of a container)."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores() -> int:
    """
    :return: The number of cores that this process may use, at least 1
    """
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        cores = os.process_cpu_count()
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(cores or 1, cgroup_quota())))


def cgroup_quota(root: Path = Path("/")) -> float:
    """
    :param root: The folder in which ``proc`` and ``sys`` are mounted
    :return: The number of cores that the control groups of this process allow, ``inf`` if there is no limit
    """
    return min(_quotas(root), default=math.inf)


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of this process's group and of its parents, in both versions of control groups."""
    mounted = root / "sys/fs/cgroup"
    for hierarchy, group in _groups(root):
        if hierarchy == "":
            folder, read = mounted, _quota_v2
        elif "cpu" in hierarchy.split(","):
            folder, read = mounted / "cpu", _quota_v1
        else:
            continue
        path = Path(group.strip("/"))
        for part in (path, *path.parents):  # a container sees its own group as the root
            with suppress(OSError, ValueError, ZeroDivisionError):
                yield read(folder / part)


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """For each hierarchy: its controllers, separated by commas (version 2: empty), and the process's group."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            yield controllers, group


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return math.inf if quota < 0 else quota / int((folder / "cpu.cfs_period_us").read_text())

"""Usable cores are those that the affinity and the quotas of control groups leave."""

import math
import os
from pathlib import Path

import pytest

from sb3_a3c.system import cores

GROUPS = {
    "no control groups": ({}, math.inf),
    "version 2, no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, a limit further up": (
        {
            "proc/self/cgroup": "0::/a.slice/b.scope\n",
            "sys/fs/cgroup/a.slice/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/a.slice/b.scope/cpu.max": "max 100000\n",
        },
        2.0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "7:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/docker/x\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        math.inf,
    ),
    "not what it should be": ({"proc/self/cgroup": "0::/\nfoo\n", "sys/fs/cgroup/cpu.max": "many\n"}, math.inf),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quotas_of_control_groups(name: str, tmp_path: Path) -> None:
    files, quota = GROUPS[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert cores.cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "usable"), [(0.5, 1), (1.5, 2), (2.0, 2), (64.0, 4), (math.inf, 4)])
def test_cores_are_limited_by_quotas(quota: float, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    monkeypatch.setattr(cores, "cgroup_quota", lambda: quota)
    assert cores.usable_cores() == usable

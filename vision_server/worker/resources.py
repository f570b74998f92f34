"""What this process may use of the machine: cores and main memory, and a container's share of them.

A container that is limited (`docker run --cpus=1.5 --memory=4g`) still sees all of its machine. More threads than its
quota lets run wait for one another, for the most part of every period; and who takes more memory is killed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath

# A control group's limit and what it uses of it, as versions 2 and 1 call them.
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def usable_cores(root: Path = Path("/")) -> int:
    """At least 1. `root` is where the system's /proc and /sys are looked for."""
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(ceil(share) for share in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The cores' worth of time that each control group above this process may use, of those that are limited.

    The kernel's documents: admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us).
    """
    for folder in _folders(root, "cpu"):
        if (folder / "cpu.max").is_file():
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):  # "max" and -1 are no limit
            yield int(quota) / int(period)


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Main memory that can be taken without anybody's loss; None where the system does not tell as Linux does."""
    lines = [line.split() for line in _read(root / "proc" / "meminfo").splitlines()]
    free = [1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:" and words[1].isdigit()]
    for folder in _folders(root, "memory"):
        for limit, used in _MEMORY_FILES:
            most, taken = _read(folder / limit), _read(folder / used)
            if most.isdigit() and taken.isdigit():  # "max" is no limit
                free.append(max(0, int(most) - int(taken)))
    return min(free, default=None)


def _folders(root: Path, v1_controller: str) -> Iterator[Path]:
    """This process's control group and all above it, where they are mounted.

    A container may see its own group as the mount's root, although /proc names it by its path on the host.
    """
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            mount = root / "sys" / "fs" / "cgroup"
        elif v1_controller in controllers.split(","):
            mount = root / "sys" / "fs" / "cgroup" / controllers
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        yield from (mount / above for above in (path, *path.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""

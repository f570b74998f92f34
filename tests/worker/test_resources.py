"""How many threads and how much memory, with control groups that are files of the test's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vision_server.worker.resources import free_memory_bytes, usable_cores

CORES = 64


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)))
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: CORES)


def system(root: Path, cgroup: str, **files: str) -> Path:
    """`files` below /sys/fs/cgroup, "__" for "/" and "_dot_" for "." in their names."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup, encoding="utf-8")
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_without_control_groups_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == CORES


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("150000 100000\n", 2),
        ("200000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("12800000 100000\n", CORES),
        ("max 100000\n", CORES),
        ("junk", CORES),
        ("100000 0\n", CORES),
    ],
)
def test_the_quota_of_version_2_rounded_up(tmp_path: Path, text: str, cores: int) -> None:
    assert usable_cores(system(tmp_path, "0::/\n", cpu_dot_max=text)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000", 2), ("-1", CORES), ("400000", 4)])
def test_the_quota_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    files = {"cpu,cpuacct__cpu_dot_cfs_quota_us": quota, "cpu,cpuacct__cpu_dot_cfs_period_us": "100000"}
    cgroup = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"
    assert usable_cores(system(tmp_path, cgroup, **files)) == cores, "the container's own group is the mount's root"


def test_the_tightest_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {"a__b__cpu_dot_max": "max 100000", "a__cpu_dot_max": "300000 100000", "cpu_dot_max": "500000 100000"}
    assert usable_cores(system(tmp_path, "0::/a/b\n", **files)) == 3


def test_a_controller_of_a_like_name_is_another(tmp_path: Path) -> None:
    files = {"cpuset__cpu_dot_cfs_quota_us": "100000", "cpuset__cpu_dot_cfs_period_us": "100000"}
    assert usable_cores(system(tmp_path, "3:cpuset:/\n", **files)) == CORES


def test_here() -> None:
    assert 1 <= usable_cores() <= CORES


MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"
AVAILABLE = 1024 * 20_000_000


def with_meminfo(root: Path, text: str = MEMINFO) -> Path:
    (root / "proc" / "meminfo").write_text(text, encoding="utf-8")
    return root


def test_memory_is_what_the_system_has_available(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path) is None, "no Linux"
    assert free_memory_bytes(with_meminfo(system(tmp_path, "0::/\n"))) == AVAILABLE


@pytest.mark.parametrize(
    ("most", "used", "free"),
    [
        ("4000000000", "1000000000", 3_000_000_000),
        ("4000000000", "5000000000", 0),
        ("max", "1000000000", AVAILABLE),
        ("9000000000000", "0", AVAILABLE),
        ("junk", "junk", AVAILABLE),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_on_memory(tmp_path: Path, version: int, most: str, used: str, free: int) -> None:
    if version == 2:
        files = {"app__memory_dot_max": most, "app__memory_dot_current": used}
        root = system(tmp_path, "0::/app/inner\n", **files)
    else:
        files = {"memory__memory_dot_limit_in_bytes": most, "memory__memory_dot_usage_in_bytes": used}
        root = system(tmp_path, "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n", **files)
    assert free_memory_bytes(with_meminfo(root)) == free


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_this_machine_has_memory() -> None:
    found = free_memory_bytes()
    assert found is not None
    assert found > 0

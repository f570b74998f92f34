"""The whole command with the embedded checkpoint: Ray started by it, with an engine killed on the way; and a cluster
that runs already, by its address."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.bulk.making import SCENES, folder, parquet, tar

ROOT = Path(__file__).parents[2]
# "No cluster" has Ray listen on the loopback only. The command sets both itself where it is the one to start Ray.
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5eed" * 16}
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
WAIT_S = 240
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's processes are known by their names on Linux"),
    pytest.mark.timeout(WAIT_S + 60),
]


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder whose name leaves room for the sockets in it."""
    where = Path(tempfile.mkdtemp(dir="/tmp"))
    yield where
    shutil.rmtree(where)


def environment(**more: str) -> dict[str, str]:
    """ "No cluster" makes Ray listen on the loopback only; the command sets it itself where it starts Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VISION_"))}
    return kept | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"} | more


def start(source: Path, dest: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    config = dest.parent / "none.yaml"
    config.write_text("")
    command = [sys.executable, "-m", "vision_server", "bulk", str(source), str(dest), "--prompt", "CAPTION", *words]
    command += ["--config", str(config), "--model", "demo", "--device", "cpu", "--dtype", "float32"]
    return subprocess.Popen(
        command, env=environment(**more), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said, in one line and nowhere else."""
    out, err = process.communicate(timeout=WAIT_S)
    assert out == ""
    assert len(err.splitlines()) == 1, err
    return process.returncode, err


def until(happened: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline_s = time.monotonic() + WAIT_S
    while not (found := happened()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return found


def engines(of: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in of.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "(Answering)" in " ".join(one.cmdline()):
                found.append(one)
    return found


def listening(of: psutil.Process) -> set[str]:
    found: set[str] = set()
    for one in of.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def parts(dest: Path) -> list[Path]:
    return sorted(dest.glob("part-*")) if dest.exists() else []


def rows(dest: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in parts(dest):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        else:
            found += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return found


def test_an_engine_that_is_killed_costs_no_answer(tmp_path: Path, short: Path) -> None:
    """A folder, a tar and a parquet file; Ray is started by the command, quiet, on the loopback, and gone with it."""
    source, dest = folder(tmp_path / "in", 84), tmp_path / "out"
    (source / "broken.png").write_text("no picture")
    tar(source / "s.tar", [(path.name, path.read_bytes()) for path in SCENES[:4]])
    parquet(source / "p.parquet", {"image": [path.read_bytes() for path in SCENES[4:6]]})
    process = start(source, dest, "--part-pictures", "12", TMPDIR=str(short))
    head = psutil.Process(process.pid)
    until(lambda: parts(dest), process)
    [engine] = until(lambda: engines(head), process)
    engine.kill()
    addresses = listening(head)
    code, said = end_of(process)
    assert re.match(r"90 answered, 1 failed, 0 were there, 1 engines that died were replaced; \d+\.\d s\n$", said), said
    assert code == 0
    assert addresses
    assert addresses <= LOOPBACK
    assert not list(short.iterdir())
    answered = rows(dest)
    assert max(Counter((row["picture"], row["prompt"]) for row in answered).values()) == 1
    assert [row["error"] for row in answered if row["picture"] == "broken.png"] == ["bad_image"]
    of_scene: dict[str, set[str]] = {}
    for row in answered:
        if row["error"] is None and "#" not in row["picture"]:
            of_scene.setdefault(row["picture"][4:], set()).add(row["result"])
    assert {scene for scene, texts in of_scene.items() if len(texts) == 1} == {path.name for path in SCENES}
    inside = {row["picture"]: row["result"] for row in answered if "#" in row["picture"]}
    wanted = {f"s.tar#{path.stem}": path for path in SCENES[:4]} | {f"p.parquet#{n}": SCENES[4 + n] for n in (0, 1)}
    assert inside == {name: next(iter(of_scene[path.name])) for name, path in wanted.items()}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one machine, on the loopback."""
    where, port = Path(tempfile.mkdtemp(dir="/tmp")), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={where}", "--object-store-memory=100000000"]
    with subprocess.Popen(
        command, env=environment(**HERE), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = ""
        while "runtime started" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        try:
            yield f"127.0.0.1:{port}"
        finally:
            tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in tree:  # SIGTERM would have it wait half a minute for nobody
                with contextlib.suppress(psutil.Error):
                    one.kill()
            psutil.wait_procs(tree, timeout=30)
    shutil.rmtree(where)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_run_on_a_cluster_is_interrupted_and_goes_on(tmp_path: Path, address: str) -> None:
    source, dest = folder(tmp_path / "in", 84), tmp_path / "out"
    (source / "broken.png").write_text("no picture")
    words = ["--format", "jsonl", "--part-pictures", "12", "--address", address, "--engines", "1"]
    process = start(source, dest, *words, **HERE)
    until(lambda: parts(dest), process)
    process.send_signal(signal.SIGINT)
    code, said = end_of(process)
    assert code == 130
    assert said.endswith("; run it again to go on\n")
    before = {row["picture"]: row["result"] for row in rows(dest) if "result" in row}
    assert 12 <= len(before) < 84
    assert said.startswith(f"{len(before)} answered, ")
    (source / "broken.png").write_bytes(SCENES[0].read_bytes())
    code, said = end_of(start(source, dest, *words, "--retry-failed", **HERE))
    assert code == 0
    assert said.startswith(f"{85 - len(before)} answered, 0 failed, {len(before)} were there; "), said
    after = {row["picture"]: row["result"] for row in rows(dest)}
    assert len(after) == len(rows(dest)) == 85
    assert before.items() <= after.items()


def test_engines_that_always_die_end_the_run(address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bulk.dying", address], env=environment(**HERE), capture_output=True, text=True,
        timeout=WAIT_S,
    )  # fmt: skip
    assert "ended: engines died 2 times, one after the other, and answered nothing between. 2 deaths\n" in done.stdout

"""What the benchmarks that come by HTTP start does not outlive them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.bench.daemons import ROOT

PROGRAM = """
import sys, time
from tests.bench.daemons import end_orderly, running
end_orderly()
with running("--model", sys.argv[1], module="tests.fake_daemon") as daemon:
    print(daemon.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_a_script_that_is_ended_ends_its_daemon(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        daemon = psutil.Process(int(script.stdout.readline()))
        script.terminate()
    assert script.returncode == 128 + 15
    assert not psutil.wait_procs([daemon], 60)[1]

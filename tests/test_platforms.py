"""What has run on Linux alone is at least right in its types on Windows and macOS: no call there that they lack, unless
`sys.platform` is asked before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def checked(platform: str, *what: str | Path) -> tuple[int, str]:
    """mypy's verdict, with a cache of its own: another platform's types make that of the usual run useless."""
    cache = ROOT / ".mypy_cache" / platform
    command = [sys.executable, "-m", "mypy", f"--platform={platform}", f"--cache-dir={cache}", *map(str, what)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_package_and_the_nodes_call_nothing_that_the_platform_lacks(platform: str) -> None:
    code, said = checked(platform, "--package=vision_server", "--package=clients.comfyui")
    assert code == 0, said


def test_a_call_that_windows_lacks_is_found(tmp_path: Path) -> None:
    script = tmp_path / "posix_only.py"
    script.write_text("import os\nimport signal\n\nos.kill(1, signal.SIGKILL)\n")
    code, said = checked("win32", script)
    assert code == 1
    assert 'no attribute "SIGKILL"' in said

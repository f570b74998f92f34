"""service/install.sh and uninstall.sh, for real, into a folder: files only. With packages, and under a systemd that
runs, README.md there tells what was done by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="needs bash")


def run(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "service" / script), *words],
        capture_output=True, text=True, timeout=120, cwd="/", env={**os.environ, **environment},
    )  # fmt: skip


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    scripts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "service").glob("*.sh"))
    done = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_is_put_in_place_again_and_again_and_taken_away(tmp_path: Path) -> None:
    install = ("--root", str(tmp_path), "--files-only")
    for _ in range(2):
        done = run("install.sh", *install)
        assert done.returncode == 0, done.stderr
    first = files(tmp_path)
    unit = first["etc/systemd/system/vision-server.service"]
    assert unit == ((ROOT / "service/systemd/vision-server.service").read_bytes(), 0o644)
    assert first["etc/vision-server/environment"][1] == 0o600
    program = {name for name in first if name.startswith("opt/vision-server/vision_server/")}
    assert "opt/vision-server/vision_server/daemon.py" in program
    assert not any("__pycache__" in name or name.endswith(".new") for name in first)
    assert all(first[name][1] & 0o044 == 0o044 for name in program), "another user runs it"
    assert "opt/vision-server/vision-server.sh" in first

    (tmp_path / "etc/vision-server/environment").write_text("VISION_SERVER_MODEL=demo\n")
    (tmp_path / "opt/vision-server/vision_server/left_over.py").touch()
    assert run("install.sh", *install).returncode == 0
    again = files(tmp_path)
    assert again.pop("etc/vision-server/environment")[0] == b"VISION_SERVER_MODEL=demo\n"
    del first["etc/vision-server/environment"]
    assert again == first

    for _ in range(2):
        assert run("uninstall.sh", "--root", str(tmp_path)).returncode == 0
        assert list(files(tmp_path)) == ["etc/vision-server/environment"]
    assert run("uninstall.sh", "--root", str(tmp_path), "--purge").returncode == 0
    assert files(tmp_path) == {}


def test_a_dry_run_says_what_and_does_nothing(tmp_path: Path) -> None:
    done = run("install.sh", "--root", str(tmp_path), "--dry-run")
    assert done.returncode == 0
    assert files(tmp_path) == {}
    assert f"would write {tmp_path}/etc/systemd/system/vision-server.service" in done.stderr
    assert "would run: inside env" in done.stderr
    assert "chroot:" not in done.stderr, "that system has no getent, which is none of its user's business"
    here = run("install.sh", "--dry-run", "--socket")
    assert "would run: control enable --quiet --now vision-server.socket" in here.stderr
    gone = run("uninstall.sh", "--dry-run", "--purge")
    assert "would run: rm -rf /opt/vision-server" in gone.stderr
    assert not Path("/opt/vision-server/vision_server").exists()


def test_a_users_unit_runs_this_checkout(tmp_path: Path) -> None:
    words = ("--user", "--files-only", "--no-start")
    for _ in range(2):
        done = run("install.sh", *words, XDG_CONFIG_HOME=str(tmp_path), HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
    unit, mode = files(tmp_path)["systemd/user/vision-server.service"]
    assert f"ExecStart={ROOT}/.venv/bin/python -m vision_server serve\n" in unit.decode()
    assert mode == 0o644
    assert "%h" not in unit.decode().partition("[Service]")[2]
    assert run("uninstall.sh", "--user", "--purge", XDG_CONFIG_HOME=str(tmp_path), HOME=str(tmp_path)).returncode == 0
    assert files(tmp_path) == {}


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_it_is_found_through_a_link(script: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ROOT / "service" / script)
    done = subprocess.run([str(tmp_path / "link"), "--help"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--dry-run" in done.stdout


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_words_that_are_none(script: str, tmp_path: Path) -> None:
    for words, said in (
        (("--rooot", "/x"), "there is no option --rooot; --help lists them"),
        (("--root",), "--root wants a folder"),
        (("--root", str(tmp_path / "nowhere")), "there is no folder"),
        (("--root", str(tmp_path), "--user"), "--user goes with neither"),
    ):
        done = run(script, *words)
        assert done.returncode == 1
        assert done.stderr.startswith("vision-server: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    helped = run(script, "--help")
    assert helped.returncode == 0
    assert "--dry-run" in helped.stdout
    assert files(tmp_path) == {}

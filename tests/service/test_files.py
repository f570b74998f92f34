"""The files in service/: systemd, the shell and PowerShell scripts, launchd, the container's; each by the tool that
reads it, where there is one here."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.clients.test_powershell_client import faults, newer_than_5_1
from vision_server import cli, settings

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service"
UNITS = (SERVICE / "systemd" / "vision-server.service", SERVICE / "systemd" / "vision-server.socket")
USER_UNIT = SERVICE / "systemd" / "user" / "vision-server.service"
README = (SERVICE / "README.md").read_text(encoding="utf-8")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


def with_python(unit: Path, folder: Path) -> Path:
    """The unit with an interpreter that exists in place of the installed one."""
    copy = folder / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text(), flags=re.MULTILINE))
    return copy


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    copies = [str(with_python(unit, tmp_path)) for unit in UNITS]
    done = analyze("verify", "--man=no", *copies)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_users_unit(tmp_path: Path) -> None:
    done = analyze("--user", "verify", "--man=no", str(with_python(USER_UNIT, tmp_path)), XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_the_unit_is_as_closed_as_the_readme_says(tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", str(with_python(UNITS[0], tmp_path)))
    [score] = re.findall(r"Overall exposure level for vision-server\.service: ([\d.]+)", done.stdout)
    assert (done.returncode, float(score) <= 2.0) == (0, True), done.stdout
    assert f"exposure level of {score}" in README


def test_what_the_daemon_needs_of_a_unit_is_there() -> None:
    """Each of these was a fault in somebody's unit: a worker that gets SIGTERM too, a service that ends with it."""
    for unit in (UNITS[0], USER_UNIT):
        assert values(unit, "Type") == ["notify"]
        assert values(unit, "NotifyAccess") == ["main"]
        assert values(unit, "KillMode") == ["mixed"]
        assert values(unit, "OOMPolicy") == ["continue"]
        assert values(unit, "RestartPreventExitStatus") == ["2"]
        assert float(values(unit, "WatchdogSec")[0]) >= 30
        assert float(values(unit, "TimeoutStopSec")[0]) > settings.TABLE["shutdown_grace_s"].default
    assert "MemoryDenyWriteExecute" not in " ".join(re.findall(r"^\w+(?==)", UNITS[0].read_text(), re.MULTILINE))


def test_every_setting_that_is_named_exists() -> None:
    known = {row.variable for row in settings.TABLE.values()}
    for path in [path for path in SERVICE.rglob("*") if path.is_file()]:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"VISION_SERVER_[A-Z_]+[A-Z]", text)) <= known, path.name


@pytest.mark.parametrize("script", sorted((SERVICE / "windows").glob("*.ps1")), ids=lambda path: path.name)
def test_the_powershell_scripts_parse_and_hold_nothing_newer_than_5_1(script: Path) -> None:
    assert faults(script.read_bytes()) == []
    assert newer_than_5_1(script.read_bytes()) == []
    assert script.read_bytes().isascii()


def test_both_windows_scripts_mean_the_same_service() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((SERVICE / "windows").glob("*.ps1"))]
    assert all("$Name = 'vision-server'" in text and "SupportsShouldProcess" in text for text in texts)
    assert "'-m vision_server serve'" in texts[0]
    [stop_ms] = re.findall(r"'AppStopMethodConsole', '(\d+)'", texts[0])
    assert int(stop_ms) / 1000 > settings.TABLE["shutdown_grace_s"].default


def test_windows_powershell_takes_no_word_of_nssm_for_its_own_error() -> None:
    """With Stop in force 5.1 ends at the first line of a program on standard error that is redirected."""
    for path in sorted((SERVICE / "windows").glob("*.ps1")):
        code = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        calls = [number for number, line in enumerate(code) if "2>&1" in line]
        assert [code[number - 1] for number in calls] == ["$ErrorActionPreference = 'Continue'"], path.name


def test_launchds_file() -> None:
    read = plistlib.loads((SERVICE / "launchd" / "local.vision-server.plist").read_bytes())
    assert read["Label"] == "local.vision-server"
    assert read["ProgramArguments"][1:] == ["-m", "vision_server", "serve"]
    assert read["ProgramArguments"][3] in cli.COMMANDS
    assert read["ExitTimeOut"] > settings.TABLE["shutdown_grace_s"].default
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["Umask"] == 0o077


def test_compose_builds_what_is_here_and_asks_for_a_key() -> None:
    read = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
    assert set(read["services"]) == {"cpu", "cuda"}
    for name, service in read["services"].items():
        assert (SERVICE / service["build"]["context"] / service["build"]["dockerfile"]).samefile(SERVICE / "Dockerfile")
        assert service["build"]["args"] == {"DEVICE": name}
        assert service["profiles"] == [name]
        assert ":?" in service["environment"]["VISION_SERVER_API_KEY"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["volumes"] == ["cache:/cache"]


def test_the_image_is_built_from_files_that_there_are_and_that_are_let_in() -> None:
    text = (SERVICE / "Dockerfile").read_text(encoding="utf-8")
    let_in = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {word for words in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for word in words.split()}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "vision_server"}
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in let_in
    assert re.search(r"^USER vision-server$", text, re.MULTILINE)
    assert "/health" in text[text.index("HEALTHCHECK") :]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for pinned in re.findall(r"grep '\^([\w-]+)==' constraints", text):
        assert len(re.findall(rf"^{pinned}==", constraints, re.MULTILINE)) == 1, pinned


def test_the_readme_names_what_is_here() -> None:
    named = set(re.findall(r"`([\w][\w./-]*\.(?:sh|ps1|service|socket|cfg|yaml|plist))`", README))
    for name in named:
        assert (SERVICE / name).exists(), name
    there = {str(path.relative_to(SERVICE)) for path in SERVICE.rglob("*") if path.is_file()}
    assert {name for name in there if re.search(r"\.(sh|ps1|service|socket|cfg|yaml|plist)$", name)} - named == {
        "common.sh"
    }

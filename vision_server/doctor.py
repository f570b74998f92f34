"""What `vision-server doctor` prints: versions, device, memory, cache, settings and their sources, and what is wrong.

With `--server` it looks at a running server instead; what that is asked stands in `client.checkup`.

Torch is asked in a process of its own, as the daemon never loads it either. Nothing is changed, nothing is fetched.
"""

from __future__ import annotations

import errno
import json
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from . import __version__, hub, settings
from .catalog import Checkpoint
from .client import checkup
from .errors import BadSetting, VisionError
from .served import served, source
from .settings import Loaded, Settings

_PACKAGES = ("torch", "aiohttp", "pillow", "tokenizers", "safetensors", "numpy", "huggingface-hub")
_TORCH_TIMEOUT_S = 120  # the first import after an install reads a gigabyte
_ASK_TORCH = """
import json, torch
devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
if torch.backends.mps.is_available(): devices.append("mps")
if hasattr(torch, "xpu") and torch.xpu.is_available(): devices.append("xpu")
print(json.dumps({"devices": devices, "threads": torch.get_num_threads()}))
"""


def main(flags: Mapping[str, Any], config: Path | None, server: str | None = None) -> int:
    """Print the report, on this machine or on the server at an address; 1 if something is wrong, else 0."""
    report = Report()
    if server is not None:
        report.section("running server")
        for finding in checkup.examine(server, settings.server_to_ask()[1]):
            (report.fault if finding.is_wrong else report.line)(finding.name, finding.text)
        report.finish()
        return 1 if report.faults else 0
    report.section("versions")
    _versions(report)
    report.section("machine")
    _machine(report)
    report.section("settings")
    try:
        loaded = settings.load(flags, config)
    except BadSetting as error:
        report.fault("settings", str(error))
    else:
        _settings(report, loaded)
        report.section("checkpoints and port")
        checkpoints(report, loaded.settings)
        _port(report, loaded.settings)
    report.finish()
    return 1 if report.faults else 0


class Report:
    """Lines of `name: value`, and the faults again at the end."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def section(self, title: str) -> None:
        sys.stdout.write(f"\n{title}\n")

    def line(self, name: str, value: object) -> None:
        sys.stdout.write(f"  {name:22}{value}\n")

    def fault(self, name: str, text: str) -> None:
        self.faults.append(text)
        self.line(name, f"WRONG: {text}")

    def finish(self) -> None:
        if not self.faults:
            sys.stdout.write("\nNothing is wrong.\n")
            return
        sys.stdout.write(f"\nWhat is wrong ({len(self.faults)}):\n")
        for text in self.faults:
            sys.stdout.write(f"  - {text}\n")


def _versions(report: Report) -> None:
    report.line("vision-server", __version__)
    report.line("python", f"{platform.python_version()} ({sys.executable})")
    report.line("system", platform.platform())
    for name in _PACKAGES:
        try:
            report.line(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            report.fault(name, f"{name} is not installed: install vision-server again.")


def _machine(report: Report) -> None:
    memory = psutil.virtual_memory()
    report.line("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    report.line("cores", psutil.cpu_count() or "unknown")
    try:
        found = _ask_torch()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report.fault("torch", f"torch does not run here ({type(error).__name__}): install it again.")
        return
    report.line("devices", ", ".join([*found["devices"], f"cpu ({found['threads']} threads)"]))


def _ask_torch() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH],
        capture_output=True,
        text=True,
        timeout=_TORCH_TIMEOUT_S,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1] if done.stdout else "")
    return found


def _settings(report: Report, loaded: Loaded) -> None:
    state = "" if loaded.config_path.is_file() else " (not there, which is fine)"
    report.line("file", f"{loaded.config_path}{state}")
    for name, origin in loaded.origins.items():
        value = getattr(loaded.settings, name)
        if settings.TABLE[name].secret and value is not None:
            value = "********"
        report.line(name, f"{value}" if origin == "default" else f"{value}    <- {origin}")


def checkpoints(report: Report, chosen: Settings) -> None:
    """The cache, and of each checkpoint that is served whether it is on disk or can get there."""
    cache = hub.cache_folder(chosen.cache_dir)
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(nearest).free
    report.line("checkpoint cache", f"{cache} ({free_bytes / 2**30:.1f} GiB free)")
    try:
        every = served(chosen)
    except BadSetting as error:
        report.fault("model", str(error))
        return
    for one in every:
        checkpoint = one.checkpoint
        if (wanted := source(checkpoint, chosen)) is not None:
            _downloaded(report, checkpoint, wanted, free_bytes)
        elif checkpoint.directory is not None:
            _in_folder(report, checkpoint.name, checkpoint.directory)


def _in_folder(report: Report, name: str, folder: Path) -> None:
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        report.fault("model", f"model {name}: {folder} holds no weights.")
        return
    size = sum(file.stat().st_size for file in weights)
    report.line("model", f"{name} in {folder}, {size / 1e6:,.1f} MB")


def _downloaded(report: Report, checkpoint: Checkpoint, wanted: hub.Source, free_bytes: int) -> None:
    try:
        found = hub.presence(wanted)
    except VisionError as error:
        report.fault("model", f"model {checkpoint.name}: {error}")
        return
    what = f"model {checkpoint.name}: {wanted.repository} at {wanted.revision}"
    if found.state == "complete":
        report.line("model", f"{checkpoint.name} in {found.folder}, {found.size_bytes / 1e6:,.1f} MB")
    elif hub.is_offline(wanted):
        report.fault("model", f"{what} is {found.state} on this disk, and offline mode keeps it from being fetched.")
    elif (lacking := (checkpoint.size_bytes or 0) - found.size_bytes) > free_bytes:
        report.fault("model", f"{what} needs {lacking / 1e9:.1f} GB more, and {free_bytes / 1e9:.1f} GB are free.")
    else:
        size = f", {checkpoint.size_bytes / 1e9:.1f} GB" if checkpoint.size_bytes else ""
        report.line("model", f"{checkpoint.name} is {found.state} on this disk: its first request fetches it{size}")


def _port(report: Report, chosen: Settings) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(chosen.host, chosen.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if sys.platform != "win32":  # as the daemon does: connections that linger do not hold the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken; perhaps by a vision-server that already runs" if taken else "cannot be listened on"
        report.fault("port", f"port {chosen.port} on {chosen.host} {why}.")
        return
    report.line("port", f"{chosen.port} on {chosen.host} is free")

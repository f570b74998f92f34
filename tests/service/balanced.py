"""Several machines behind Debian's HAProxy with service/haproxy.cfg: each in a network of its own where this one allows
that, else on a port of its own. Not a test."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.daemon_process import ENVIRONMENT, Daemon

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "service" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
KEY = "a-key-for-the-machines-of-this-test"
_NETWORK = "10.203"
_WAIT_S = 120


def until(happened: Callable[[], object], what: str) -> None:
    """Wait for it, asking often. Raises AssertionError after two minutes."""
    end_s = time.monotonic() + _WAIT_S
    while not happened():
        assert time.monotonic() < end_s, f"{what} has not happened"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Machine:
    """One that runs a daemon. `prefix` is what runs a command there."""

    name: str
    host: str
    port: int
    prefix: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    module: str = "vision_server"
    daemon: Daemon | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Returns when it listens."""
        command = [*self.prefix, sys.executable, "-m", self.module, "--host", self.host, "--port", str(self.port)]
        environment = ENVIRONMENT | {"VISION_SERVER_API_KEY": KEY}
        process = subprocess.Popen(
            [*command, *self.words], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            self.daemon = Daemon(process)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        threading.Thread(target=process.communicate, daemon=True).start()  # a full pipe would stop it

    def kill(self) -> None:
        """As by a power cut: no goodbye."""
        if self.daemon is not None:
            self.daemon.process.kill()
            self.daemon.process.wait()

    def leave(self) -> int:
        """SIGTERM; its exit code."""
        assert self.daemon is not None
        self.daemon.process.terminate()
        return self.daemon.process.wait(_WAIT_S)


@dataclass
class Proxy:
    url: str
    stats_url: str
    admin: Path
    machines: list[Machine] = field(default_factory=list)

    def say(self, command: str) -> str:
        """One command to the running HAProxy."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.admin))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def status(self, name: str) -> str:
        """UP, DOWN, DRAIN, MAINT ... of this machine."""
        lines = self.say("show stat").splitlines()
        columns = lines[0].removeprefix("# ").split(",")
        rows = [dict(zip(columns, line.split(","), strict=False)) for line in lines[1:] if line]
        return next(row["status"] for row in rows if (row["pxname"], row["svname"]) == ("machines", name))


def adapted(machines: Sequence[Machine], folder: Path, port: int, stats_port: int) -> str:
    """The file as it is, but for addresses, users and the log."""
    text = CONFIG.read_text(encoding="utf-8")
    head, servers = re.split(r"^    server a .*\n", text, maxsplit=1, flags=re.MULTILINE)
    rest = re.sub(r"^    server .*\n", "", servers, flags=re.MULTILINE)
    listed = "".join(f"    server {one.name} {one.host}:{one.port}\n" for one in machines)
    for before, after in (
        (r"^    (log /dev/log|user|group) .*\n", ""),
        (r"/run/haproxy/admin\.sock", str(folder / "admin.sock")),
        (r"bind :54880", f"bind 127.0.0.1:{port}"),
        (r"bind 127\.0\.0\.1:8404", f"bind 127.0.0.1:{stats_port}"),
    ):
        head, rest = (re.sub(before, after, part, flags=re.MULTILINE) for part in (head, rest))
    return head + listed + rest


@contextlib.contextmanager
def proxy(machines: Sequence[Machine], folder: Path) -> Iterator[Proxy]:
    """A running HAProxy that has checked every machine once."""
    assert HAPROXY is not None
    port, stats_port = free_port(), free_port()
    config = folder / "haproxy.cfg"
    config.write_text(adapted(machines, folder, port, stats_port), encoding="utf-8")
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        running = Proxy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{stats_port}", folder / "admin.sock")
        until(running.admin.exists, "HAProxy's start")
        until(lambda: "L7OK" in running.say("show stat") or "L4CON" in running.say("show stat"), "a check")
        yield running
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def machines(
    names: Sequence[str], *words: str, namespaces: bool = False, module: str = "vision_server"
) -> Iterator[list[Machine]]:
    """Not started yet; ended at the end. `words` are flags of each daemon."""
    with contextlib.ExitStack() as stack:
        if namespaces:
            found = [stack.enter_context(_in_a_network(name, i + 1)) for i, name in enumerate(names)]
        else:
            found = [Machine(name, "127.0.0.1", free_port()) for name in names]
        for machine in found:
            machine.words, machine.module = words, module
            stack.callback(machine.kill)
        yield found


@contextlib.contextmanager
def _in_a_network(name: str, number: int) -> Iterator[Machine]:
    """A network namespace that only a cable joins to this machine's. Needs root and iproute2."""
    space, near, far = f"vs-{os.getpid()}-{name}", f"vs{number}-near", f"vs{number}-far"
    ours, theirs = f"{_NETWORK}.{number}.1", f"{_NETWORK}.{number}.2"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", space)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        ip("addr", "add", f"{ours}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", space, "addr", "add", f"{theirs}/30", "dev", far)
        ip("-n", space, "link", "set", far, "up")
        ip("-n", space, "link", "set", "lo", "up")
        yield Machine(name, theirs, 54880, ("ip", "netns", "exec", space))
    finally:
        ip("netns", "del", space)

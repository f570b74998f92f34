"""What is said to a service manager, over a real datagram socket, and what is taken over from one; then a whole daemon
under a manager that watches it, with a socket of ours, stopped and stuck."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon_process import ENVIRONMENT, Daemon
from vision_server import daemon, settings
from vision_server.errors import BadSetting
from vision_server.service_manager import VARIABLES, Manager, Told, inherited, told
from vision_server.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="AF_UNIX datagrams")
WAIT_S = 60


class Listener:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(WAIT_S)

    def heard(self) -> list[str]:
        """The lines of the next message; the wait for it is bounded."""
        return self.socket.recv(4096).decode().split("\n")

    def until(self, line: str) -> list[list[str]]:
        """All messages up to the first that holds this line."""
        messages = [self.heard()]
        while line not in messages[-1]:
            messages.append(self.heard())
        return messages

    def silence(self, seconds: float) -> list[str]:
        """What comes although nothing should."""
        self.socket.settimeout(seconds)
        try:
            return self.heard()
        except TimeoutError:
            return []
        finally:
            self.socket.settimeout(WAIT_S)


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "path":
        return str(tmp_path / "notify")
    if sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    return f"@vision-server-test-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    listener = Listener(address)
    with listener.socket:
        yield listener


class TestManager:
    async def test_what_it_is_told(self, address: str, listener: Listener) -> None:
        manager = Manager(address)
        manager.ready(lambda: "unloaded,\n0 waiting")
        assert listener.heard() == ["READY=1", "STATUS=unloaded, 0 waiting"]
        manager.stopping(45.5)
        assert listener.heard() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=45500000"]
        manager.close()
        assert listener.silence(0.05) == []

    async def test_the_watchdog_is_fed_twice_in_its_time(self, address: str, listener: Listener) -> None:
        manager, states = Manager(address, 0.4), ["a", "a", "b", "b"]
        before_s = time.monotonic()
        manager.ready(lambda: states.pop(0) if states else "b")
        said = [await asyncio.to_thread(listener.heard) for _ in range(4)]
        took_s = time.monotonic() - before_s
        manager.close()
        assert said == [["READY=1", "STATUS=a"], ["WATCHDOG=1"], ["WATCHDOG=1", "STATUS=b"], ["WATCHDOG=1"]]
        assert took_s >= 3 * 0.2

    async def test_a_loop_that_stands_still_does_not_feed_it(self, address: str, listener: Listener) -> None:
        manager = Manager(address, 0.1)
        manager.ready(lambda: "")
        assert listener.heard()[0] == "READY=1"
        assert listener.silence(0.5) == []  # and nothing else runs meanwhile
        assert await asyncio.to_thread(listener.heard) == ["WATCHDOG=1"]
        manager.close()

    async def test_a_manager_that_does_not_listen_stops_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Once it listens, or has read what is there, it is told again."""
        address = str(tmp_path / "notify")
        manager = Manager(address)
        manager.ready(lambda: "x")
        manager.stopping(1)
        assert [record.getMessage() for record in caplog.records] == [
            "the service manager cannot be told anything (FileNotFoundError)"
        ]
        listener = Listener(address)
        with listener.socket:
            for _ in range(1000):  # more than a socket holds: the loop must not wait for who does not read
                manager.stopping(1)
            assert listener.heard()[0] == "STOPPING=1"
        manager.close()

    async def test_without_one_nothing_is_said(self) -> None:
        manager = Manager(None)
        manager.ready(lambda: pytest.fail("nobody wants to know"))
        manager.stopping(1)
        manager.close()


class TestTold:
    def test_everything(self) -> None:
        variables = {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7", "LISTEN_FDS": "2"}
        assert told({**variables, "LISTEN_PID": "7"}, 7) == Told("@n", 1.5, 2)
        assert told({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000"}, 7) == Told("/n", 2.0, 0)

    def test_what_is_meant_for_another_process(self) -> None:
        variables = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "8", "LISTEN_FDS": "2"}
        assert told({**variables, "LISTEN_PID": "8"}, 7) == Told("/n", None, 0)
        assert told(variables, 7) == Told("/n", None, 0)

    @pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "²"])
    def test_nonsense(self, text: str) -> None:
        variables = dict.fromkeys(("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"), text)
        assert told({**variables, "LISTEN_PID": "7", "NOTIFY_SOCKET": ""}, 7) == Told()

    def test_the_variables_are_taken_out_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", "/n")
        monkeypatch.delenv("LISTEN_FDS", raising=False)
        assert settings.take_variables(VARIABLES)["NOTIFY_SOCKET"] == "/n"
        assert "NOTIFY_SOCKET" not in os.environ


class TestSockets:
    def test_one_that_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as ours:
            fd = os.dup(ours.fileno())
            os.set_inheritable(fd, True)
            [taken] = inherited(1, fd)
            with taken:
                assert taken.getsockname() == ours.getsockname()
                assert not taken.get_inheritable()

    def test_what_is_none_of_tcp(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other, pytest.raises(BadSetting, match="not TCP"):
            inherited(1, os.dup(other.fileno()))
        with (tmp_path / "file").open("wb") as file, pytest.raises(BadSetting, match="no socket"):
            inherited(1, os.dup(file.fileno()))

    def test_its_address_is_what_the_settings_are_checked_against(self) -> None:
        with socket.create_server(("0.0.0.0", 0)) as wide, socket.create_server(("127.0.0.1", 0)) as local:
            assert daemon._at([local], Settings()).port == local.getsockname()[1]
            with pytest.raises(BadSetting, match="can be reached from other machines"):
                daemon._at([local, wide], Settings())
            at = daemon._at([local, wide], Settings(api_key="x" * 20))
            assert (at.host, at.loopback) == ("0.0.0.0", False)


_PRELUDE = (
    "import os, sys\n"
    "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
    "if os.environ.get('GIVEN'): os.dup2(int(os.environ['GIVEN']), 3)\n"
    "sys.argv[0] = 'fake'\n"
    "from tests import fake_daemon\n"
    "from functools import partial\n"
    "from vision_server import cli, daemon\n"
    "daemon.main = partial(daemon.main, worker_command=fake_daemon.FAKE_WORKER)\n"
    "sys.exit(cli.main())\n"
)


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[tuple[Daemon, Listener, int]]:
    """A daemon with a watchdog of 1 s, whose manager has handed it the socket on this port."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(f"model: {tmp_path / 'toy'}\nprompts: [<FAKE>]\n")
    listener = Listener(str(tmp_path / "notify"))
    with ExitStack() as stack:
        stack.enter_context(listener.socket)
        given = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", "LISTEN_FDS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE, "--config", str(tmp_path / "config.yaml")],
            stderr=subprocess.PIPE, text=True, pass_fds=[given.fileno()],
            env=ENVIRONMENT | environment | {"GIVEN": str(given.fileno())},
        )  # fmt: skip
        stack.enter_context(process)
        stack.callback(process.kill)
        yield Daemon(process), listener, given.getsockname()[1]


def test_a_managed_daemon_from_start_to_end(managed: tuple[Daemon, Listener, int]) -> None:
    running, listener, port = managed
    assert running.url == f"http://127.0.0.1:{port}"
    assert listener.heard() == ["READY=1", "STATUS=unloaded, model toy, 0 waiting, 0 in flight"]
    assert running.caption("x")[0] == 200
    listener.until("STATUS=ready, model toy, 0 waiting, 0 in flight")
    worker = Path(f"/proc/{running.call('/status')[1]['worker_pid']}/environ")
    if worker.exists():
        assert b"NOTIFY_SOCKET" not in worker.read_bytes()
    running.process.terminate()
    said = [line for message in listener.until("STOPPING=1") for line in message]
    assert "EXTEND_TIMEOUT_USEC=45000000" in said
    assert running.process.wait(WAIT_S) == 0


def test_a_stopped_daemon_does_not_feed_its_watchdog(managed: tuple[Daemon, Listener, int]) -> None:
    """SIGSTOP, as whatever keeps the event loop from going round."""
    running, listener, _ = managed
    listener.until("WATCHDOG=1")
    running.process.send_signal(signal.SIGSTOP)
    while listener.silence(0.7):  # what was sent before
        pass
    assert listener.silence(1.5) == []
    running.process.send_signal(signal.SIGCONT)
    assert "WATCHDOG=1" in listener.heard()


def test_a_stuck_daemon_says_where_it_stood_when_the_watchdog_ends_it(managed: tuple[Daemon, Listener, int]) -> None:
    running, listener, _ = managed
    listener.until("WATCHDOG=1")
    running.process.send_signal(signal.SIGABRT)  # what systemd sends
    assert running.process.wait(WAIT_S) == -signal.SIGABRT
    assert running.process.stderr is not None
    assert "Fatal Python error: Aborted" in running.process.stderr.read()

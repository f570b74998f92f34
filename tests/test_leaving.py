"""How the daemon leaves, beyond what test_cli shows: while it loads, with a deaf worker, with a body on its way; and
that a second one on its port does it no harm."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.daemon_process import ENVIRONMENT, GIF, Daemon

WAIT_S = 30
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A daemon whose worker is the one without a model; `worker` are its flags; it inherits some signals `ignored`."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text("{}")
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {json.dumps(str(tmp_path / 'toy'))}\nprompts: [<FAKE>]\nport: 0\n")
    with ExitStack() as stack:

        def begin(*words: str, worker: tuple[str, ...] = (), ignored: tuple[int, ...] = ()) -> Daemon:
            code = (
                "import signal, sys; from functools import partial; from vision_server import cli, daemon\n"
                f"for number in {tuple(map(int, ignored))!r}: signal.signal(number, signal.SIG_IGN)\n"
                f"worker = (sys.executable, '-m', 'tests.fake_worker', *{worker!r})\n"
                "daemon.main = partial(daemon.main, worker_command=worker)\n"
                "sys.exit(cli.main())\n"
            )
            command = [sys.executable, "-c", code, "--config", str(config), *words]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT))
            stack.callback(process.kill)
            return Daemon(process)

        yield begin


def gone(pid: int) -> bool:
    """A worker that outlived its daemon is reaped by the system's first process, or stays as a zombie."""
    try:
        _, alive = psutil.wait_procs([worker := psutil.Process(pid)], timeout=WAIT_S)
        return not alive or worker.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until_loading(daemon: Daemon) -> int:
    while (status := daemon.call("/status")[1])["load_phase"] != "weights":
        pass
    return int(status["worker_pid"])


def until_draining(daemon: Daemon) -> None:
    while daemon.call("/ready")[0] == 200:
        pass


def test_a_second_daemon_on_the_port_says_so_and_the_first_is_unharmed(start: Start, tmp_path: Path) -> None:
    first, gate = start(), tmp_path / "gate"
    port = first.url.rpartition(":")[2]
    second = [sys.executable, "-m", "vision_server", "--config", str(tmp_path / "config.yaml"), "--port", port]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(first.caption, f"gate:{gate}")
        worker = first.until_in_flight(1)
        try:
            done = subprocess.run([*second, "--standby"], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        finally:
            gate.touch()
        assert running.result(WAIT_S)[0] == 200
    said = f"vision-server: port {port} on 127.0.0.1 is taken: stop what listens there, or choose another with --port."
    assert done.returncode == 1
    assert said in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert first.call("/status")[1]["worker_pid"] == worker


@pytest.mark.parametrize(
    ("numbers", "ignored"),
    [
        pytest.param(("SIGINT",), (), id="Ctrl-C"),
        pytest.param(("SIGINT",), ("SIGINT",), id="Ctrl-C, in a script's background"),
        pytest.param(("SIGHUP",), (), id="its terminal is closed", marks=POSIX),
        pytest.param(("SIGHUP", "SIGHUP"), (), id="its terminal is closed, told twice", marks=POSIX),
        pytest.param(("SIGTERM", "SIGHUP"), (), id="the session is ended", marks=POSIX),
    ],
)
def test_it_finishes_what_is_in_flight(
    start: Start, tmp_path: Path, numbers: tuple[str, ...], ignored: tuple[str, ...]
) -> None:
    daemon, gate = start(ignored=tuple(getattr(signal, name) for name in ignored)), tmp_path / "gate"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.caption, f"gate:{gate}")
        worker = daemon.until_in_flight(1)
        for name in numbers:
            daemon.process.send_signal(getattr(signal, name))
            until_draining(daemon)
        gate.touch()
        assert running.result(WAIT_S)[0] == 200
    assert daemon.process.wait(WAIT_S) == 0
    assert gone(worker)


@POSIX
def test_under_nohup_a_closed_terminal_changes_nothing(start: Start) -> None:
    daemon = start(ignored=(signal.SIGHUP,))
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.caption("x")[0] == 200
    assert daemon.call("/ready")[0] == 200
    daemon.process.terminate()
    assert daemon.process.wait(WAIT_S) == 0


def test_with_a_notice_all_is_served_while_ready_says_that_it_leaves(start: Start) -> None:
    daemon = start("--leave-notice", "60")
    worker = (daemon.caption("x"), daemon.until_in_flight(0))[1]
    daemon.process.terminate()
    until_draining(daemon)
    assert daemon.call("/status")[1]["leaving"]
    assert daemon.call("/health")[0] == 200
    assert daemon.caption("x")[0] == 200
    with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))) as kept:
        kept.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        kept.settimeout(WAIT_S)
        answer = b""
        while data := kept.recv(4096):  # it ends with the answer, so that nothing more is sent on it
            answer += data
    assert b" 200 OK\r\n" in answer
    assert b"connection: close\r\n" in answer.lower()
    daemon.process.terminate()
    assert daemon.process.wait(WAIT_S) == 128 + signal.SIGTERM
    assert gone(worker)


def test_who_waits_for_the_load_is_served_before_it_leaves(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    daemon = start(worker=("--load", "slow", "--gate", str(gate)))
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(daemon.caption, "x") for _ in range(3)]
        while daemon.call("/status")[1]["queue_depth"] != 3:
            pass
        until_loading(daemon)
        daemon.process.terminate()
        until_draining(daemon)
        gate.touch()
        assert [one.result(WAIT_S)[0] for one in waiting] == [200] * 3
    assert daemon.process.wait(WAIT_S) == 0


@pytest.mark.parametrize("deaf", [False, True])
def test_a_load_that_outlasts_the_grace_is_told_and_its_worker_ended(start: Start, tmp_path: Path, deaf: bool) -> None:
    daemon = start("--shutdown-grace", "0.1", worker=("--load", "slow", "--gate", str(tmp_path / "never")))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(daemon.caption, "x")
        worker = until_loading(daemon)
        if deaf:
            psutil.Process(worker).suspend()
        daemon.process.terminate()
        status, error = waiting.result(WAIT_S)
    assert (status, error["code"]) == (503, "unavailable")
    assert daemon.process.wait(WAIT_S) == 0
    assert gone(worker)


def test_a_second_signal_of_another_kind_leaves_at_once_while_it_loads(start: Start, tmp_path: Path) -> None:
    daemon = start("--shutdown-grace", "600", worker=("--load", "slow", "--gate", str(tmp_path / "never")))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(daemon.caption, "x")
        worker = until_loading(daemon)
        psutil.Process(worker).suspend()
        daemon.process.terminate()
        until_draining(daemon)
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(WAIT_S) == 128 + signal.SIGINT
        assert isinstance(waiting.exception(WAIT_S), OSError)
    assert gone(worker)


def test_who_still_sends_a_body_is_refused_and_not_cut_off(start: Start) -> None:
    daemon = start()
    assert daemon.process.stderr is not None
    with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))) as client:
        head = "POST /process_image?prompt=FAKE HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
        client.sendall(f"{head}{len(GIF)}\r\n\r\n".encode() + GIF[:10])
        while daemon.call("/status")[1]["standby_pid"] is None:
            pass
        daemon.process.terminate()
        while "leaving: " not in daemon.process.stderr.readline():
            pass
        client.sendall(GIF[10:])
        with client.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 503 ")
    assert daemon.process.wait(WAIT_S) == 0

"""The command line as a process: its errors, its first line, its memory, and how it leaves."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.daemon_process import ENVIRONMENT, GIF, Daemon
from vision_server import __version__, cli, settings

REAL = (sys.executable, "-m", "vision_server")
FAKE = (sys.executable, "-m", "tests.fake_daemon")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*REAL, *words], capture_output=True, text=True, timeout=240, env={**ENVIRONMENT, **environment}
    )


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {json.dumps(str(folder))}\nprompts: [<FAKE>]\nport: 0\n")
    with contextlib.ExitStack() as stack:

        def begin(*words: str, command: tuple[str, ...] = FAKE) -> Daemon:
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, "--config", str(config), *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
                )
            )
            stack.callback(process.kill)
            return Daemon(process)

        yield begin


# Errors are one line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--idle-timout", "3"], 2, "there is no --idle-timout; did you mean --idle-timeout?"),
        (["--xyzzy"], 2, "there is no --xyzzy. See vision-server --help."),
        (["--idle-timeo=3"], 2, "there is no --idle-timeo=3; did you mean --idle-timeout?"),
        (["--port"], 2, "argument --port: expected one argument"),
        (["--port", "http"], 2, "flag --port: port must be a number, not 'http'."),
        (["srve"], 2, f"there is no command srve; the commands are {', '.join(cli.COMMANDS)}."),
        (["serve", "extra"], 2, "there is no command extra"),
        (["--model", "florence"], 2, "model florence: no checkpoint has this name"),
        (["--config", "absent.yaml"], 2, "absent.yaml: there is no such configuration file."),
        (["--host", "0.0.0.0"], 2, "or say --allow-anonymous."),
        (["--default-prompt", "<NOPE>", "--model", "FOLDER"], 2, "default_prompt <NOPE>: This prompt is not known"),
        (["--host", "192.0.2.7", "--allow-anonymous", "--model", "FOLDER"], 1, "is no address of this machine"),
        (["demo", "--port", "1"], 2, "there is no --port"),
        (["demo", "--model", "florence"], 1, "vision-server demo: "),
    ],
)
def test_a_fault_of_the_user_is_one_line(folder: Path, words: list[str], code: int, said: str) -> None:
    done = run(*[str(folder) if word == "FOLDER" else word for word in words])
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.startswith("vision-server")
    assert done.stderr.count("\n") == 1


def test_an_unknown_variable_is_one_line() -> None:
    done = run(VISION_SERVER_PROT="1")
    assert (done.returncode, done.stderr) == (
        2,
        "vision-server: environment: there is no setting VISION_SERVER_PROT; did you mean VISION_SERVER_PORT?\n",
    )


def test_a_taken_port_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port), "--model", str(folder))
    assert done.returncode == 1
    assert done.stderr == (
        f"vision-server: port {port} on 127.0.0.1 is taken: stop what listens there, or choose another with --port.\n"
    )


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["serve", "--version"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main(words)
        assert capsys.readouterr().out == f"vision-server {__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(row.flag in text for row in settings.TABLE.values() if row.flag)
    listed = dict(line.split(maxsplit=1) for line in text.partition("\ncommands:\n")[2].splitlines())
    assert listed == cli.COMMANDS, "each name stands apart from what it does"


# A running daemon ---------------------------------------------------------------------------------------------------


def test_the_first_line_has_the_address_and_the_model(start: Callable[..., Daemon]) -> None:
    daemon = start("--log-format", "json")
    entry = json.loads(daemon.first_line)
    assert entry["message"] == f"vision-server {__version__} listens on {daemon.url}, model toy"
    assert daemon.call("/model") == (200, "toy")


def test_the_daemon_idles_below_60_mb(start: Callable[..., Daemon]) -> None:
    daemon = start(command=REAL)
    process = psutil.Process(daemon.process.pid)
    for path in ("/status", "/health", "/ready", "/prompts", "/nowhere"):
        daemon.call(path)
    assert process.memory_info().rss <= 60e6
    assert process.children() == []


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_the_workers_waiting_threads_spin_shortly_unless_told_otherwise(
    start: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, said: dict[str, str], spins: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delitem(ENVIRONMENT, name, raising=False)
    for name, value in said.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    worker = start().call("/load", b"")[1]["worker_pid"]
    assert psutil.Process(worker).environ().get("GOMP_SPINCOUNT") == spins


def test_it_comes_back_below_60_mb_after_large_pictures(start: Callable[..., Daemon]) -> None:
    daemon = start("--idle-timeout", "0")
    process = psutil.Process(daemon.process.pid)
    for size in (5, 20, 30, 10):
        assert daemon.call("/process_image?prompt=FAKE", GIF + bytes(size << 20))[0] == 200
    while process.memory_info().rss > 60e6:
        daemon.call("/status")


def test_a_client_that_leaves_takes_its_request_along(start: Callable[..., Daemon]) -> None:
    daemon = start()
    port = int(daemon.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = "POST /process_image?prompt=FAKE&text_input=hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        client.sendall(f"{head}{len(GIF)}\r\n\r\n".encode() + GIF)
        daemon.until_in_flight(1)
    daemon.until_in_flight(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_leaves_at_once(start: Callable[..., Daemon], number: signal.Signals) -> None:
    daemon = start()
    daemon.call("/load", b"")
    worker = daemon.call("/status")[1]["worker_pid"]
    daemon.process.send_signal(number)
    assert daemon.process.wait(10) == 0
    assert not psutil.pid_exists(worker)


def test_sigterm_finishes_what_is_in_flight_and_takes_nothing_new(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start()
    gate = tmp_path / "gate"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.caption, f"gate:{gate}")
        worker = daemon.until_in_flight(1)
        daemon.process.terminate()
        while daemon.call("/ready")[0] == 200:
            pass
        status, error = daemon.caption("late")
        assert (status, error["code"]) == (503, "unavailable")
        gate.touch()
        assert running.result(10) == (200, {"result": f"<FAKE>|gate:{gate}|{len(GIF)}"})
    assert daemon.process.wait(10) == 0
    assert not psutil.pid_exists(worker)


def test_what_is_not_done_within_the_grace_is_told(start: Callable[..., Daemon]) -> None:
    daemon = start("--shutdown-grace", "0.1")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.caption, "hold")
        worker = daemon.until_in_flight(1)
        daemon.process.terminate()
        status, error = running.result(10)
    assert (status, error["code"]) == (503, "unavailable")
    assert daemon.process.wait(10) == 0
    assert not psutil.pid_exists(worker)


def test_a_second_signal_leaves_at_once(start: Callable[..., Daemon]) -> None:
    daemon = start("--shutdown-grace", "600")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.caption, "hold")
        worker = daemon.until_in_flight(1)
        daemon.process.terminate()
        while daemon.call("/ready")[0] == 200:
            pass
        daemon.process.terminate()
        assert daemon.process.wait(5) == 128 + signal.SIGTERM
        assert isinstance(running.exception(10), OSError)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(worker).wait(5)
    assert not psutil.pid_exists(worker)


# Doctor -------------------------------------------------------------------------------------------------------------


def test_doctor_tells_everything_and_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("max_queue: 5\n")
    words = ["doctor", "--config", str(config), "--port", "0", "--model", str(folder)]
    done = run(*words, VISION_SERVER_API_KEY="s3cret")
    assert done.returncode == 1
    for said in (
        "torch",
        "cpu (",
        "GiB free",
        "5    <- " + str(config),
        "********    <- variable VISION_SERVER_API_KEY",
    ):
        assert said in done.stdout
    assert "s3cret" not in done.stdout
    assert done.stdout.endswith(f"What is wrong (1):\n  - model toy: {folder} holds no weights.\n")
    (folder / "model.safetensors").write_bytes(b"x")
    done = run(*words)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Nothing is wrong.")


def test_doctor_reports_settings_that_cannot_be_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("doctor", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "is taken; perhaps by a vision-server that already runs." in done.stdout
    done = run("doctor", "--port", "http")
    assert done.returncode == 1
    assert "WRONG: flag --port: port must be a number" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

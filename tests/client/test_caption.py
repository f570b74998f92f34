"""The caption command against real daemons: pictures named in words, and a person at a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.daemon_process import ENVIRONMENT
from vision_server import cli, tasks
from vision_server.client.conversation import picture_path
from vision_server.demo import SAMPLES
from vision_server.outlines import agrees

Run = Callable[..., tuple[int, str, str]]
SAMPLE = SAMPLES / "scene-02.png"


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a picture.png"
    Image.new("RGB", (80, 60), "teal").save(path)
    return path


@pytest.fixture
def run(fake_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`vision-server caption WORDS...` with that standard input: exit code, output, errors."""
    monkeypatch.setenv("VISION_HOST", fake_url.removeprefix("http://"))
    monkeypatch.setenv("VISION_API_KEY", "s3cret")

    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = cli.main(["caption", *words])
        return code, *capsys.readouterr()

    return call


def said(prompt: str, text: str, picture: Path) -> str:
    """What the worker without a model answers."""
    return f"{prompt}|{text}|{picture.stat().st_size}"


# Pictures in words --------------------------------------------------------------------------------------------------


def test_one_picture(run: Run, picture: Path) -> None:
    assert run(str(picture)) == (0, said("<CAPTION>", "", picture) + "\n", "")
    assert run("--prompt", "fake", "--text", "a car", picture.name) == (0, said("<FAKE>", "a car", picture) + "\n", "")


def test_several_pictures_are_a_line_each_and_a_fault_stops_none(run: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, out, err = run("nowhere.png", picture.name, "folder", "broken.png", picture.name, "\0")
    assert code == 1
    assert out == 2 * f"{picture.name}: {said('<CAPTION>', '', picture)}\n"
    assert [line.removeprefix("vision-server caption: ")[:34] for line in err.splitlines()] == [
        "there is no file nowhere.png.",
        "there is no picture in folder; --r",
        "broken.png: the server answered 41",
        "? cannot be read (ValueError).",
        "2 captioned, 0 skipped, 4 failed; ",
    ]


def test_a_region_is_drawn_with_its_answer(run: Run, picture: Path, tmp_path: Path) -> None:
    words = (picture.name, "--prompt", "REGION_TO_CATEGORY", "--region", "10,20,60,50", "--save", "drawn")
    code, out, err = run(*words)
    assert (code, out) == (0, said("<REGION_TO_CATEGORY>", "", picture) + "\n")
    name = "a_picture-REGION_TO_CATEGORY.png"
    assert err == f"drawn: {Path('drawn') / name}\n"
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == [name]
    assert run(picture.name, "--save", "texts")[0] == 0
    assert not (tmp_path / "texts").exists()


def test_a_folder_that_cannot_be_written_is_one_line(run: Run, picture: Path) -> None:
    code, out, err = run(
        picture.name, "--prompt", "REGION_TO_OCR", "--region", "1,2,3,4", "--save", str(picture / "under")
    )
    assert (code, out.count("\n"), err.count("\n")) == (1, 1, 1)
    assert err.startswith(f"vision-server caption: {picture.name}: {picture / 'under'} cannot be written (")


def test_words_that_do_not_go_together(run: Run, picture: Path) -> None:
    assert run()[::2] == (2, "vision-server caption: name a picture, or give -i to be asked for one.\n")
    for words in ((picture.name,), ("--text", "x"), ("--region", "1,2,3,4")):
        code, _, err = run("-i", *words)
        assert (code, err.count("\n")) == (2, 1)
        assert "-i asks for the picture" in err


@pytest.mark.parametrize("words", [("a picture.png", "b.png"), ("-i",)])
def test_where_nothing_listens_it_is_told_how_to_start_a_server(
    run: Run, picture: Path, words: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    code, out, err = run(*words, "--server", url)
    assert (code, out) == (1, "")
    assert err == (
        f"vision-server caption: nothing listens at {url}. "
        "Start a server with `vision-server`, or name another with --server or VISION_HOST.\n"
    )


def test_a_wrong_key_and_a_wrong_address(run: Run, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(picture.name, "--server", "ftp://x")[::2] == (
        1,
        "vision-server caption: ftp://x is no address of a server: give one like http://127.0.0.1:54880.\n",
    )
    monkeypatch.delenv("VISION_API_KEY")
    for words in ((picture.name,), ("-i",)):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (1, 1)
        assert "the server answered 401: " in err


# A person, heard through a pipe -------------------------------------------------------------------------------------


def test_picture_prompt_and_what_it_needs_in_turn(run: Run, picture: Path, fake_url: str) -> None:
    lines = [
        f"'{picture.name}'",  # in quotes
        "",  # the default prompt
        picture.as_uri(),  # an address, its blank escaped
        "VQA",
        "quit",  # a text like any other
        "",  # the last picture
        "",  # the last prompt
        "what is it?",
        "a\\ picture.png",  # as a terminal drops it
        "<region_to_category>",
        "10,20,60,50",
        "",
        "16",  # the number of <FAKE>, an optional text
        "",
        "quit",
        "never.png",
    ]
    code, out, err = run("-i", "--prompt", "OCR", stdin="\n".join(lines))
    assert (code, err) == (0, "")
    head, *told = out.splitlines()
    assert re.sub(r"toy\d+", "toy", head) == (
        f"vision-server at {fake_url}, model toy. Ctrl-D or quit leaves, ? lists the prompts."
    )
    assert re.fullmatch(r"  1 CAPTION +One short sentence about the picture\.", told[0])
    assert re.fullmatch(r" 16 FAKE +A prompt of this checkpoint, .*", told[15])
    assert told[16:] == [
        said("<OCR>", "", picture),
        said("<VQA>", "quit", picture),
        said("<VQA>", "what is it?", picture),
        said("<REGION_TO_CATEGORY>", "", picture),
        said("<FAKE>", "", picture),
    ]


def test_a_fault_is_one_line_and_the_conversation_goes_on(run: Run, picture: Path) -> None:
    lines = [
        *("", "", "nowhere.png"),  # nothing was asked about yet
        *(picture.name, "NOPE"),
        *(picture.name, "99"),
        *(picture.name, "VQA", ""),
        *(picture.name, "REGION_TO_OCR", "over there"),
        *(picture.name, "CAPTION"),
        "?",
    ]
    code, out, err = run("-i", stdin="\n".join(lines))
    assert code == 0
    assert [line.removeprefix("vision-server caption: ") for line in err.splitlines()] == [
        "there is no file nowhere.png.",
        "there is no prompt NOPE; ? lists them.",
        "there is no prompt 99; ? lists them.",
        "the server answered 400: <VQA> needs a text: send one with the prompt.",
        "the server answered 400: The region cannot be read: "
        "send pixels [x1, y1, x2, y2], or four locations from <loc_0> to <loc_999>.",
    ]
    assert said("<CAPTION>", "", picture) in out.splitlines()
    assert out.count("One short sentence") == 2  # at the start, and for the ?


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("a.png", "a.png"),
        ("  'it''s.png' ", "it''s.png"),
        ('"a b.png"', "a b.png"),
        ("'half.png", "'half.png"),
        ("'", "'"),
        ("~/a.png", "HOME/a.png"),
        ("'~/a.png'", "HOME/a.png"),
        ("file:///x/a%20b%C3%A9.png", "/x/a bé.png"),
        ("FILE://localhost/x/a.png", "/x/a.png"),
        (r"a\ \(1\).png", "a (1).png"),
    ],
)
@pytest.mark.skipif(os.sep != "/", reason="Windows spells paths and addresses in another way")
def test_a_path_as_people_type_it(typed: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/HOME")
    assert picture_path(typed) == Path(path.replace("HOME", "/HOME"))


@pytest.mark.skipif(os.sep != "/", reason="a backslash parts folders on Windows")
def test_a_backslash_in_the_name_of_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a\\ b.png"
    path.touch()
    assert picture_path(str(path)) == path


# A person at a terminal, and the embedded checkpoint -----------------------------------------------------------------


class Terminal:
    """The command at a pseudo-terminal, as a person has it."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._unread = ""

    def read_until(self, what: str) -> str:
        """What was shown up to and with `what`."""
        deadline_s = time.monotonic() + 120
        while what not in self._unread:
            assert select.select([self._master], [], [], deadline_s - time.monotonic())[0], self._unread
            self._unread += os.read(self._master, 4096).decode().replace("\r\n", "\n")
        shown, _, self._unread = self._unread.partition(what)
        return shown + what

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def is_silent_for(self, seconds: float) -> bool:
        return not self._unread and not select.select([self._master], [], [], seconds)[0]

    def forget(self) -> None:
        """What was shown and not read yet."""
        self._unread = ""
        with contextlib.suppress(OSError):  # the other end may be closed
            if select.select([self._master], [], [], 0)[0]:
                os.read(self._master, 4096)


@contextlib.contextmanager
def at_a_terminal(*words: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    pty = pytest.importorskip("pty", reason="there are pseudo-terminals on POSIX only")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "vision_server", "caption", *words]
    environment = {**ENVIRONMENT, "TERM": "dumb"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        try:
            yield Terminal(master), process
        finally:
            process.kill()
            os.close(master)


def test_a_conversation_at_a_terminal(demo_url: str, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    with at_a_terminal("-i", "--server", demo_url, "--save", str(drawn)) as (terminal, process):
        assert " model demo." in terminal.read_until("\npicture: ")
        terminal.type("nowhere.png\n")
        assert "there is no file nowhere.png." in terminal.read_until("\npicture: ")
        terminal.type(f"{SAMPLE}\n")
        terminal.read_until("prompt [CAPTION]: ")
        terminal.type("od\n")
        shown = terminal.read_until(f"picture [{SAMPLE.name}]: ")
        assert re.search(r"^car \[\d+ \d+ \d+ \d+\]$", shown, re.MULTILINE), shown
        assert f"drawn: {drawn / 'scene-02-OD.png'}\n" in shown
        terminal.type("\n")
        terminal.read_until("prompt [OD]: ")
        terminal.type("1\n")
        assert "fish" in terminal.read_until(f"picture [{SAMPLE.name}]: ")
        terminal.type("\x04")
        assert process.wait(60) == 0
    assert [path.name for path in drawn.iterdir()] == ["scene-02-OD.png"]


def test_an_interrupt_leaves(demo_url: str) -> None:
    with at_a_terminal("-i", "--server", demo_url) as (terminal, process):
        terminal.read_until("picture: ")
        process.send_signal(signal.SIGINT)
        # One that comes after the question but before readline listens waits for a key. So keys come until it has left.
        deadline_s = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline_s:
            if terminal.is_silent_for(1):
                terminal.type(" ")
            else:
                terminal.forget()
        assert process.wait(1) == 130


def test_the_embedded_checkpoint_is_right(demo_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))["pictures"]
    [questions] = [one["asked"] for one in listed if one["file"] == SAMPLE.name]
    truths: dict[str, Any] = {q["prompt"]: tasks.answer(q["prompt"], q["truth"], (512, 512)) for q in questions}
    assert cli.main(["caption", str(SAMPLE), "--server", demo_url]) == 0
    assert capsys.readouterr().out == truths["<CAPTION>"] + "\n"
    assert cli.main(["caption", str(SAMPLE), "--prompt", "OD", "--server", demo_url]) == 0
    told = re.findall(r"^(\w+) \[(.*)\]$", capsys.readouterr().out, re.MULTILINE)
    answer = {
        "bboxes": [[float(n) for n in numbers.split()] for _, numbers in told],
        "labels": [label for label, _ in told],
    }
    assert agrees(answer, truths["<OD>"], (512, 512))

"""The caption command where something is wrong with one picture, one name, or the place the answers go to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.client.many import Run, Said, Stuck, refused, said, texts
from tests.daemon_process import ENVIRONMENT
from tests.peer import Answer, Peer, good

SAY = "vision-server caption: "
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "vision_server", "caption"]
OUTSIDE: Answer = (400, {}, b'{"error": "The region reaches outside the picture."}')


def test_an_empty_file_stops_none_of_the_others(run: Run, folder: Path) -> None:
    """The server's 400 for it would look like one for a prompt that nobody knows, and end every run at this file."""
    (folder / "a.png").write_bytes(b"")
    code, _, err = run(".", "--sidecar", "txt", "--parallel", "1")
    assert (code, err.splitlines()[0]) == (1, f"{SAY}a.png is empty.")
    assert "1 captioned, 0 skipped, 1 failed; 2 pictures" in err
    assert texts(folder) == {"b.txt": said("CAPTION", folder / "b.jpg") + "\n"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_in_a_folder_is_no_picture_and_a_dead_link_is_told(run: Run, folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "dead.png").symlink_to("nowhere.png")
    code, out, err = run(".")
    assert (code, out) == (1, "".join(f"{name}: {said('CAPTION', name)}\n" for name in ("a.png", "b.jpg")))
    assert err.startswith(f"{SAY}there is no file dead.png.\n2 captioned, 0 skipped, 1 failed; 3 pictures")


def test_a_region_outside_of_one_picture_stops_none_of_the_others(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = Said(lambda n: OUTSIDE if n == 1 else good({"result": "x"}))
    words = (".", "--recursive", "--server", peer.url, "--parallel", "1", "--prompt", "REGION_TO_OCR")
    code, out, err = run(*words, "--region", "0,0,40,9")
    assert (code, out) == (1, "b.jpg: x\nsub/c.webp: x\n")
    assert "2 captioned, 0 skipped, 1 failed; 3 pictures" in err


def test_what_was_answered_before_the_server_left_is_kept(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = Said(lambda n: good({"result": "x"}) if n == 1 else refused(503, 60))
    words = ("a.png", "b.jpg", "--prompt", "CAPTION", "--prompt", "OCR", "--out", "all.jsonl")
    assert run(*words, "--server", peer.url, "--parallel", "1", "--wait", "1")[0] == 1
    [line] = (folder / "all.jsonl").read_text().splitlines()
    assert json.loads(line) == {"image": "a.png", "prompt": "CAPTION", "answer": "x"}


def test_another_question_is_another_answer(run: Run, folder: Path) -> None:
    for text in ("how many", "what colour", "how many"):
        words = ("a.png", "--prompt", "OPEN_VOCABULARY_DETECTION", "--text", text, "--out", "all.jsonl")
        assert run(*words)[0] == 0
    found = [json.loads(line)["text"] for line in (folder / "all.jsonl").read_text().splitlines()]
    assert found == ["how many", "what colour"]


def test_a_list_whose_last_line_has_no_end_keeps_it(run: Run, folder: Path) -> None:
    mine = {"image": "a.png", "prompt": "", "answer": "mine"}
    (folder / "all.jsonl").write_text(json.dumps(mine))
    assert run("a.png", "b.jpg", "--out", "all.jsonl")[0] == 0
    found = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    assert found == [mine, {"image": "b.jpg", "prompt": "", "answer": said("CAPTION", "b.jpg")}]


def test_a_prompt_that_is_no_name_for_a_file(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = Said(lambda n: good({"result": "x"}))
    words = ("a.png", "--server", peer.url, "--sidecar", "txt", "--prompt", "CAPTION", "--prompt", "a/b?")
    assert run(*words)[0] == 0
    assert texts(folder) == {"a.caption.txt": "x\n", "a.a_b_.txt": "x\n"}
    code, _, err = run(*words, "--prompt", "A B_", "--overwrite")
    assert (code, err) == (1, f"{SAY}a.png: the prompt a/b? already claims a.a_b_.txt.\n")


@pytest.mark.parametrize("out", ["nowhere/x.json", "nowhere/x.jsonl", "sub"])
def test_a_place_that_takes_no_list_is_told_before_anything_is_asked(
    run: Run, folder: Path, peer: Peer, out: str
) -> None:
    code, _, err = run("a.png", "--server", peer.url, "--out", out, "--format", "json")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"{SAY}{out} cannot be ")
    assert peer.heard == []


def test_a_home_that_nobody_has(run: Run, folder: Path) -> None:
    code, _, err = run("~no-such-user/a.png")
    assert (code, err) == (1, f"{SAY}there is no file ~no-such-user/a.png.\n")
    assert run("a.png", "--out", "~no-such-user/a.json")[0] == 1
    assert run("a.png", "--prompt", "CAPTION", "--save", "~no-such-user")[0] == 0


def command(*words: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*COMMAND, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="a reader that left is another error on Windows")
def test_who_reads_has_seen_enough(run: Run, folder: Path, peer: Peer) -> None:
    """As with `| head`: no more is asked, and nothing is said of it."""
    left = threading.Event()

    def answer(count: int) -> Answer:
        if count == 2:
            left.wait(60)
        return good({"result": "x"})

    peer.answers = answers = Said(answer)
    for number in range(20):
        (folder / f"{number}.png").write_bytes((folder / "a.png").read_bytes())
    with command(".", "--server", peer.url, "--parallel", "1", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0.png: x\n"
        process.stdout.close()
        left.set()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(60)) == ("", 1)
    assert answers.count < 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_disk_that_is_full_ends_the_run_in_one_line(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = answers = Said(lambda n: good({"result": "x"}))
    for number in range(20):
        (folder / f"{number}.png").write_bytes((folder / "a.png").read_bytes())
    full = os.open("/dev/full", os.O_WRONLY)
    with command(".", "--server", peer.url, "--parallel", "1", stdout=full) as process:
        os.close(full)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert err.splitlines()[0] == f"{SAY}standard output cannot be written (No space left on device)."
    assert "22 left; run it again to go on" in err
    assert answers.count < 10


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else [])
def test_a_list_is_written_when_the_command_is_told_to_end(
    run: Run, folder: Path, peer: Peer, how: signal.Signals
) -> None:
    stuck = Stuck()
    peer.answers = stuck
    with command(".", "-r", "--server", peer.url, "--parallel", "1", "--out", "all.json") as process:
        assert stuck.reached.wait(120)
        process.send_signal(how)
        err = process.communicate(timeout=60)[1]
    stuck.end.set()
    assert process.returncode == 128 + how
    assert "1 captioned, 0 skipped, 0 failed, 2 left" in err
    assert json.loads((folder / "all.json").read_text()) == [{"image": "a.png", "prompt": "", "answer": "x"}]

"""The caption command for many pictures: what is named, what is written where, what is skipped, retried and counted."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.client.many import Run, Said, Stuck, refused, said, texts
from tests.daemon_process import ENVIRONMENT
from tests.peer import Answer, Peer, good
from vision_server.client.records import Records
from vision_server.client.server import ClientError

SAY = "vision-server caption: "


# What is named ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "stdin", "found"),
    [
        (["."], b"", ["a.png", "b.jpg"]),
        ([".", "--recursive"], b"", ["a.png", "b.jpg", "sub/c.webp"]),
        (["*"], b"", ["a.png", "b.jpg"]),
        (["**/*.webp", "b.*"], b"", ["sub/c.webp", "b.jpg"]),
        (["-"], b"b.jpg\r\n\nsub\n", ["b.jpg", "sub/c.webp"]),
        (["-", "a.png"], b"b.jpg\0sub/c.webp\0", ["b.jpg", "sub/c.webp", "a.png"]),
    ],
)
def test_folders_patterns_and_lists(run: Run, folder: Path, words: list[str], stdin: bytes, found: list[str]) -> None:
    code, out, err = run(*words, stdin=stdin)
    assert code == 0, err
    assert out.splitlines() == [f"{name}: {said('CAPTION', name)}" for name in found]
    assert err.startswith(f"{len(found)} captioned, 0 skipped, 0 failed; {len(found)} pictures in ")


def test_a_file_is_itself_whatever_its_name_looks_like(run: Run, folder: Path) -> None:
    names = ["[ab].png", "new\nline.png", 'it\'s "so" $(x).png', "**", "-", "ünï-日本.png"]
    for name in names:
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    names[4] = "./-"  # a dash alone is standard input
    code, out, _ = run("--sidecar", "txt", "--", *names)
    assert (code, out) == (0, "")
    assert {name for name in texts(folder) if name != "notes.txt"} == {
        "[ab].txt", "new\nline.txt", "it's \"so\" $(x).txt", "**.txt", "-.txt", "ünï-日本.txt"
    }  # fmt: skip


def test_what_names_nothing_is_told_and_stops_none(run: Run, folder: Path) -> None:
    (folder / "empty").mkdir()
    code, out, err = run("*.nope", "empty", "nowhere.png", "-", "a.png", stdin=b"nowhere*.png\n")
    assert (code, out) == (1, f"a.png: {said('CAPTION', 'a.png')}\n")
    assert [line.removeprefix(SAY) for line in err.splitlines()[:-1]] == [
        "no picture is called like *.nope.",
        "there is no picture in empty; --recursive looks below it, too.",
        "there is no file nowhere.png.",
        "there is no file nowhere*.png.",
    ]
    assert "1 captioned, 0 skipped, 4 failed" in err


def test_pictures_at_addresses_are_fetched_by_the_client(run: Run, folder: Path, peer: Peer) -> None:
    data = (folder / "b.jpg").read_bytes()
    peer.answers = {
        "/x%20y.jpg?z=1": (302, {"Location": "/there.jpg"}, b""),
        "/there.jpg": (200, {}, data),
        "/no.jpg": (404, {}, b""),
        "/file.jpg": (302, {"Location": (folder / "a.png").as_uri()}, b""),
        "/short.jpg": (200, {"Content-Length": "99999"}, b"x"),
    }
    url = peer.url
    words = [f"{url}/x y.jpg?z=1", f"{url}/no.jpg", f"{url}/file.jpg", f"{url}/short.jpg"]
    code, out, err = run(*words, "--format", "jsonl")
    assert code == 1
    assert [json.loads(line) for line in out.splitlines()] == [
        {"image": words[0], "prompt": "", "answer": said("CAPTION", "b.jpg")}
    ]
    faults = err.splitlines()
    assert faults[0] == f"{SAY}{words[1]} answers with status 404."
    assert "/file.jpg" in faults[1]
    assert "/short.jpg" in faults[2]
    assert not any("Authorization" in headers for _, _, headers, _ in peer.heard), "the key is the server's alone"
    code, _, err = run(words[0], "a.png", "--sidecar", "txt")
    assert code == 1
    assert "an address has nothing beside it" in err
    assert list(texts(folder)) == ["a.txt"]


# Where it goes ------------------------------------------------------------------------------------------------------


def test_sidecars_are_skipped_once_there_and_named_after_several_prompts(run: Run, folder: Path) -> None:
    assert run(".", "-r", "--sidecar", ".txt")[:2] == (0, "")
    once = {name: said("CAPTION", picture) + "\n" for name, picture in
            (("a.txt", "a.png"), ("b.txt", "b.jpg"), ("sub/c.txt", "sub/c.webp"))}  # fmt: skip
    assert texts(folder) == once
    (folder / "a.txt").write_text("mine")
    code, _, err = run(".", "-r", "--sidecar", "txt")
    assert (code, err[:33]) == (0, "0 captioned, 3 skipped, 0 failed;")
    assert texts(folder)["a.txt"] == "mine"
    assert run(".", "-r", "--sidecar", "txt", "--overwrite")[0] == 0
    assert texts(folder) == once

    (folder / "a.caption.md").write_text("mine")
    assert run("a.png", "b.jpg", "--sidecar", "md", "--prompt", "<CAPTION>", "--prompt", "od")[0] == 0
    assert texts(folder) == {
        **once, "a.caption.md": "mine", "a.od.md": '{"bboxes": [], "labels": []}\n',
        "b.caption.md": once["b.txt"], "b.od.md": '{"bboxes": [], "labels": []}\n',
    }  # fmt: skip


def test_a_twin_is_named_and_counted(run: Run, folder: Path) -> None:
    (folder / "a.jpg").write_bytes((folder / "b.jpg").read_bytes())
    (folder / "b.txt").mkdir()
    code, _, err = run(".", "a.png", "--sidecar", "txt")
    assert code == 1
    assert texts(folder) | {"b.txt": ""} == {"a.txt": said("CAPTION", "a.jpg") + "\n", "b.txt": ""}
    assert [line.removeprefix(SAY) for line in err.splitlines()[:-1]] == [
        "a.png: a.jpg already claims a.txt.",
        "b.jpg: b.txt is a folder.",
    ]
    assert "1 captioned, 1 skipped, 2 failed; 4 pictures" in err


def test_a_text_that_cannot_be_written_leaves_nothing_behind(run: Run, folder: Path) -> None:
    long = folder / f"{'x' * 250}.png"
    long.write_bytes((folder / "a.png").read_bytes())
    code, _, err = run(long.name, "a.png", "--sidecar", "longer")
    assert code == 1
    assert "cannot be written" in err
    assert not list(folder.glob(".vision*"))


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_lists_of_answers(run: Run, folder: Path, form: str) -> None:
    def read(text: str) -> list[dict[str, Any]]:
        if form == "csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            return [{name: row[name] for name in ("image", "prompt", "answer")} for row in rows]
        return json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]

    expected = [
        {"image": name, "prompt": prompt, "answer": said(prompt, name)}
        for name in ("a.png", "b.jpg") for prompt in ("CAPTION", "OCR")
    ]  # fmt: skip
    words = (".", "--prompt", "CAPTION", "--prompt", "OCR")
    code, out, _ = run(*words, "--format", form)
    assert (code, read(out)) == (0, expected)

    out_file = folder / f"answers.{form}"
    assert run("a.png", "--prompt", "CAPTION", "--out", out_file)[:2] == (0, "")
    if form != "json":
        with out_file.open("a") as file:
            file.write('"b.jpg","half')  # an interrupted write
    assert run(*words, "--out", out_file)[0] == 0
    by_name = sorted(read(out_file.read_text()), key=lambda one: (one["image"], one["prompt"]))
    assert by_name == expected
    code, _, err = run(*words, "--out", out_file)
    assert (code, err[:33]) == (0, "0 captioned, 2 skipped, 0 failed;")
    assert sorted(read(out_file.read_text()), key=lambda one: (one["image"], one["prompt"])) == expected
    (folder / "other").write_text("something else\n")
    code, _, err = run("a.png", "--out", "other", "--format", form)
    assert code == 1
    assert "is no list of answers" in err
    assert (folder / "other").read_text() == "something else\n"


def test_a_name_that_is_not_utf_8_can_be_listed(tmp_path: Path) -> None:
    for form in ("json", "jsonl", "csv"):
        path = tmp_path / f"x.{form}"
        records = Records(form, path, False)
        records.add(os.fsdecode(b"caf\xe9.jpg"), "CAPTION", 'a "b",\nc', "", "")
        records.close()
        assert b"\\udce9" in path.read_bytes()
    records = Records("jsonl", tmp_path / "x.jsonl", False)
    assert records.has(os.fsdecode(b"caf\xe9.jpg"), "CAPTION", "", "")
    assert not records.has(os.fsdecode(b"caf\xe9.jpg"), "CAPTION", "another question", "")
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ClientError, match="is no list of answers"):
        Records("json", tmp_path / "x.json", False)


# A server that cannot always answer ---------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = Said(lambda n: refused(429 if n % 2 else 503) if n < 5 else good({"result": "x"}))
    code, _, err = run(".", "-r", "--server", peer.url, "--sidecar", "txt", "--parallel", "2")
    assert (code, err[:33]) == (0, "3 captioned, 0 skipped, 0 failed;")
    assert set(texts(folder).values()) == {"x\n"}


def test_a_server_that_stays_busy_ends_the_run_which_can_go_on(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = Said(lambda n: good({"result": "x"}) if n == 1 else refused(503, 60))
    words = (".", "-r", "--server", peer.url, "--sidecar", "txt", "--parallel", "1")
    code, _, err = run(*words, "--wait", "1")
    assert code == 1
    assert err.splitlines()[0] == f"{SAY}the server answered 503: Not now."
    assert "1 captioned, 0 skipped, 0 failed, 2 left; run it again to go on; 3 pictures" in err
    peer.answers = Said(lambda n: good({"result": "later"}))
    assert run(*words)[2].startswith("2 captioned, 1 skipped, 0 failed;")
    assert sorted(texts(folder).values()) == ["later\n", "later\n", "x\n"]


def test_one_picture_that_fails_stops_none(run: Run, folder: Path, peer: Peer) -> None:
    peer.answers = Said(lambda n: refused(500 if n == 1 else 415) if n < 3 else good({"result": "x"}))
    code, _, err = run(".", "-r", "--server", peer.url, "--sidecar", "txt", "--parallel", "1")
    assert code == 1
    assert "1 captioned, 0 skipped, 2 failed;" in err
    assert list(texts(folder)) == ["sub/c.txt"]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_is_wrong_with_every_picture_is_told_once(run: Run, folder: Path, peer: Peer, status: int) -> None:
    peer.answers = said_so = Said(lambda n: refused(status))
    code, _, err = run(".", "-r", "--server", peer.url, "--sidecar", "txt", "--parallel", "1")
    assert (code, len(err.splitlines())) == (1, 2)
    assert "3 left" in err
    assert said_so.count <= 3


def test_so_many_at_a_time(run: Run, folder: Path, peer: Peer) -> None:
    together = threading.Barrier(3, timeout=60)  # broken, and a failure, unless three are here at once

    def wait(_: int) -> Answer:
        together.wait()
        return good({"result": "x"})

    peer.answers = Said(wait)
    assert run(".", "-r", "--server", peer.url, "--sidecar", "txt", "--parallel", "3")[0] == 0


def test_an_interrupt_leaves_whole_files_and_the_next_run_goes_on(run: Run, folder: Path, peer: Peer) -> None:
    stuck = Stuck()
    peer.answers = stuck
    words = [sys.executable, "-m", "vision_server", "caption", ".", "-r", "--server", peer.url, "--sidecar", "txt"]
    words += ["--parallel", "1", "--out", "all.jsonl"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert stuck.reached.wait(120)
        if os.name == "posix":
            process.send_signal(signal.SIGINT)
        else:
            process.kill()
        _, err = process.communicate(timeout=120)
    stuck.end.set()
    if os.name == "posix":
        assert process.returncode == 130
        assert "1 captioned, 0 skipped, 0 failed, 2 left; run it again to go on; 3 pictures" in err
    assert texts(folder) == {"a.txt": "x\n"}
    assert len((folder / "all.jsonl").read_text().splitlines()) == 1
    peer.answers = Said(lambda n: good({"result": "later"}))
    code, _, err = run(".", "-r", "--server", peer.url, "--sidecar", "txt", "--out", "all.jsonl")
    last = err.splitlines()[-1]  # before it the peer may tell of the one that left
    assert (code, last[:33]) == (0, "2 captioned, 1 skipped, 0 failed;")
    assert len((folder / "all.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["a.png", "--parallel", "0"], "--parallel takes"),
        (["a.png", "--wait", "-1"], "--wait takes"),
        (["a.png", "--out", "x.xml"], "--out takes"),
        (["a.png", "--no-original"], "belongs to --exif"),
        (["-i", "--sidecar", "txt"], "leave out what writes"),
    ],
)
def test_words_that_do_not_go_together(run: Run, folder: Path, words: list[str], wrong: str) -> None:
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert wrong in err


def test_an_extension_that_is_none(run: Run, folder: Path) -> None:
    for extension in ("", ".", "a/b", "txt.", "txt ", ".."):
        assert "is no extension" in run("a.png", "--sidecar", extension)[2]
    for extension in ("JPG", ".png", "x.webp"):
        before = (folder / "a.png").read_bytes()
        assert "is what pictures are called" in run("a.png", "--sidecar", extension, "--overwrite")[2]
        assert (folder / "a.png").read_bytes() == before

"""clients/vision-caption-folder-images.sh run by bash: what it sends, writes and counts, and how it is called."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.clients.folders import CLIENT, NEEDS_BASH, Server, ended, files, folder_of, run, start

pytestmark = NEEDS_BASH


async def test_a_text_beside_each_picture_of_the_tree(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat.jpg", "deep/er/dog.PNG", "deep/x.webp", "notes.md", "._cat.jpg")
    (folder / "linked.jpg").symlink_to("cat.jpg")
    code, out, err = await run(server.url, "<caption>", "txt", folder)
    assert (code, err) == (0, "")
    assert out.startswith("4 captioned, 0 skipped, 0 failed; 4 pictures in ")
    assert files(folder) == {
        "cat.txt": "a cat.jpg\n", "deep/er/dog.txt": "a deep/er/dog.PNG\n", "deep/x.txt": "a deep/x.webp\n",
        "linked.txt": "a cat.jpg\n", "notes.md": "notes.md",
    }  # fmt: skip
    assert {request.query["prompt"] for request in server.requests[1:]} == {"<caption>"}


async def test_what_is_there_is_skipped_unless_it_is_to_be_overwritten(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg", "b.jpg")
    (folder / "a.caption").write_text("mine")
    code, out, _ = await run(server.url, "CAPTION", ".caption", folder)
    assert (code, out[:32]) == (0, "1 captioned, 1 skipped, 0 failed")
    assert files(folder) == {"a.caption": "mine", "b.caption": "a b.jpg\n"}
    code, out, _ = await run(server.url, "CAPTION", "caption", folder)
    assert (code, out[:32]) == (0, "0 captioned, 2 skipped, 0 failed")
    code, out, _ = await run(server.url, "CAPTION", "caption", folder, "--overwrite")
    assert (code, out[:32]) == (0, "2 captioned, 0 skipped, 0 failed")
    assert files(folder) == {"a.caption": "a a.jpg\n", "b.caption": "a b.jpg\n"}


NAMES = [
    "two words  and more", "it's", 'say "hi"', "-dash", "--text", "@file", "a;type=text", "a,b", "ünï-日本-😀",
    "new\nline", "ends in newline\n", "[1-3]{a,b}*?", "back\\slash\\n", "50%41", "$(touch hacked)", "`touch hacked`",
    "tab\there", "~", "!history!", "#hash", "<CAPTION>", "many.dots.in", " blank ", "%s%n", "",
]  # fmt: skip


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_any_file_name(server: Server, tmp_path: Path, locale: str) -> None:
    folder = folder_of(tmp_path, *(f"-d ir\n'{n % 3}/{name}.jpg" for n, name in enumerate(NAMES)))
    code, out, err = await run(server.url, "CAPTION", "txt", ".", cwd=folder, LC_ALL=locale)
    assert (code, err) == (0, "")
    assert out.startswith(f"{len(NAMES)} captioned")
    texts = files(folder)
    assert texts == {f"-d ir\n'{n % 3}/{name}.txt": f"a -d ir\n'{n % 3}/{name}.jpg\n" for n, name in enumerate(NAMES)}


@pytest.mark.parametrize("given", ["-folder", "./-folder//", "-folder/.//deep"])
async def test_a_folder_that_starts_with_a_dash_and_slashes_too_many(
    server: Server, tmp_path: Path, given: str
) -> None:
    (tmp_path / "-folder" / "deep").mkdir(parents=True)
    (tmp_path / "-folder" / "deep" / "cat.jpg").write_text("x")
    assert (await run(server.url, "CAPTION", "txt", "--", given, cwd=tmp_path))[0] == 0
    assert (tmp_path / "-folder" / "deep" / "cat.txt").read_text() == "a x\n"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux's file systems take a name that is not UTF-8")
async def test_a_file_name_that_is_not_utf_8(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg")
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_text("latin")
    assert (await run(server.url, "CAPTION", "txt", folder))[0] == 0
    assert (folder / os.fsdecode(b"caf\xe9.txt")).read_text() == "a latin\n"


async def test_a_twin_is_named_and_counted_and_gets_nobody_elses_text(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat.png", "cat-1.jpg", "cat.jpg", "catalogue.jpg", "cat.2.jpg", "sub/cat.png")
    for extra in ([], ["--overwrite"]):
        code, out, err = await run(server.url, "CAPTION", "txt", folder, *extra)
        assert (code, err) == (1, f"vision-caption-folder-images: {folder}/cat.png: cat.jpg already claims cat.txt\n")
        assert "1 failed; 6 pictures" in out
        assert files(folder)["cat.txt"] == "a cat.jpg\n"
    assert set(files(folder)) == {"cat.txt", "cat-1.txt", "catalogue.txt", "cat.2.txt", "sub/cat.txt"}


async def test_so_many_at_a_time_and_no_more(server: Server, tmp_path: Path) -> None:
    server.gate, server.wanted = asyncio.Event(), 3
    folder = folder_of(tmp_path, *(f"{n}.jpg" for n in range(12)))
    process = await start(server.url, "CAPTION", "--parallel=3", "txt", folder)
    await asyncio.wait_for(server.enough.wait(), 60)
    server.gate.set()
    assert (await ended(process))[0] == 0
    assert server.most_here == 3
    assert len(files(folder)) == 12


async def test_the_key_text_and_region_are_sent(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg")
    words: list[str | Path] = ["--text", "a & b", "OD", "--region=1,2,3,4", "txt", folder]
    assert (await run(server.url, *words, VISION_API_KEY="s3cret"))[0] == 0
    assert dict(server.requests[-1].query) == {"prompt": "OD", "text_input": "a & b", "region": "1,2,3,4"}
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "usage: "),
        (["CAPTION", "txt"], "2 words are there"),
        (["CAPTION", "txt", ".", "more"], "4 words are there"),
        (["", "txt", "."], "the prompt is empty"),
        (["CAPTION", "", "."], "is no extension"),
        (["CAPTION", "a/b", "."], "is no extension"),
        (["CAPTION", ".JPG", "."], "is what pictures are called"),
        (["CAPTION", "x.png", "."], "is what pictures are called"),
        (["CAPTION", "txt", ".", "--parallel"], "--parallel needs a value"),
        (["CAPTION", "txt", ".", "--parallel", "0"], "--parallel takes"),
        (["CAPTION", "txt", ".", "--parallel=many"], "--parallel takes"),
        (["CAPTION", "txt", ".", "--wait=-1"], "--wait takes"),
        (["CAPTION", "txt", ".", "--frob"], "unknown option --frob"),
    ],
)
async def test_wrong_usage(server: Server, args: list[str], said: str) -> None:
    code, out, err = await run(server.url, *args)
    assert (code, out, server.requests) == (64, "", [])
    assert said in err


async def test_help_and_folders_that_are_none(server: Server, tmp_path: Path) -> None:
    code, out, err = await run(server.url, "--help")
    assert (code, err) == (0, "")
    assert all(word in out for word in ("--overwrite", "--parallel", "--wait", "VISION_API_KEY", " 75 "))
    (tmp_path / "file").touch()
    for name, said in (("nowhere", "there is no folder"), ("file", "is no folder")):
        code, out, err = await run(server.url, "CAPTION", "txt", tmp_path / name)
        assert (code, out) == (66, "")
        assert said in err
    assert (await run(server.url, "CAPTION", "txt", tmp_path))[:2] == (
        0, "0 captioned, 0 skipped, 0 failed; 0 pictures in 0 s\n",
    )  # fmt: skip


async def test_count_and_time_left_on_a_terminal(server: Server, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="there are pseudo-terminals on POSIX only")
    folder = folder_of(tmp_path, *(f"{n}.jpg" for n in range(5)))
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            CLIENT, "CAPTION", "txt", folder, env={"PATH": os.environ["PATH"], "VISION_HOST": server.url},
            stdin=asyncio.subprocess.DEVNULL, stdout=slave, stderr=slave,
        )  # fmt: skip
        assert await asyncio.wait_for(process.wait(), 120) == 0
        shown = os.read(master, 1 << 16).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "\r2 of 5, " in shown
    assert " s left" in shown
    assert shown.rstrip().rpartition("\r")[2].startswith("5 captioned, 0 skipped, 0 failed; 5 pictures")

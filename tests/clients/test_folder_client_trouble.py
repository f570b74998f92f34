"""The same client where something is wrong: what it tries again, what it leaves out, and where it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.clients.folders import CLIENT, NEEDS_BASH, Answer, Server, ended, files, folder_of, run, start
from tests.live_daemon import live_daemon

pytestmark = NEEDS_BASH


async def test_a_busy_server_is_asked_again_when_it_said(server: Server, tmp_path: Path) -> None:
    def busy(body: bytes, time: int) -> Answer:
        status = {b"a.jpg": 429, b"b.jpg": 503}.get(body, 200)
        if time == 1 and status != 200:
            return status, {"Retry-After": "2"}, "come back"
        return 200, {}, f"try {time}"

    server.answer = busy
    folder = folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    began_s = asyncio.get_running_loop().time()
    code, _, err = await run(server.url, "CAPTION", "txt", folder)
    assert (code, err) == (0, "")
    assert asyncio.get_running_loop().time() - began_s >= 2
    assert files(folder) == {"a.txt": "try 2\n", "b.txt": "try 2\n", "c.txt": "try 1\n"}


async def test_a_server_that_stays_busy_ends_the_run_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, time: (200, {}, "done") if body == b"a.jpg" else (503, {"Retry-After": "9"}, "leaving")
    folder = folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    code, out, err = await run(server.url, "--wait=1", "--parallel=1", "CAPTION", "txt", folder)
    assert (code, err) == (75, "vision-caption-folder-images: leaving\n")
    assert out.startswith("1 captioned, 0 skipped, 0 failed, 2 left; run it again to go on; 3 pictures")
    server.answer = lambda body, time: (200, {}, "later")
    assert (await run(server.url, "CAPTION", "txt", folder))[1].startswith("2 captioned, 1 skipped, 0 failed;")


async def test_a_picture_that_is_refused_stops_none(server: Server, tmp_path: Path) -> None:
    said = {b"a.jpg": 415, b"b.jpg": 413, b"c.jpg": 500}
    server.answer = lambda body, time: (said.get(body, 200), {}, "what is wrong\nand more")
    folder = folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (folder / "e.txt").mkdir()
    (folder / "e.jpg").write_text("e")
    (folder / "f.jpg").symlink_to("nowhere.jpg")
    code, out, err = await run(server.url, "CAPTION", "txt", folder)
    assert code == 1
    assert out.startswith("1 captioned, 0 skipped, 5 failed; 6 pictures")
    named = sorted(line.removeprefix(f"vision-caption-folder-images: {folder}/") for line in err.splitlines())
    assert named == [
        *(f"{letter}.jpg: what is wrong" for letter in "abc"),
        "e.jpg: e.txt is a folder",
        "f.jpg: there is no such file any more",
    ]
    assert set(files(folder)) == {"d.txt"}


async def test_an_empty_file_stops_none_of_the_others(server: Server, tmp_path: Path) -> None:
    """The server's 400 for it would look like one for all, and end every run at this file."""
    folder = folder_of(tmp_path, "a.jpg", "b.jpg")
    (folder / "a.jpg").write_bytes(b"")
    code, out, err = await run(server.url, "CAPTION", "txt", folder, "--parallel", "1")
    assert (code, err) == (1, f"vision-caption-folder-images: {folder}/a.jpg: it is empty\n")
    assert out.startswith("1 captioned, 0 skipped, 1 failed; 2 pictures")
    assert files(folder) == {"b.txt": "a b.jpg\n"}


async def test_a_region_outside_of_one_picture_stops_none_of_the_others(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, time: (400, {}, "outside") if body == b"a.jpg" else (200, {}, "inside")
    folder = folder_of(tmp_path, "a.jpg", "b.jpg")
    code, _, err = await run(server.url, "--region", "1,2,3,4", "CAPTION", "txt", folder, "--parallel", "1")
    assert (code, err) == (1, f"vision-caption-folder-images: {folder}/a.jpg: outside\n")
    assert files(folder) == {"b.txt": "inside\n"}


@pytest.mark.parametrize(("status", "code"), [(400, 65), (401, 77), (403, 77), (404, 65), (302, 70)])
async def test_what_is_wrong_with_every_picture_ends_the_run_at_once(
    server: Server, tmp_path: Path, status: int, code: int
) -> None:
    server.answer = lambda body, time: (status, {}, "not you")
    folder = folder_of(tmp_path, *(f"{n}.jpg" for n in range(30)))
    got, out, err = await run(server.url, "CAPTION", "txt", folder, "--parallel", "2")
    assert (got, len(err.splitlines())) == (code, 1)
    assert ", 30 left; run it again" in out
    assert len(server.came) < 5
    assert files(folder) == {}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupt_leaves_whole_files_and_the_next_run_goes_on(
    server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    held = asyncio.Event()

    def first(body: bytes, time: int) -> Answer:
        server.gate, server.wanted = held, 1  # all that come later wait
        return 200, {}, "text"

    server.answer = first
    folder = folder_of(tmp_path, *(f"{n}.jpg" for n in range(6)))
    process = await start(server.url, "CAPTION", "txt", folder, "--parallel", "1", TMPDIR=str(tmp_path))
    await asyncio.wait_for(server.enough.wait(), 60)
    process.send_signal(how)
    code, out, _ = await ended(process)
    assert code == 128 + how
    assert out.startswith("1 captioned, 0 skipped, 0 failed, 5 left; run it again to go on; 6 pictures")
    assert {path.name for path in folder.iterdir()} == {"0.txt", *(f"{n}.jpg" for n in range(6))}
    assert [path for path in tmp_path.iterdir() if path != folder] == []
    held.set()
    server.gate = None
    server.answer = lambda body, time: (200, {}, "text")
    assert (await run(server.url, "CAPTION", "txt", folder))[1].startswith("5 captioned, 1 skipped, 0 failed;")


async def test_a_text_that_cannot_be_written_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    """Its name would be too long, which shows only when it gets it; and one whose answer has no room to come into."""
    folder = folder_of(tmp_path, "x" * 250 + ".jpg", "b.jpg")
    code, out, err = await run(server.url, "CAPTION", "caption", folder)
    assert (code, out[:32]) == (1, "1 captioned, 0 skipped, 1 failed")
    assert "xx.caption cannot be written" in err
    assert files(folder) == {"b.caption": "a b.jpg\n"}

    server.answer = lambda body, time: (200, {}, "x" * 300_000)
    limited = f'ulimit -f 100; exec "{CLIENT}" CAPTION caption "{folder}" --overwrite'
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", limited, env={"PATH": os.environ["PATH"], "VISION_HOST": server.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    code, out, _ = await ended(process)
    assert (code, out[:32]) == (1, "0 captioned, 0 skipped, 2 failed")
    assert files(folder) == {"b.caption": "a b.jpg\n"}


async def test_a_connection_that_breaks_is_tried_again(tmp_path: Path) -> None:
    """A server that is away for a moment, as in a restart, and one picture that it always hangs up on."""
    tries: dict[bytes, int] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        tries[body] = tries.get(body, 0) + 1
        text = b"<CAPTION>\n" if not length else b"a text"
        if not length or (body == b"a.jpg" and tries[body] > 1):
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            await writer.drain()
        writer.close()

    folder = folder_of(tmp_path, "a.jpg", "b.jpg")
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        code, out, err = await run(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", "CAPTION", "txt", folder)
    assert (code, out[:32]) == (1, "1 captioned, 0 skipped, 1 failed")
    assert "b.jpg: http://127.0.0.1" in err
    assert "ended the connection" in err
    assert files(folder) == {"a.txt": "a text\n"}
    assert tries[b"b.jpg"] == 4


async def test_nobody_listens(unused_tcp_port: int, tmp_path: Path) -> None:
    code, out, err = await run(f"127.0.0.1:{unused_tcp_port}", "CAPTION", "txt", folder_of(tmp_path, "a.jpg"))
    assert (code, out, len(err.splitlines())) == (69, "", 1)
    assert "is vision-server running?" in err


async def test_a_prompt_nobody_knows_and_a_server_of_another_kind(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg")
    code, out, err = await run(server.url, "NOPE", "txt", folder)
    assert (code, out) == (65, "")
    assert err.endswith("the server knows no prompt 'NOPE'; it takes <CAPTION> <OD> <Mine>\n")
    assert (await run(server.url, "mine", "txt", folder))[0] == 0
    code, _, err = await run(server.url + "/process_image", "CAPTION", "txt", folder)
    assert (code, len(server.came)) == (65, 1)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may do everything")
async def test_what_may_not_be_read_or_written_is_named(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg", "b.jpg", "shut/c.jpg", "closed/d.jpg")
    (folder / "a.jpg").chmod(0)
    (folder / "shut").chmod(0o500)
    (folder / "closed").chmod(0)
    try:
        code, out, err = await run(server.url, "CAPTION", "txt", folder)
    finally:
        (folder / "shut").chmod(0o700)
        (folder / "closed").chmod(0o700)
    assert (code, out[:32]) == (1, "1 captioned, 0 skipped, 2 failed")
    assert "a.jpg: it cannot be read" in err
    assert "c.jpg: c.txt cannot be written" in err
    assert "closed" in err


async def test_the_real_daemon_and_its_queue(tmp_path: Path) -> None:
    """Four at a time into a queue of one: it refuses, and is asked again until all are answered."""
    (tmp_path / "sub").mkdir()
    for n in range(4):
        Image.new("RGB", (32 + n, 32), "teal").save(tmp_path / "sub" / f"{n}.png")
    async with live_daemon(tmp_path / "toy", "--slots", "1", max_queue=1, api_key="s3cret") as url:
        code, out, err = await run(url, "CAPTION", "txt", tmp_path / "sub", VISION_API_KEY="s3cret")
        assert (code, out[:32]) == (0, "4 captioned, 0 skipped, 0 failed"), err
        for n in range(4):
            size = (tmp_path / "sub" / f"{n}.png").stat().st_size
            assert (tmp_path / "sub" / f"{n}.txt").read_text() == f"<CAPTION>||{size}\n"
        assert (await run(url, "CAPTION", "txt", tmp_path / "sub"))[0] == 77


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_job_that_somebody_kills_is_counted_and_the_run_ends(server: Server, tmp_path: Path) -> None:
    server.gate, server.wanted = asyncio.Event(), 1
    folder = folder_of(tmp_path, "a.jpg")
    process = await start(server.url, "CAPTION", "txt", folder)
    await asyncio.wait_for(server.enough.wait(), 60)
    for child in psutil.Process(process.pid).children():  # the job first, so that it cannot tell of curl's end
        with contextlib.suppress(psutil.NoSuchProcess):
            under = child.children(recursive=True)
            if any(one.name() == "curl" for one in under):
                child.kill()
                for orphan in under:
                    orphan.kill()
    code, out, err = await ended(process)
    assert (code, out[:32]) == (1, "0 captioned, 0 skipped, 1 failed")
    assert "its job was ended" in err

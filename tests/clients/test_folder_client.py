"""clients/vision-caption-folder-images.sh run by bash: what it sends, writes, retries, counts, and where it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from tests.live_daemon import live_daemon

CLIENT = Path(__file__).parents[2] / "clients" / "vision-caption-folder-images.sh"

pytestmark = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None or shutil.which("curl") is None,
    reason="the shell client needs bash and curl",
)
Answer = tuple[int, dict[str, str], str]


class Server:
    """Knows <CAPTION> and <OD>; answers each picture with what `answer` makes of its bytes and of how often it came."""

    def __init__(self) -> None:
        self.url = ""
        self.came: dict[bytes, int] = {}
        self.requests: list[web.Request] = []
        self.here = self.most_here = 0
        self.enough = asyncio.Event()  # set when `wanted` pictures are here at once
        self.wanted = 0
        self.gate: asyncio.Event | None = None
        self.answer: Callable[[bytes, int], Answer] = lambda body, time: (200, {}, f"a {body.decode(errors='replace')}")

    async def prompts(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        return web.Response(text="<CAPTION>\n<OD>\n<Mine>\n")

    async def caption(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        body = await request.read()
        self.came[body] = self.came.get(body, 0) + 1
        self.here += 1
        self.most_here = max(self.here, self.most_here)
        if self.here == self.wanted:
            self.enough.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            status, headers, text = self.answer(body, self.came[body])
        finally:
            self.here -= 1
        return web.Response(status=status, headers=headers, text=text)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    known = Server()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/prompts", known.prompts)
    app.router.add_post("/process_image", known.caption)
    async with TestServer(app, host="127.0.0.1") as running:
        known.url = str(running.make_url("")).rstrip("/")
        yield known
        if known.gate is not None:
            known.gate.set()


async def start(url: str, *args: str | Path, cwd: Path | None = None, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        CLIENT, *args, cwd=cwd, env={"PATH": os.environ["PATH"], "VISION_HOST": url} | env,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def run(url: str, *args: str | Path, cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
    return await ended(await start(url, *args, cwd=cwd, **env))


def folder_of(place: Path, *names: str) -> Path:
    """A folder with these pictures, each of which holds its name."""
    for name in names:
        path = place / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return place / "pictures"


def files(folder: Path) -> dict[str, str]:
    """What is in it apart from pictures: path below it -> text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.lower().endswith((".jpg", ".png", ".webp"))
    }


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


async def test_so_many_at_a_time_and_no_more(server: Server, tmp_path: Path) -> None:
    server.gate, server.wanted = asyncio.Event(), 3
    folder = folder_of(tmp_path, *(f"{n}.jpg" for n in range(12)))
    process = await start(server.url, "CAPTION", "--parallel=3", "txt", folder)
    await asyncio.wait_for(server.enough.wait(), 60)
    server.gate.set()
    assert (await ended(process))[0] == 0
    assert server.most_here == 3
    assert len(files(folder)) == 12


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

"""clients/vision-client.sh run by bash against a real HTTP server that keeps what arrives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

CLIENT = Path(__file__).parents[2] / "clients" / "vision-client.sh"
KEY = 'k"e\\y-$HOME-é'

pytestmark = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None or shutil.which("curl") is None,
    reason="the shell client needs bash and curl",
)


class Recorder:
    """A server that keeps every request with its body and answers what it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[web.Request, bytes]] = []
        self.status = 200
        self.text = "a red car"
        self.content_type = "text/plain"
        self.on_request: Callable[[], None] = lambda: None
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.on_request()
        self.requests.append((request, await request.read()))
        return web.Response(status=self.status, text=self.text, content_type=self.content_type)

    @property
    def request(self) -> web.Request:
        assert len(self.requests) == 1
        return self.requests[0][0]

    @property
    def body(self) -> bytes:
        return self.requests[-1][1]


@pytest.fixture
async def server() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{anything:.*}", recorder.handle)
    async with TestServer(app, host="127.0.0.1") as running:
        recorder.url = str(running.make_url("")).rstrip("/")
        yield recorder


async def ask(
    url: str, *args: str | bytes | Path, cwd: Path | None = None, stdin: bytes = b"", **env: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the client, which sees no environment but what is given here."""
    process = await asyncio.create_subprocess_exec(
        CLIENT, *args, cwd=cwd, env={"PATH": os.environ["PATH"], "VISION_HOST": url} | env,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\xff&=+%\n\n")
    return path


async def test_the_picture_arrives_byte_for_byte_as_the_body(server: Recorder, picture: Path) -> None:
    assert await ask(server.url, "<CAPTION>", picture) == (0, "a red car\n", "")
    request = server.request
    assert (request.method, request.path, dict(request.query)) == ("POST", "/process_image", {"prompt": "<CAPTION>"})
    assert server.body == picture.read_bytes()
    assert request.headers["Accept"] == "text/plain"
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert "Authorization" not in request.headers
    assert "X-API-Key" not in request.headers


async def test_a_large_picture_arrives_whole(server: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(os.urandom(5_000_001))
    assert (await ask(server.url, "OCR", path))[0] == 0
    assert server.body == path.read_bytes()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize(
    "name",
    [
        "two words  and more.png", "it's.png", 'say "hi".png', "-dash.png", "--text", "-h", "-", "@file.png",
        "a;type=text.png", "a,b.png", "ünï-日本-😀.png", "new\nline.png", "ends in newline\n", "[1-3]{a,b}*?.png",
        "back\\slash\\n.png", "50%41.png", "$(touch hacked).png", "`touch hacked`.png", "prompts", "tab\there.png",
        "~", "!history!.png", "#hash.png", "<CAPTION>.png",
    ],
)  # fmt: skip
async def test_any_file_name(server: Recorder, tmp_path: Path, name: str, locale: str) -> None:
    (tmp_path / name).write_bytes(name.encode())
    assert await ask(server.url, "CAPTION", name, cwd=tmp_path, LC_ALL=locale) == (0, "a red car\n", "")
    assert server.body == name.encode()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux's file systems take a name that is not UTF-8")
async def test_a_file_name_that_is_not_utf_8(server: Recorder, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(b"latin")
    assert (await ask(server.url, "CAPTION", name))[0] == 0
    assert server.body == b"latin"


async def test_a_picture_from_a_pipe(server: Recorder) -> None:
    assert (await ask(server.url, "CAPTION", "/dev/stdin", stdin=b"piped"))[0] == 0
    assert server.body == b"piped"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_prompt_text_and_region_arrive_as_they_were_typed(server: Recorder, picture: Path, locale: str) -> None:
    text = "".join(map(chr, [*range(1, 256), 0x2028, 0x1F600])) + "&text_input=x #%41+\n"
    region = "1,2.5,30,40"
    code, _, err = await ask(server.url, "--text", text, f"--region={region}", "<A&B = c>", picture, LC_ALL=locale)
    assert (code, err) == (0, "")
    assert dict(server.request.query) == {"prompt": "<A&B = c>", "text_input": text, "region": region}


async def test_options_may_follow_the_picture(server: Recorder, picture: Path) -> None:
    assert (await ask(server.url, "OCR", picture, "--region", "1,2,3,4", "--text=a b"))[0] == 0
    assert dict(server.request.query) == {"prompt": "OCR", "region": "1,2,3,4", "text_input": "a b"}


@pytest.mark.parametrize("command", ["prompts", "model"])
async def test_prompts_and_model(server: Recorder, command: str) -> None:
    server.text = "one\ntwo\n"
    assert await ask(server.url, command) == (0, "one\ntwo\n", "")
    assert (server.request.method, server.request.path) == ("GET", f"/{command}")
    assert server.request.headers["Accept"] == "text/plain"


async def test_the_answer_is_printed_as_it_is(server: Recorder, picture: Path) -> None:
    server.text = '{"labels": ["\\u00e9", "%s"], "x": "日本 \\n -n"}'
    assert await ask(server.url, "OD", picture) == (0, server.text + "\n", "")


async def test_the_key_is_sent_and_shows_in_no_command_line(server: Recorder, picture: Path) -> None:
    seen: list[str] = []

    def look_around() -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # a helper of bash may end while we look
                seen.append(" ".join(process.cmdline()))

    server.on_request = look_around
    assert (await ask(server.url, "CAPTION", picture, VISION_API_KEY=KEY))[0] == 0
    assert server.request.headers["Authorization"] == f"Bearer {KEY}"
    assert any("curl" in line for line in seen), "curl ran while we looked"
    assert not any('k"e' in line or "Bearer" in line for line in seen)


async def test_a_key_cannot_smuggle_a_header(server: Recorder) -> None:
    code, _, err = await ask(server.url, "model", VISION_API_KEY="key\r\nX-Evil: 1")
    assert (code, server.requests) == (64, [])
    assert "control character" in err


@pytest.mark.parametrize("form", ["{host}", "{host}/", "http://{host}", "http://{host}///", "HTTP://{host}"])
async def test_the_forms_of_vision_host(server: Recorder, form: str) -> None:
    host = server.url.removeprefix("http://")
    assert (await ask(form.format(host=host), "model"))[0] == 0
    assert server.request.path == "/model"


async def test_a_path_in_vision_host_is_kept(server: Recorder) -> None:
    assert (await ask(server.url + "/vision/", "model"))[0] == 0
    assert server.request.path == "/vision/model"


async def test_neither_curlrc_nor_a_proxy_stands_between(server: Recorder, tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text('include\nheader = "X-Curlrc: 1"\n')
    out = await ask(
        server.url, "model", HOME=str(tmp_path), http_proxy="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9"
    )
    assert out == (0, "a red car\n", "")
    assert "X-Curlrc" not in server.request.headers


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *[(400, 65), (404, 65), (408, 65), (413, 65), (415, 65), (422, 65), (401, 77), (403, 77)],
        *[(429, 75), (503, 75), (504, 75), (500, 70), (502, 70), (302, 70), (204, 70)],
    ],
)
async def test_each_refusal_has_its_exit_status(server: Recorder, picture: Path, status: int, code: int) -> None:
    server.status, server.text = status, "what is wrong and what to do" if status >= 400 else ""
    got, out, err = await ask(server.url, "CAPTION", picture)
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("vision-client: ")
    assert ("what is wrong and what to do" if status >= 400 else f"status {status}") in err


async def test_of_what_our_proxy_says_only_the_message_is_told(server: Recorder) -> None:
    """service/haproxy.cfg answers itself where no machine is left, always in JSON."""
    proxy = (Path(__file__).parents[2] / "service" / "haproxy.cfg").read_text(encoding="utf-8")
    [said] = re.findall(r"http-error status 503 content-type application/json string '(.*?)'", proxy)
    server.status, server.text, server.content_type = 503, said, "application/json"
    told = "vision-client: No server can take this now. Try again later.\n"
    assert await ask(server.url, "model") == (75, "", told)


async def test_a_page_of_html_is_not_an_error_message(server: Recorder) -> None:
    server.status, server.text, server.content_type = 502, "<html>\n<h1>Bad gateway</h1>", "text/html"
    assert await ask(server.url, "model") == (70, "", "vision-client: the server failed with status 502\n")


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, out, err = await ask(f"127.0.0.1:{port}", "model")
    assert (code, out) == (69, "")
    assert err == (
        f"vision-client: cannot reach http://127.0.0.1:{port}: nothing answers there; is vision-server running?\n"
    )


async def test_a_name_nobody_knows() -> None:
    code, out, err = await ask("http://no-such-host.invalid", "model")
    assert (code, out) == (69, "")
    assert err.startswith("vision-client: cannot reach http://no-such-host.invalid")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na red"])
async def test_an_answer_that_breaks_off_is_not_an_answer(picture: Path, sent: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        code, out, err = await ask(f"127.0.0.1:{port}", "CAPTION", picture)
    assert (code, out) == (69, "")
    assert "ended the connection without a whole answer" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "usage: "),
        (["CAPTION"], "no picture is named after 'CAPTION'"),
        (["", "x.png"], "the prompt is empty"),
        (["CAPTION", "x.png", "y.png"], "'y.png' is too much"),
        (["--frobnicate", "CAPTION", "x.png"], "unknown option --frobnicate"),
        (["CAPTION", "x.png", "--text"], "--text needs a value"),
        (["--text", "x", "prompts"], "prompts takes no options"),
    ],
)
async def test_wrong_usage(server: Recorder, args: list[str], said: str) -> None:
    code, out, err = await ask(server.url, *args)
    assert (code, out, server.requests) == (64, "", [])
    assert said in err


async def test_an_address_of_another_kind() -> None:
    code, _, err = await ask("ftp://127.0.0.1", "model")
    assert code == 64
    assert "http or https" in err


async def test_a_picture_that_is_not_there_or_is_a_folder(server: Recorder, tmp_path: Path) -> None:
    missing = await ask(server.url, "CAPTION", "no such.png", cwd=tmp_path)
    assert missing == (66, "", "vision-client: there is no file 'no such.png'\n")
    folder = await ask(server.url, "CAPTION", tmp_path)
    assert folder == (66, "", f"vision-client: '{tmp_path}' is a folder\n")
    assert server.requests == []


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
async def test_a_picture_that_may_not_be_read(server: Recorder, picture: Path) -> None:
    picture.chmod(0)
    code, out, err = await ask(server.url, "CAPTION", picture)
    assert (code, out) == (66, "")
    assert "cannot be read" in err


@pytest.mark.parametrize("flag", ["-h", "--help"])
async def test_help_lists_every_exit_status(flag: str) -> None:
    code, out, err = await ask("", flag)
    assert (code, err) == (0, "")
    for word in ("prompts", "model", "--text", "--region", "VISION_HOST", "VISION_API_KEY"):
        assert word in out
    for status in (64, 65, 66, 69, 70, 75, 77):
        assert f" {status} " in out


async def test_curl_is_missing(tmp_path: Path, picture: Path) -> None:
    for tool in ("bash", "env"):
        where = shutil.which(tool)
        assert where is not None
        (tmp_path / tool).symlink_to(where)
    code, out, err = await ask("", "CAPTION", picture, PATH=str(tmp_path))
    assert (code, out, err) == (69, "", "vision-client: curl is needed and was not found\n")

"""What the README says is true: its tables are the code's, its commands run, and all it names exists."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from PIL import Image

from tests.bench.rows import Row
from tests.bench.rows import table as rows_table
from tests.live_daemon import live_daemon
from vision_server import cli, images, setting_texts, settings, tasks
from vision_server.api.app import create_app
from vision_server.outlines import agrees
from vision_server.training.evaluate import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLIENTS_README = (ROOT / "clients" / "README.md").read_text(encoding="utf-8")
LAUNCHER = (ROOT / "vision-server.sh").read_text(encoding="utf-8")


def between(marker: str) -> str:
    """The text between `<!-- marker -->` and its closing twin, which stand once each."""
    found = re.findall(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->\n", README, re.DOTALL)
    assert len(found) == 1, f"the markers of {marker} are missing, or there twice"
    return str(found[0])


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title}"
    return found[1]


def commands(text: str) -> list[list[str]]:
    """The words of each command in the text's `sh` blocks, comments gone and continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def python(title: str) -> str:
    """The one snippet of Python in this section."""
    [snippet] = snippets(title)
    return snippet


def snippets(title: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


def printed_by(snippet: str) -> Any:
    """What it prints, once."""
    printed: list[Any] = []
    exec(compile(snippet, "README.md", "exec"), {"print": printed.append})
    [answer] = printed
    return answer


def truth_of(snippet: str, prompt: str) -> Any:
    """What is true of the bundled picture that it opens."""
    listed = json.loads((ROOT / "vision_server/samples/truth.json").read_text(encoding="utf-8"))["pictures"]
    [asked] = [one["asked"] for one in listed if one["file"] in snippet]
    return next(question["truth"] for question in asked if question["prompt"] == prompt)


def spelled_out(call: str) -> list[str]:
    """`GET /a[/b]` is GET /a and GET /a/b."""
    before, bracket, rest = call.partition("[")
    within, _, after = rest.partition("]")
    return [one for part in (after, within + after) for one in spelled_out(before + part)] if bracket else [call]


def code_words(text: str) -> list[str]:
    """What stands in `backticks`, blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def test_the_settings_table_is_the_codes() -> None:
    assert between("settings") == setting_texts.readme_table(), "put setting_texts.readme_table() between the markers"


def test_the_example_of_several_checkpoints_is_accepted(tmp_path: Path) -> None:
    [example] = re.findall(r"^```yaml\n(.*?)^```", section("Settings"), re.MULTILINE | re.DOTALL)
    (tmp_path / "config.yaml").write_text(example, encoding="utf-8")
    read = settings.load({}, tmp_path / "config.yaml", {}).settings
    assert [(entry.name, entry.model) for entry in read.models] == [
        ("promptgen-large", "promptgen-large"),
        ("mine", "base-ft"),
    ]
    assert read.model == "promptgen-large"


def test_the_evaluation_is_the_committed_one() -> None:
    report = json.loads((ROOT / "tests/bench/results/embedded.json").read_text(encoding="utf-8"))
    assert report["scenes"] >= 500
    assert table(report["figures"]) in between("evaluation")


def test_the_figures_of_speed_are_the_committed_ones() -> None:
    rows = []
    for name in ("compare", "coldstart", "overhead"):
        found = json.loads((ROOT / f"tests/bench/results/{name}.json").read_text(encoding="utf-8"))
        rows += [Row(row["name"], row["ours"], row["reference"], row["unit"]) for row in found]
    assert rows_table(rows) in between("speed")


def test_the_api_table_lists_every_route_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    app = create_app(settings.Settings(model=str(tmp_path)))
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    cells = re.findall(r"^\| ((?:`(?:GET|POST) /[^`]*`(?:, )?)+) \|", README, re.MULTILINE)
    named = {tuple(call.split()) for cell in cells for word in code_words(cell) for call in spelled_out(word)}
    assert named == {(method, path) for method, path in served if method != "HEAD"}


def test_every_flag_that_is_named_exists() -> None:
    known = {row.flag for row in settings.TABLE.values()} | {"--config", "--help", "--text", "--region"}
    known |= {"--out", "--prompt", "--save", "--server", "--layout", "--data"}
    known |= {"--overwrite", "--parallel", "--wait", "--sidecar", "--exif", "--format", "--recursive", "--no-original"}
    for text in (README, CLIENTS_README):
        for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--data-binary"}:
            assert flag in known, flag


def test_every_variable_that_is_named_exists() -> None:
    known = {row.variable for row in settings.TABLE.values()} | {settings.CONFIG_VARIABLE, settings.ENV_PREFIX}
    assert set(re.findall(r"VISION_SERVER_[A-Z_]*", README)) <= known


@pytest.mark.parametrize("where", [ROOT, ROOT / "clients"], ids=["README", "clients/README"])
def test_every_file_and_link_that_is_named_exists(where: Path) -> None:
    text = (where / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    names = [word for word in code_words(text) if re.fullmatch(r"\.?[\w./-]+\.(sh|ps1|bat|toml|txt|md|py|json)", word)]
    for name in [*links, *names]:
        assert (where / name).exists(), name
    assert links or names


def test_it_names_no_host_but_this_machine() -> None:
    for text in (README, CLIENTS_README):
        hosts = {host.rstrip(".") for host in re.findall(r"https?://([^\s/`'\"):;]+)", text)}
        assert {host for host in hosts if not host.endswith(".example")} <= {"127.0.0.1"}


def test_the_rooms_are_the_ones_there_are() -> None:
    package = ROOT / "vision_server"
    rooms = re.findall(r"^\| `([\w./]+)` \|", section("The rooms"), re.MULTILINE)
    for room in rooms:
        assert (ROOT / room).exists(), f"{room} is described and does not exist"
    there = {
        path.name
        for path in package.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.name.startswith("_")
    }
    described = {Path(room).parts[1] for room in rooms if Path(room).parts[0] == "vision_server"}
    assert there == described


def test_it_lists_the_formats_that_are_taken() -> None:
    api = section("API")
    assert [name for name in images.FORMATS.split(", ") if name not in api] == []


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 340
    assert max(len(line) for line in README.splitlines() if not line.startswith("|")) <= 120


def test_the_launchers_commands_are_the_ones_named() -> None:
    named = {words[1] for words in commands(README) if words[0] == "./vision-server.sh" and len(words) > 1}
    named |= {word.split()[1] for word in code_words(README) if word.startswith("./vision-server.sh ")}
    in_launcher = set(re.findall(r"^#   \./vision-server\.sh (\w+)", LAUNCHER, re.MULTILINE))
    assert in_launcher <= named <= in_launcher | set(cli.COMMANDS)


def test_every_command_is_a_program_of_ours_or_curl() -> None:
    every = [(ROOT, words) for words in commands(README)]
    every += [(ROOT / "clients", words) for words in commands(CLIENTS_README)]
    assert len(every) > 6
    for where, words in every:
        assert words[0] == "curl" or os.access(where / words[0], os.X_OK), words


@pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None or shutil.which("curl") is None,
    reason="the commands need bash and curl",
)
async def test_the_commands_that_ask_a_server_get_an_answer(tmp_path: Path) -> None:
    """curl and the client, as they stand in both READMEs, against a live daemon on another port."""
    asking = [(ROOT, words) for words in commands(README) if words[0] == "curl" or words[0].startswith("clients/")]
    asking += [(ROOT / "clients", words) for words in commands(CLIENTS_README)]
    assert len(asking) >= 8
    ours = [words[1:] for words in commands(README) if words[:2] == ["./vision-server.sh", "caption"]]
    assert len(ours) == 3
    asking += [(ROOT, [sys.executable, "-m", "vision_server", *words]) for words in ours]
    for name in ("photo.jpg", "picture.png"):
        Image.new("RGB", (320, 240), "teal").save(tmp_path / name)
    async with live_daemon(tmp_path / "toy") as url:
        for where, words in asking:
            words = [word.replace("http://127.0.0.1:54880", url) for word in words]
            words = [str(where / words[0]) if "/" in words[0] else words[0], *words[1:]]
            process = await asyncio.create_subprocess_exec(
                *words, cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "VISION_HOST": url},
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0, (words, err)
            assert (out + err).strip(), words
            assert b"error" not in out, (words, out)


def test_the_engine_answers_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet as it stands, and what it prints is what is true of the picture it opens."""
    snippet = python("The engine from Python, without a server")
    monkeypatch.chdir(ROOT)
    truth = truth_of(snippet, "<OD>")
    assert agrees(printed_by(snippet), tasks.answer("<OD>", truth, (512, 512)), (512, 512))


async def test_the_dialects_clients_get_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each snippet as it stands, but for the port, against the real worker."""
    monkeypatch.chdir(ROOT)
    app = create_app(settings.Settings(model="demo", device="cpu", dtype="float32"))
    asking = snippets("API")
    assert [snippet.split()[1].rstrip(",") for snippet in asking] == ["base64", "ollama", "json"]
    async with TestServer(app, host="127.0.0.1") as server:
        for snippet in asking:
            text = snippet.replace("127.0.0.1:54880", f"127.0.0.1:{server.port}")
            assert text != snippet
            said = await asyncio.wait_for(asyncio.to_thread(printed_by, text), 120)
            assert said == truth_of(snippet, "<CAPTION>")


async def test_the_fields_of_an_answer_and_an_error(tmp_path: Path) -> None:
    """The shapes the API section spells out."""
    picture = tmp_path / "p.png"
    Image.new("RGB", (64, 48), "teal").save(picture)
    async with live_daemon(tmp_path / "toy") as url, aiohttp.ClientSession() as session:
        body = picture.read_bytes()
        async with session.post(f"{url}/process_image?prompt=OD", data=body) as response:
            answer = json.loads(await response.text())
            assert "X-Request-Id" in response.headers
            assert "Server-Timing" in response.headers
        assert set(answer) == {"result"}
        assert set(answer["result"]) == {"bboxes", "labels"}
        async with session.post(f"{url}/process_image?prompt=NONSENSE", data=body) as response:
            assert f"`{{{', '.join(json.dumps(key) for key in await response.json())}}}`" in README
            assert response.status == 400

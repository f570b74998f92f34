"""The page's files as they are served: whole, tagged, under a strict policy, and nothing else. Browsers: tests/page."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vision_server.api import page

from .conftest import Serve

FOLDER = Path(page.__file__).parents[1] / "page"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
PLAIN = {"Accept-Encoding": "identity"}
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
INLINE = r"\son[a-z]+=|\sstyle=|innerHTML|insertAdjacentHTML|\beval\(|new Function"
MOST_BYTES = 100_000


async def test_every_file_is_served_as_it_is(serve: Serve) -> None:
    client = await serve()
    assert {path.suffix for path in FILES} == set(KINDS)
    for path in FILES:
        response = await client.get(f"/page/{path.name}", headers=PLAIN)
        assert response.status == 200
        assert response.headers["Content-Type"] == f"{KINDS[path.suffix]}; charset=utf-8"
        assert await response.read() == path.read_bytes()
    assert await (await client.get("/", headers=PLAIN)).read() == (FOLDER / "index.html").read_bytes()
    assert await (await client.get("/docs", headers=PLAIN)).read() == (FOLDER / "docs.html").read_bytes()
    assert await (await client.get("/favicon.ico", headers=PLAIN)).read() == (FOLDER / "favicon.svg").read_bytes()


async def test_nothing_inline_and_nothing_from_outside_is_allowed(serve: Serve) -> None:
    client = await serve()
    for path in page.PATHS:
        headers = (await client.get(path)).headers
        policy = dict(one.strip().split(" ", 1) for one in headers["Content-Security-Policy"].split(";"))
        assert policy.pop("default-src") == "'none'"
        assert policy.pop("img-src") == "'self' blob: data:"
        assert {policy.pop(name) for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
        assert policy == dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


async def test_a_browser_that_has_a_file_is_told_so(serve: Serve) -> None:
    client = await serve()
    first = await client.get("/page/app.js")
    assert first.headers["Cache-Control"] == "no-cache"
    for known in (first.headers["ETag"], f'"other", {first.headers["ETag"]}', "*"):
        again = await client.get("/page/app.js", headers={"If-None-Match": known})
        assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        assert "Content-Security-Policy" in again.headers
    assert (await client.get("/page/app.js", headers={"If-None-Match": '"other"'})).status == 200
    assert (await client.get("/page/api.js")).headers["ETag"] != first.headers["ETag"]


async def test_it_is_packed_for_those_who_take_it_and_small(serve: Serve) -> None:
    client = await serve()
    total = 0
    for path in FILES:
        response = await client.get(f"/page/{path.name}", headers={"Accept-Encoding": "gzip, br"})
        assert (response.headers["Content-Encoding"], response.headers["Vary"]) == ("gzip", "Accept-Encoding")
        total += int(response.headers["Content-Length"])
        assert await response.read() == path.read_bytes()
    assert total < MOST_BYTES
    assert len(gzip.compress(b"".join(path.read_bytes() for path in FILES))) < total


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "..%2fapi%2fpage.py", "%2e%2e/errors.py", "../errors.py", ".", "app.js/", "APP.JS", "app.js%00"],
)
async def test_no_other_file_is_within_reach(serve: Serve, name: str) -> None:
    client = await serve()
    response = await client.get(f"/page/{name}")
    assert response.status == 404
    assert "VisionError" not in await response.text()


async def test_only_a_get_is_answered(serve: Serve) -> None:
    client = await serve()
    assert (await client.post("/")).status == 405
    head = await client.head("/")
    assert (head.status, await head.read()) == (200, b"")


async def test_it_asks_for_no_key_but_for_a_local_name(serve: Serve) -> None:
    client = await serve(api_key="s3cret")
    for path in page.PATHS:
        assert (await client.get(path)).status == 200
        assert (await client.get(path, headers={"Host": "evil.example"})).status == 403
    assert (await client.get("/page/nothing.js")).status == 401


def test_it_needs_nothing_from_outside_and_no_root() -> None:
    """Addresses are relative, so that a proxy may serve it below a path of its own."""
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
        assert not re.search(r"""(src|href|action)=["']/|call\(["'`]/|url\([\w\"'/]|@import""", text), path.name
        assert not re.search(INLINE, text), path.name


def test_every_module_is_one_that_is_imported() -> None:
    wanted = {"app.js", "docs.js"}  # by their HTML
    for path in SCRIPTS:
        wanted |= set(re.findall(r'^import .* from "\./(.*)";$', path.read_text(encoding="utf-8"), re.MULTILINE))
    assert wanted == {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.skipif(shutil.which("node") is None, reason="node checks the syntax of the page's modules")
def test_the_modules_are_sound_javascript(tmp_path: Path) -> None:
    for path in SCRIPTS:
        module = tmp_path / path.with_suffix(".mjs").name  # else node takes it for CommonJS
        shutil.copy(path, module)
        checked = subprocess.run(["node", "--check", module], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stderr

"""A toy server, folders of pictures, and clients/vision-caption-folder-images.sh run on them by bash. Not a test."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

CLIENT = Path(__file__).parents[2] / "clients" / "vision-caption-folder-images.sh"

NEEDS_BASH = pytest.mark.skipif(
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

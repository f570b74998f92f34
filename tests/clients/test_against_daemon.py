"""clients/vision-client.sh against the real application: its queue, its guard, a real worker process without a model.

That both sides agree on names, on the text form and on what each refusal is, is what the other tests cannot show.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from tests.live_daemon import live_daemon
from vision_server.tasks import STOCK

CLIENT = Path(__file__).parents[2] / "clients" / "vision-client.sh"

pytestmark = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None or shutil.which("curl") is None,
    reason="the shell client needs bash and curl",
)


async def ask(url: str, *args: str | Path, key: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        CLIENT, *args, env={"PATH": os.environ["PATH"], "VISION_HOST": url, "VISION_API_KEY": key},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture; type=x.png"
    Image.new("RGB", (64, 48), "teal").save(path)
    return path


async def test_what_the_client_knows_is_what_the_daemon_says(tmp_path: Path, picture: Path) -> None:
    size = picture.stat().st_size
    async with live_daemon(tmp_path / "toy") as url:
        assert await ask(url, "model") == (0, "toy\n", "")
        assert await ask(url, "prompts") == (0, "".join(f"{name}\n" for name in STOCK), "")
        assert await ask(url, "caption", picture) == (0, f"<CAPTION>||{size}\n", "")
        assert await ask(url, "<OCR>", picture) == (0, f"<OCR>||{size}\n", "")

        code, out, err = await ask(url, "OD", picture)
        assert (code, err, len(out.splitlines())) == (0, "", 1)
        assert set(json.loads(out)) == {"bboxes", "labels"}


async def test_text_and_region_reach_the_worker(tmp_path: Path, picture: Path) -> None:
    text = 'an "old" café & 50 %+ <tree>'
    async with live_daemon(tmp_path / "toy", prompts=("<ASK>",)) as url:
        assert await ask(url, "--text", text, "ASK", picture) == (0, f"<ASK>|{text}|{picture.stat().st_size}\n", "")
        code, _, err = await ask(url, "--region", "1,2,30.5,40", "REGION_TO_CATEGORY", picture)
        assert (code, err) == (0, "")


async def test_refusals_are_one_line_with_the_right_status(tmp_path: Path, picture: Path) -> None:
    text_file = tmp_path / "notes.txt"
    text_file.write_text("no picture")
    async with live_daemon(tmp_path / "toy", max_body_mb=0.001) as url:
        for code, said, args in (
            (65, "This prompt is not known", ("NONSENSE", picture)),
            (65, "region", ("REGION_TO_CATEGORY", picture)),
            (65, "region", ("--region", "1,2,3", "REGION_TO_CATEGORY", picture)),
            (65, "picture", ("CAPTION", text_file)),
        ):
            got, out, err = await ask(url, *args)
            assert (got, out, len(err.splitlines())) == (code, "", 1), err
            assert said in err

        large = tmp_path / "large.bmp"
        Image.new("RGB", (2000, 1000)).save(large)
        got, out, err = await ask(url, "CAPTION", large)
        assert (got, out) == (65, "")
        assert "MiB" in err


async def test_the_key(tmp_path: Path, picture: Path) -> None:
    key = 'p"a\\ss$HOME'
    async with live_daemon(tmp_path / "toy", api_key=key) as url:
        assert (await ask(url, "caption", picture, key=key))[0] == 0
        for wrong in ("", "another"):
            code, out, err = await ask(url, "caption", picture, key=wrong)
            assert (code, out, len(err.splitlines())) == (77, "", 1)
            assert "key" in err


async def test_a_full_queue_and_a_model_that_cannot_load(tmp_path: Path, picture: Path) -> None:
    async with live_daemon(tmp_path / "toy", "--load", "fail") as url:
        code, out, err = await ask(url, "caption", picture)
        assert (code, out, len(err.splitlines())) == (75, "", 1)

    gate = tmp_path / "gate"
    async with live_daemon(tmp_path / "slow", "--load", "slow", "--gate", str(gate), max_queue=1) as url:
        first = asyncio.create_task(ask(url, "caption", picture))
        async with aiohttp.ClientSession() as session:
            depth = 0
            while depth != 1:  # until the first has taken the only place
                assert not first.done()
                async with session.get(f"{url}/status") as response:
                    depth = (await response.json())["queue_depth"]
        code, _, err = await ask(url, "caption", picture)
        assert code == 75
        assert "places" in err
        gate.touch()
        assert (await first)[0] == 0

"""What the real daemon and its real worker, with the embedded checkpoint, say and do not say when they are provoked."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from tests.daemon_process import GIF, Daemon
from tests.layouts import change_json
from vision_server.catalog import EMBEDDED

from .conftest import running

FORBIDDEN = re.compile(
    r"0x[0-9a-f]{4}|Traceback|\bFile \"|line \d+|site-packages|[\w/]+\.py\b|/(tmp|home|usr|proc|root)/|vision_server|"
    r"\b(PIL|torch|numpy|zlib|aiohttp|json|asyncio|pickle|Errno|NoneType|cannot identify|UnicodeDecodeError)\b|Error\b"
)


class Logged:
    """A daemon at log_level debug; all that it and its worker have written so far."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.lines = [daemon.before, daemon.first_line]
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.daemon.process.stderr is not None
        with suppress(ValueError):  # closed while it was read, with the process
            self.lines.extend(self.daemon.process.stderr)

    @property
    def text(self) -> str:
        return "".join(self.lines)


@pytest.fixture(scope="module")
def real() -> Iterator[Logged]:
    words = ("--model", "demo", "--dtype", "float32", "--log-level", "debug")
    with running("vision_server", *words) as daemon:
        yield Logged(daemon)


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def picture(form: str = "PNG") -> bytes:
    return saved(Image.effect_noise((64, 48), 50).convert("RGB"), form)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BROKEN: dict[str, Callable[[], bytes]] = {
    "a cut PNG": lambda: picture()[:-500],
    "a cut JPEG": lambda: picture("JPEG")[:400],
    "a cut WebP": lambda: picture("WEBP")[:200],
    "a cut TIFF": lambda: picture("TIFF")[:150],
    "a cut GIF": lambda: GIF,
    "a PNG whose text inflates": lambda: (
        picture()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28))) + picture()[33:]
    ),
    "a PNG whose profile inflates": lambda: (
        picture()[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 28))) + picture()[33:]
    ),
    "a PNG of rubbish": lambda: picture()[:41] + bytes(range(256)) * 9,
    "an AVIF of rubbish": lambda: (
        b"\0\0\0\x14ftypavif\0\0\0\0mif1\0\0\0\x38meta\0\0\0\0\0\0\0\x2ciprp\0\0\0\x24ipco\0\0\0\x14ispe\0\0\0\0"
        b"\0\0\0\x10\0\0\0\x10" + bytes(30)
    ),
}

QUESTIONS: list[tuple[str, str, Any]] = [
    ("/nowhere", "GET", None),
    ("/process_image", "GET", None),
    ("/process_image", "POST", b"{"),
    ("/process_image", "POST", b"[1]"),
    ("/process_image", "POST", b'{"image": "%"}'),
    ("/process_image", "POST", b'{"image": "http://127.0.0.1/"}'),
    ("/process_image", "POST", b'{"image": "file:///etc/passwd"}'),
    ("/process_image", "POST", b'{"image": "R0lG", "options": "{"}'),
    ("/process_image?prompt=NO", "POST", None),
    ("/process_image?prompt=OD&num_beams=x", "POST", None),
    ("/process_image?prompt=CAPTION_TO_PHRASE_GROUNDING", "POST", None),
    ("/process_image?prompt=REGION_TO_OCR&region=a", "POST", None),
    ("/process_image?prompt=REGION_TO_OCR&region=1,2,90000,4", "POST", None),
    ("/process_image?model=other", "POST", None),
    ("/process_image?keep_alive=x", "POST", None),
    ("/process_image?raw=x", "POST", None),
    ("/unload?force=x", "POST", b""),
    ("/load?model=x", "POST", b""),
]


def assert_ours(status: int, body: Any) -> None:
    assert 400 <= status < 500, body
    assert body["error"] == body["detail"]
    assert not FORBIDDEN.search(body["error"]), body["error"]


@pytest.mark.parametrize(("path", "method", "body"), QUESTIONS, ids=str)
def test_6_5_error_texts_are_ours(real: Logged, path: str, method: str, body: bytes | None) -> None:
    sent = None if method == "GET" else picture() if body is None else body
    assert_ours(*real.daemon.call(path, sent))


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_6_5_a_broken_picture_is_told_of_in_our_words(real: Logged, make: Callable[[], bytes]) -> None:
    status, body = real.daemon.call("/process_image?prompt=CAPTION", make())
    if status != 200:  # of a picture whose extras are broken the rest may be good
        assert status in (413, 415), body
        assert_ours(status, body)
    assert real.daemon.call("/status")[1]["restarts"] == 0


OTHER_FORMATS: dict[str, Callable[[], bytes]] = {
    "PSD": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 10, 10, 8, 3) + bytes(100),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "PDF": lambda: saved(Image.new("RGB", (9, 9)), "PDF"),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "SVG with a heading": lambda: (
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
    ),
    "ICO": lambda: saved(Image.new("RGB", (16, 16)), "ICO"),
    "PPM": lambda: saved(Image.new("RGB", (9, 9)), "PPM"),
    "TGA": lambda: saved(Image.new("RGB", (9, 9)), "TGA"),
    "PCX": lambda: saved(Image.new("RGB", (9, 9)), "PCX"),
    "DDS": lambda: saved(Image.new("RGB", (9, 9)), "DDS"),
    "ICNS": lambda: saved(Image.new("RGB", (16, 16)), "ICNS"),
    "SGI": lambda: saved(Image.new("RGB", (9, 9)), "SGI"),
    "JPEG 2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50),
    "FITS": lambda: b"SIMPLE  =                    T" + b" " * 3000,
    "WMF": lambda: b"\xd7\xcd\xc6\x9a\0\0" + bytes(50),
    "XBM": lambda: b"#define im_width 9\n#define im_height 9\nstatic char im_bits[] = {\n0x00};\n",
    "ELF": lambda: b"\x7fELF" + bytes(60),
    "a zip": lambda: b"PK\3\4" + bytes(60),
    "a pickle": lambda: b"\x80\4cos\nsystem\n(S'true'\ntR.",
    "HTML": lambda: b"<html><img src=x onerror=alert(1)></html>",
    "a PNG behind a PDF": lambda: b"%PDF-1.4\n" + picture(),
    "a RIFF that is no WebP": lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
    "a film": lambda: b"\0\0\0\x18ftypmp42" + bytes(60),
}


@pytest.mark.parametrize("make", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "base64"])
def test_6_4_other_formats_are_415(real: Logged, make: Callable[[], bytes], bare: bool) -> None:
    data = make()
    body = data if bare else json.dumps({"image": base64.b64encode(data).decode()}).encode()
    status, error = real.daemon.call("/process_image?prompt=CAPTION", body)
    assert (status, error["code"]) == (415, "bad_image")
    assert_ours(status, error)


def test_6_4_a_picture_with_something_behind_it_is_that_picture(real: Logged) -> None:
    """A polyglot is only ever read as what it begins with."""
    plain = real.daemon.call("/process_image?prompt=CAPTION", picture_of_one_colour())
    for tail in (b"PK\3\4<?php system('id')?>", b"<svg onload=alert(1)>", b"%!PS (/etc/passwd) run"):
        assert real.daemon.call("/process_image?prompt=CAPTION", picture_of_one_colour() + tail) == plain
    assert plain[0] == 200


def picture_of_one_colour(size: tuple[int, int] = (64, 48)) -> bytes:
    return saved(Image.new("RGB", size, "teal"), "PNG")


def test_6_4_the_largest_picture_that_is_allowed_stays_within_bounds(real: Logged) -> None:
    """150 kB that become 49 million pixels: allowed, so the worker must bear it; the daemon never decodes."""
    assert real.daemon.call("/load", b"")[0] == 200
    daemon, worker = (
        psutil.Process(pid) for pid in (real.daemon.process.pid, real.daemon.call("/status")[1]["worker_pid"])
    )
    before = daemon.memory_info().rss
    large = picture_of_one_colour((7000, 7000))
    assert len(large) < 300_000
    assert real.daemon.call("/process_image?prompt=CAPTION&max_new_tokens=5", large)[0] == 200
    assert worker.memory_info().rss < 2 << 30
    assert daemon.memory_info().rss - before < 50 << 20
    assert real.daemon.call("/status")[1]["restarts"] == 0


HOSTILE_NAMES = [
    "../../etc",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "/",
    ".",
    "..",
    "~",
    "C:\\Windows",
    "http://127.0.0.1/model",
    "file:///etc",
    "owner/name",
    "demo/../demo",
    "demo\0",
    "demo%00",
    "\r\nX-A: b",
    "a" * 7000,
    "{}",
    "__class__",
    "demo;rm -rf",
    "dеmo",  # noqa: RUF001  with a Cyrillic letter
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: name[:20])
def test_6_6_only_configured_models_have_names(real: Logged, name: str, tmp_path: Path) -> None:
    before = real.daemon.call("/status")[1]
    body = json.dumps({"image": base64.b64encode(picture()).decode(), "model": name}).encode()
    status, error = real.daemon.call("/process_image", body)
    assert (status, error["code"]) == (404, "model_not_found")
    assert error["error"].endswith("name one of these: demo.")
    after = real.daemon.call("/status")[1]
    assert [after[key] for key in ("loads", "failures", "restarts") if key in after] == [
        before[key] for key in ("loads", "failures", "restarts") if key in before
    ]


class Hostile:
    """Unpickled without care, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, (f"touch {self.path}",))


def test_6_6_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    """Through the real worker: with the weights of a checkpoint that would otherwise load, and code beside it."""
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "hostile"))
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    torch.save({"weights": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
    code = f"import os; os.system('touch {tmp_path / 'ran'}')\n"
    for name in ("modeling_florence2.py", "configuration_florence2.py", "sitecustomize.py", "__init__.py"):
        (folder / name).write_text(code, encoding="utf-8")
    change_json(
        folder / "config.json", lambda config: config.update(auto_map={"AutoConfig": "configuration_florence2.A"})
    )
    with running("vision_server", "--model", str(folder)) as daemon:
        status, error = daemon.call("/process_image?prompt=CAPTION", picture())
    assert (status, error["code"]) == (503, "bad_checkpoint")
    assert "pytorch_model.bin holds more than tensors" in error["error"]
    assert str(tmp_path) not in error["error"]
    assert not (tmp_path / "ran").exists()
    subprocess.run([sys.executable, "-c", "import sys, torch; torch.load(sys.argv[1], weights_only=False)",
                    folder / "pytorch_model.bin"], check=True)  # fmt: skip
    assert (tmp_path / "ran").exists(), "the file was not hostile"


def test_6_7_the_worker_listens_nowhere_and_the_daemon_at_one_port(real: Logged) -> None:
    assert real.daemon.call("/load", b"")[0] == 200
    daemon = psutil.Process(real.daemon.process.pid)
    listening = [one for one in daemon.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert [(one.laddr.ip, one.laddr.port) for one in listening] == [
        ("127.0.0.1", int(real.daemon.url.rsplit(":")[-1]))
    ]
    children = daemon.children(recursive=True)
    assert real.daemon.call("/status")[1]["worker_pid"] in [child.pid for child in children]
    assert [child.net_connections("all") for child in children] == [[]] * len(children)


def test_6_7_the_daemon_has_no_pickle_and_no_torch_to_read_with() -> None:
    """Of what it imports: a module that is not there cannot unpickle what a worker sends."""
    code = (
        "import sys\n"
        "from vision_server.api.app import create_app\n"
        "from vision_server import daemon\n"
        "ours = [module for name, module in sys.modules.items() if name.startswith('vision_server')]\n"
        "names = ('pickle', 'marshal', 'shelve', 'torch')\n"
        "assert not any(hasattr(module, name) for module in ours for name in names)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_6_5_pictures_and_prompts_are_never_logged(real: Logged) -> None:
    """At log_level debug, in the daemon and its worker, with answers, refusals and a body that breaks off."""
    marks = ("MARKED_TEXT_7f3a", "MARKED_PROMPT_91bc", "MARKED_FILE_55de", "MARKED_FORM_02ab")
    text = base64.b64encode(picture()).decode()
    daemon = real.daemon
    assert daemon.call(f"/process_image?prompt=CAPTION_TO_PHRASE_GROUNDING&text_input={marks[0]}", picture())[0] == 200
    assert daemon.call(f"/process_image?prompt={marks[1]}", picture())[0] == 400
    assert daemon.call(f"/process_image?prompt=CAPTION&text_input={marks[0]}", picture())[0] == 400
    asked = {"image": text, "prompt": "CAPTION_TO_PHRASE_GROUNDING", "text_input": marks[0]}
    assert daemon.call("/process_image", json.dumps(asked).encode())[0] == 200
    assert daemon.call("/process_image", json.dumps({**asked, "prompt": marks[1]}).encode())[0] == 400
    assert daemon.call("/process_image", json.dumps({**asked, "image": text[:-3]}).encode())[0] == 400
    broken = picture()[:-300] + marks[2].encode()
    assert daemon.call("/process_image?prompt=CAPTION", broken)[0] in (200, 415)
    assert daemon.call("/process_image", b'{"image": "' + text.encode() + b'", ' + marks[3].encode())[0] == 400
    assert daemon.call("/process_image", marks[3].encode())[0] == 415
    assert daemon.call("/unload?force=1", b"")[0] == 200  # the worker has said all it had to say
    log = real.text
    assert log.count("/process_image") >= 9, "nothing is logged at all"
    for mark in (*marks, text[:60], text[100:160], repr(picture()[:30])[2:-1], *(mark.lower() for mark in marks)):
        assert mark not in log

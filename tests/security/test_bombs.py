"""Small or strange bodies that would become large or long: refused within bounded memory and time, before any work."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import psutil
import pytest

from tests.daemon_process import Daemon

from .conftest import forget_peak, peak_bytes, rss_bytes
from .raw import head, send, status

MB = 1 << 20
PEAK_BYTES = 600 * MB  # a body of 46, and text of it that takes four bytes a letter, twice
CPU_S = 5.0


@cache
def deflated(data: bytes, times: int, wbits: int) -> bytes:
    """`data` over and over, in one stream."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, wbits)
    return b"".join(compressor.compress(data) for _ in range(times)) + compressor.flush()


ZEROS = bytes(16 * MB)
TIMES = 32  # half a gigabyte


@pytest.mark.parametrize("kind", ["application/json", "image/png", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize(
    ("coding", "bomb", "statuses"),
    [
        ("gzip", lambda: deflated(ZEROS, TIMES, 31), (413,)),
        ("gzip", lambda: gzip.compress(ZEROS) * TIMES, (413,)),
        ("deflate", lambda: deflated(ZEROS, TIMES, 15), (413,)),
        ("deflate", lambda: deflated(ZEROS, TIMES, -15), (413,)),
        ("gzip", lambda: gzip.compress(b"")[:10] * 100_000, (400,)),
        ("gzip", lambda: gzip.compress(b"") * 100_000, (400,)),
        ("gzip, gzip", lambda: gzip.compress(gzip.compress(ZEROS)), (400, 415)),
    ],
    ids=["gzip", "gzip members", "zlib", "raw deflate", "broken heads", "empty members", "twice"],
)
def test_6_4_a_compressed_body_is_inflated_to_the_limit_and_no_further(
    patient: Daemon, kind: str, coding: str, bomb: Callable[[], bytes], statuses: tuple[int, ...]
) -> None:
    body = bomb()
    headers = head(Content_Type=kind, Content_Encoding=coding, Content_Length=len(body))
    refused_within_bounds(patient, headers + body, *statuses)


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_6_4_a_coding_that_is_not_read_is_refused(patient: Daemon, coding: str) -> None:
    answer = send(patient, head(Content_Encoding=coding, Content_Length=4) + b"\x1b\xff\xff\0")
    assert status(answer) == 400
    assert "otherwise than by gzip or deflate" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_6_4_what_is_refused_for_another_reason_is_not_inflated_at_all(start: Any) -> None:
    daemon = start("--api-key", "s3cret")
    body = deflated(ZEROS, TIMES, 31)
    before_s = cpu_s(daemon)
    assert status(send(daemon, head(Content_Encoding="gzip", Content_Length=len(body)) + body)) == 401
    assert daemon.call("/health")[0] == 200
    assert cpu_s(daemon) - before_s < 1


HUGE = b"A" * (40 * MB)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 90_000,
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"image": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"image": [' + b"[]," * (13 * MB) + b"[]]}",
        b'{"image": [' + b"{}," * (13 * MB) + b"{}]}",
        b'{"image": [' + b"0.1," * (10 * MB) + b"1]}",
        b"{" + b",".join(b'"%d":1' % n for n in range(200_000)) + b"}",
        b'{"image": ' + b"1" * (8 * MB) + b"}",
        b'{"image": 1e' + b"9" * (8 * MB) + b"}",
        b'{"image": "' + HUGE + "\U0001f4a3".encode() + b'"}',
        b'{"image": "' + b"\\u0041" * (7 * MB) + b'\xff"}',
        b'{"image": "' + b"\\" * (40 * MB) + b'"}',
        b'{"image": "' + b" " * (40 * MB) + b'"}',
        b'{"image": "data:' + b" " * (40 * MB) + b'"}',
        b'{"image": "data:' + b",;base64" * (5 * MB) + b'"}',
        b" " * (40 * MB),
    ],
    ids=["90,000 deep",
         "deep lists", "deep objects", "500 deep", "lists", "objects", "floats", "keys", "digits", "exponent",
         "wide", "escapes", "backslashes", "spaces", "spaces in a data URI", "many data URIs", "nothing"],
)  # fmt: skip
def test_6_4_json_of_any_shape(patient: Daemon, body: bytes) -> None:
    headers = head(Content_Type="application/json", Content_Length=len(body))
    refused_within_bounds(patient, headers + body, 400, 415)


PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"\n" * (40 * MB),
        b"\r\n" * (20 * MB),
        b"--" * (20 * MB),
        b"--x\r\n" * (8 * MB),
        b"--x" * (13 * MB),
        PART * 500_000 + b"--x--\r\n",
        b"--x\r\n" + b"A: b\r\n" * (6 * MB) + b"\r\n\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; name=" + b";" * (40 * MB) + b"\r\n\r\n1\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="' + b'\\"' * 4000 + b"\r\n\r\n1\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data" + b";a*0=" * 1600 + b"\r\n\r\n1\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; name*=\0''a\r\n\r\n1\r\n--x--\r\n",
        b"--x\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n" * 100_000,
    ],
    ids=["line breaks", "CRLF", "dashes", "boundaries", "boundaries in a line", "parts", "headers", "semicolons",
         "quotes", "continued", "NUL charset", "forms in forms"],
)  # fmt: skip
def test_6_4_forms_of_any_shape(patient: Daemon, body: bytes) -> None:
    headers = head(Content_Type="multipart/form-data; boundary=x", Content_Length=len(body))
    refused_within_bounds(patient, headers + body, 400)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)


def gif_frame(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0)


def jpeg(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0" + b"\xff\xd9"


def tiff(width: int, height: int) -> bytes:
    entries = ((0x100, 4, 1, width), (0x101, 4, 1, height))
    return b"II*\0" + struct.pack("<IH", 8, 2) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


def big_tiff(width: int, height: int) -> bytes:
    entries = ((0x100, 16, 1, width), (0x101, 16, 1, height))
    start = b"MM\0+" + struct.pack(">HHQQ", 8, 0, 16, 2)
    return start + b"".join(struct.pack(">HHQQ", *entry) for entry in entries) + bytes(8)


def webp(width: int, height: int) -> bytes:
    """38 bytes that make Pillow's opener reserve the whole canvas."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + canvas + b"ANIM\0\0\0\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lossless_webp(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return b"RIFF\x20\0\0\0WEBPVP8L\x05\0\0\0\x2f" + struct.pack("<I", bits)


def lossy_webp(width: int, height: int) -> bytes:
    return b"RIFF\x20\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)


def avif(width: int, height: int) -> bytes:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    size = box(b"ispe", struct.pack(">III", 0, width, height))
    return box(b"ftyp", b"avif\0\0\0\0mif1") + box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", size)))


MAKERS = (png, gif, gif_frame, bmp, jpeg, tiff, big_tiff, webp, lossless_webp, lossy_webp, avif)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "base64"])
def test_6_4_a_header_that_claims_a_giant(patient: Daemon, make: Callable[[int, int], bytes], bare: bool) -> None:
    """Refused by the daemon, from the header: no worker is started for it."""
    assert len(webp(1, 1)) == 38
    before = patient.call("/status")[1]["loads"]
    for size, expected in (
        ((16_383, 16_383), 413),
        ((16_384, 3_100), 413),
        ((30_000, 10), 422),
        ((65_535, 65_535), 422),
    ):
        if max(size) >= 16_384 and make in (lossless_webp, lossy_webp):
            continue  # these formats have no such sizes
        data = make(*size)
        body = data if bare else json.dumps({"image": base64.b64encode(data).decode()}).encode()
        refused_within_bounds(patient, head(Content_Length=len(body)) + body, expected)
    assert patient.call("/status")[1]["loads"] == before


def test_afterwards_the_memory_is_back(patient: Daemon) -> None:
    """All the bombs above went to this one daemon."""
    assert rss_bytes(patient) < 150 * MB


def cpu_s(daemon: Daemon) -> float:
    return sum(psutil.Process(daemon.process.pid).cpu_times()[:2])


def refused_within_bounds(daemon: Daemon, sent: bytes, *statuses: int) -> None:
    """One of our errors with such a status; the daemon spent little on it, and answers others meanwhile and after."""
    forget_peak(daemon)
    before_s, began_s = cpu_s(daemon), time.monotonic()
    got = send(daemon, sent)
    assert status(got) in statuses, got[-300:]
    assert set(json.loads(got.partition(b"\r\n\r\n")[2])) == {"error", "detail", "code", "request_id"}
    assert daemon.call("/health")[0] == 200
    assert cpu_s(daemon) - before_s < CPU_S
    assert peak_bytes(daemon) < PEAK_BYTES
    assert time.monotonic() - began_s < 60

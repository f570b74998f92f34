"""Thousands of broken picture files: each is decoded or refused in our words, soon, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.fuzz.corpus import FORMATS, MUTATIONS, corpus, sound
from vision_server import images
from vision_server.errors import BadImage, ImageRefused, TooLarge
from vision_server.worker.decode import decode

COUNT = 5000
GROWTH_BYTES = 2 << 10  # for each file, most of which is what the allocators take once
TEXTS = re.compile(
    r"The (AVIF|BMP|GIF|HEIC|JPEG|PNG|TIFF|WebP) file is broken: its header does not tell the size\. Save it again\."
    r"|The picture cannot be decoded: the file is damaged or incomplete\. Save it again\."
    r"|The picture has [N x=]+ pixels; at most N are taken\.( Send a smaller one: .*)?"
    r"|The picture has too many pixels\. Send a smaller one\."
    r"|The picture says it is N x N pixels; each side may have N to N\."
    r"|This is not a picture in a format that is decoded here: send [\w, ]+\."
)


def decoded(count: int, seed: int, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.fuzz.decoding", str(count), str(seed), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=280)
    assert done.returncode == 0, "the decoder's process died"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def assert_sound(report: dict[str, Any], count: int) -> None:
    assert report["strange"] == []
    assert set(report["outcomes"]) == {"picture", "bad_image", "image_refused", "too_large"}
    assert sum(report["outcomes"].values()) == count
    assert [text for text in report["texts"] if not TEXTS.fullmatch(text)] == []
    assert report["slowest_s"] < 2, report["slowest"]
    assert report["rss_peak"] < report["rss_before"] + (128 << 20)
    assert report["rss_after"] < report["rss_before"] + GROWTH_BYTES * report["measured"]


def test_the_corpus_is_what_it_says() -> None:
    files = dict(corpus(COUNT))
    assert files == dict(corpus(COUNT))
    assert len(files) == COUNT
    assert len(set(files.values())) > COUNT * 0.95
    assert all(any(name.startswith(f"{form}-") for name in files) for form in FORMATS)
    assert all(sum(mutation.__name__ in name for name in files) > COUNT / 20 for mutation in MUTATIONS)
    originals = {data for form in FORMATS for data in sound(form)}
    assert sum(data in originals for data in files.values()) < COUNT / 20


@pytest.mark.parametrize("form", FORMATS)
def test_what_it_begins_with_is_sound(form: str) -> None:
    for data in sound(form):
        assert decode(data, 1_000_000).image.mode == "RGB"


def test_the_header_check_passes_them_or_refuses_them_at_once() -> None:
    passed, refused = 0, dict[str, str]()
    slowest_s, slowest = 0.0, ""
    for name, data in corpus(COUNT):
        began_s = time.process_time()
        try:
            header = images.check(data, 4_000_000)
        except (BadImage, ImageRefused, TooLarge) as error:
            refused[name] = re.sub(r"\d[\d,]*", "N", str(error))
        else:
            passed += 1
            assert header.width * header.height <= 4_000_000, name
        slowest_s, slowest = max((slowest_s, slowest), (time.process_time() - began_s, name))
    assert [name for name, text in refused.items() if not TEXTS.fullmatch(text)] == []
    assert COUNT / 10 < passed < COUNT * 0.9
    assert slowest_s < 0.1, slowest


def test_the_workers_decoder_survives_them_and_grows_by_nothing() -> None:
    assert_sound(decoded(COUNT, 0), COUNT)


def test_a_decoder_that_leaks_would_be_found() -> None:
    report = decoded(COUNT // 2, 0, "--leak", "8192")
    assert report["rss_after"] > report["rss_before"] + GROWTH_BYTES * report["measured"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_more_of_them(seed: int) -> None:
    assert_sound(decoded(20_000, seed), 20_000)

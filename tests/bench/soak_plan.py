"""What the soak asks: drawn pictures with questions, the forms a request comes in, and requests that must be refused.

Everything is chance from a seed, and made before the clock starts. Not a benchmark.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from vision_server.training.drawing import draw
from vision_server.training.questions import PROMPTS, ask
from vision_server.training.scenes import EVAL_SEEDS, scene

MAX_BODY_MB = 1  # the daemon's limit, small so that too much is soon sent
_SIDES_PX = (128, 192, 256, 384)
_FILES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("JPEG", {"quality": 90}),
    ("PNG", {"compress_level": 1}),
    ("WEBP", {"quality": 85, "method": 0}),
)
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"max_new_tokens": 24},
    {"max_new_tokens": 12},
    {"num_beams": 1, "max_new_tokens": 32},
    {"num_beams": 2, "max_new_tokens": 24, "no_repeat_ngram_size": 0},
    {"num_beams": 3, "max_new_tokens": 24, "length_penalty": 0.5, "early_stopping": True},
    {"max_new_tokens": 96},
)
_QUESTIONS_OF_A_PICTURE = 3


@dataclass(frozen=True)
class Asked:
    """One picture's file, what is asked of it, and how to decode. Equal ones must be answered equally."""

    image: bytes
    prompt: str
    text: str
    region: tuple[float, ...] | None
    options: dict[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        """As the API takes them, less the picture; what is empty is left out."""
        region = list(self.region) if self.region else None
        given = {"prompt": self.prompt, "text_input": self.text, "region": region, "options": self.options}
        return {name: value for name, value in given.items() if value}

    @property
    def as_texts(self) -> dict[str, str]:
        """The same for a form or a query."""
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.fields.items()}
        return texts | ({"region": ",".join(map(str, self.region))} if self.region else {})


@dataclass(frozen=True)
class Sent:
    """An HTTP request to make. `body` makes a new body for each try, since a form can be sent only once."""

    path: str
    body: Callable[[], Any]
    params: dict[str, str] | None = None
    headers: dict[str, str] | None = None
    method: str = "POST"


def questions(count: int, seed: int) -> list[Asked]:
    """So many, all different, a few of each picture, every prompt in its turn."""
    rng = random.Random(f"questions {seed}")
    seeds = rng.sample(EVAL_SEEDS, -(-count // _QUESTIONS_OF_A_PICTURE))
    found = []
    for number, scene_seed in enumerate(seeds):
        shown = scene(scene_seed, rng.choice(_SIDES_PX))
        form, how = rng.choice(_FILES)
        file = io.BytesIO()
        draw(shown).save(file, form, **how)
        for turn in range(_QUESTIONS_OF_A_PICTURE):
            prompt = PROMPTS[(number * _QUESTIONS_OF_A_PICTURE + turn) % len(PROMPTS)]
            question = ask(shown, prompt)
            options = rng.choice(_OPTIONS)
            found.append(Asked(file.getvalue(), prompt, question.text, question.region, options))
    return found[:count]


def plain(asked: Asked) -> Sent:
    """The bare picture, the rest in the query."""
    return Sent("/process_image", lambda: asked.image, asked.as_texts)


def in_json(asked: Asked) -> Sent:
    body = json.dumps({"image": base64.b64encode(asked.image).decode(), **asked.fields}).encode()
    return Sent("/process_image", lambda: body)


def as_data_uri(asked: Asked) -> Sent:
    uri = f"data:;base64,{base64.b64encode(asked.image).decode()}"
    body = json.dumps({"image": uri, **asked.fields}).encode()
    return Sent("/process_image", lambda: body, headers={"Content-Type": "application/json"})


def as_form(asked: Asked) -> Sent:
    def body() -> aiohttp.FormData:
        form = aiohttp.FormData()
        form.add_field("image", asked.image, filename="picture")
        for name, text in asked.as_texts.items():
            form.add_field(name, text)
        return form

    return Sent("/process_image", body)


FORMS = (plain, in_json, as_data_uri, as_form)


def refused(some: Asked, rng: random.Random) -> dict[str, tuple[Sent, set[int]]]:
    """Requests that are wrong, by what is wrong with them, each with the statuses that it may get."""
    image, text = some.image, base64.b64encode(some.image).decode()
    cut = bytearray(image[: len(image) * 2 // 3])
    noise = image[:16] + rng.randbytes(400)
    return {
        "no such prompt": (_raw(image, prompt="NONSENSE"), {400}),
        "broken base64": (_json({"image": text[:-3] + "?"}), {400}),
        "broken JSON": (Sent("/process_image", lambda: b'{"image": "' + text.encode()[:99]), {400}),
        "no picture": (_json({"prompt": "CAPTION"}), {400}),
        "bad option": (_raw(image, num_beams="99"), {400}),
        "text is missing": (_raw(image, prompt="CAPTION_TO_PHRASE_GROUNDING"), {400}),
        "region is outside": (_raw(image, prompt="REGION_TO_OCR", region="9000,9000,9500,9500"), {400}),
        "no such model": (_raw(image, model="no-such-model"), {404}),
        "no such path": (_raw(image, "/process_images"), {404}),
        "wrong method": (Sent("/process_image", lambda: None, method="GET"), {405}),
        "foreign host": (Sent("/process_image", lambda: image, headers={"Host": "evil.example"}), {403}),
        "foreign page": (Sent("/process_image", lambda: image, headers={"Origin": "http://evil.example"}), {403}),
        "no picture's bytes": (_raw(rng.randbytes(999)), {415}),
        "picture cut off": (_raw(bytes(cut)), {415}),
        "picture of noise": (_raw(noise), {413, 415, 422}),
        "address": (_json({"image": "http://127.0.0.1/picture.png"}), {422}),
        "too many bytes": (_raw(image + bytes(MAX_BODY_MB << 20)), {413}),
        "far too many bytes": (_raw(image + bytes(3 * MAX_BODY_MB << 20)), {413}),
        "too many pixels": (_raw(_png(9000, 9000)), {413}),
        "side is too long": (_raw(_png(20_000, 2)), {422}),
    }


def _raw(body: bytes, path: str = "/process_image", **params: str) -> Sent:
    return Sent(path, lambda: body, {"prompt": "CAPTION", **params})


def _json(fields: dict[str, Any]) -> Sent:
    body = json.dumps(fields).encode()
    return Sent("/process_image", lambda: body)


def _png(width: int, height: int) -> bytes:
    """A small file that says it is a grey picture of this size, in pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )

"""Sentences and answers against transformers' processor; the answers on generated texts of every sort.

The reference runs on a picture of 1000 x 1000 pixels, where its whole pixels are the bins themselves; from these the
exact pixels of any other picture follow. Faults of the reference that can be mended in its input are mended (`_mend`),
so that those texts are still compared; the others are named in `FAULTS`, each with the texts that it concerns. Every
other text must be answered alike, and the share of these is asserted.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.models.clip import CLIPImageProcessor
from transformers.models.florence2 import Florence2Processor

from vision_server.tasks import STOCK, TASKS, answer, find

PARSERS = (
    "pure_text ocr phrase_grounding description_with_bboxes description_with_polygons polygons bboxes "
    "description_with_bboxes_or_polygons"
)
TOKENS = (
    "<CAPTION>",
    "<OD>",
    "<DENSE_REGION_CAPTION>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "<REGION_PROPOSAL>",
    "<OCR_WITH_REGION>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "<REGION_TO_SEGMENTATION>",
    "<OPEN_VOCABULARY_DETECTION>",
)
SORTS = ("well-formed", "truncated", "shuffled", "unicode", "random tokens")
SIZE = (1366, 77)
MARK = re.compile(r"(<loc_\d+>|<sep>|</?poly>)", re.ASCII)


@pytest.fixture(scope="module")
def reference() -> Florence2Processor:
    words = Tokenizer(WordLevel({"<image>": 0}, unk_token="<image>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.image_token, tokenizer.image_token_id = "<image>", 0
    images = CLIPImageProcessor()
    images.image_seq_length = 577
    return Florence2Processor(images, tokenizer, post_processor_config={name: {} for name in PARSERS.split()})


# --- texts ----------------------------------------------------------------------------------------------------------


WORDS = ("cat", "dog", "red car", "a man, seated", "SALE 50%", "x > y", "it", "T-shirt (blue)", " tree ", "7")
FOREIGN = ("café", "naïve", "犬", "Straße 5", "two\nlines", "\n", "\u00a0wide\u2028", "😀 face", "e\u0301", "Привет")
STRUCTURE = (
    "<sep>",
    "<poly>",
    "</poly>",
    "<od>",
    "</ocr>",
    "<and>",
    "<s>",
    "</s>",
    "<pad>",
    "<",
    "<loc_",
    "<loc_1200>",
)


def _locations(rng: random.Random, count: int) -> list[str]:
    return [f"<loc_{rng.randrange(1000)}>" for _ in range(count)]


def _object(rng: random.Random, kind: str, words: tuple[str, ...]) -> list[str]:
    label = [rng.choice(words)]
    if kind == "text":
        return label
    if kind == "quads":
        return [*label, *_locations(rng, 8)]
    if kind == "proposals":
        return _locations(rng, 4)
    if kind == "boxes":
        return [*label, *_locations(rng, 4 * rng.choice((1, 1, 1, 2, 3)))]
    return (label if kind == "labelled polygons" else []) + _polygon(rng)


def _polygon(rng: random.Random) -> list[str]:
    rings = [_locations(rng, rng.randrange(6, 24)) for _ in range(rng.choice((1, 1, 1, 2)))]
    separated = [token for ring in rings for token in ("<sep>", *ring)]
    return ["<poly>", *separated[1:], "</poly>"]


def _text(rng: random.Random, token: str, sort: str) -> str:
    task = find(token)
    assert task
    kind: str = task.answer
    if kind == "boxes_or_polygons":
        kind = rng.choice(("boxes", "labelled polygons"))
    words = FOREIGN + WORDS if sort == "unicode" else WORDS
    if sort == "random tokens":
        pieces = [rng.choice((*words, *STRUCTURE, *_locations(rng, 40))) for _ in range(rng.randrange(30))]
        return "".join(pieces)
    pieces = [piece for _ in range(rng.randrange(6)) for piece in _object(rng, kind, words)]
    if sort == "shuffled":
        rng.shuffle(pieces)
    start = rng.choice(("", "<s>", "</s><s>", "</s><s><s><s>"))
    text = start + "".join(pieces) + rng.choice(("", "</s>", "</s><pad><pad>"))
    return text[: rng.randrange(len(text) + 1)] if sort == "truncated" else text


# --- where the reference is wrong -----------------------------------------------------------------------------------


def _mend(token: str, text: str) -> str:
    """The text without what trips the reference up: letters beyond ASCII (dropped from labels), newlines (cutting or
    losing labels), `<pad>` (left in texts) and bins beyond 999 (outside the picture)."""
    text = text.replace("<s>", "").replace("</s>", "").replace("<pad>", "")
    text = re.sub(r"[^\x00-\x7f]|\n", lambda letter: f"\x01{ord(letter[0]):x}\x02", text)
    task = find(token)
    return text if task and task.answer == "text" else re.sub(r"<loc_0*[1-9]\d{3,}>", "<loc_999>", text)


def _unmend(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("\x01([0-9a-f]+)\x02", lambda code: chr(int(code[1], 16)), value).strip()
    if isinstance(value, list):
        return [_unmend(item) for item in value]
    return {key: _unmend(item) for key, item in value.items()} if isinstance(value, dict) else value


def _runs(text: str) -> Iterator[tuple[str, list[str]]]:
    """What stands before a run of marks, and the run."""
    before, run = "", list[str]()
    for place, piece in enumerate(MARK.split(text)):
        if place % 2:
            run.append(piece)
        elif piece or not place:
            if run:
                yield before, run
            before, run = piece, []
    if run:
        yield before, run


def _stretches(run: list[str]) -> list[tuple[str, int]]:
    """(what precedes, how many) of the locations between marks in a run."""
    found: list[tuple[str, int]] = []
    for previous, token in zip(["", *run], run, strict=False):
        if token.startswith("<loc_"):
            if previous.startswith("<loc_"):
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((previous, 1))
    return found


def _stray(text: str) -> bool:
    return bool(re.search(r"<(?!loc_\d+>|sep>|/?poly>).*<(loc_\d+|poly)>", text, re.DOTALL))


def _leftover_before_boxes(text: str) -> bool:
    runs = list(_runs(text))
    for label, run in runs:
        if any(count >= (4 if previous else 5) and (previous or not label) for previous, count in _stretches(run)):
            return True
    for (label, run), (_, following) in pairwise(runs):
        used = label and len(run) >= 4 and _stretches(run) == [("", len(run))]
        if not used and _stretches(following[:4]) == [("", 4)]:
            return True
    return False


def _quads_miscounted(text: str) -> bool:
    runs = list(_runs(text))
    if any(not label or not all(token.startswith("<loc_") for token in run) for label, run in runs):
        return True
    return any(len(run) != 8 for _, run in runs[:-1]) or bool(runs and len(runs[-1][1]) > 16)


def _label_from_mark(text: str) -> bool:
    for _, run in _runs(text):
        first = run[1:2] if run[0].startswith("<loc_") else run[:1]
        if first and first[0] in ("<sep>", "</poly>"):
            return True
    return False


def _pointless_ring(text: str) -> bool:
    return any(count == 1 for _, run in _runs(text) if len(run) >= 4 for _, count in _stretches(run))


def _boxes_beside_polygons(text: str) -> bool:
    return "<poly>" in text and any("<poly>" not in run for label, run in _runs(text) if label and len(run) >= 4)


def _leftover_before_polygons(text: str) -> bool:
    runs = list(_runs(text))
    if any(not label and len(run) >= 5 for label, run in runs):
        return True
    return any(not (label and len(run) >= 4) and len(following) >= 4 for (label, run), (_, following) in pairwise(runs))


STRAY = "a '<' that is no location or polygon mark: the reference takes what follows it for the label"
LEFTOVER = "locations without a label, or too few: the reference takes a piece of their tokens for a label"
MISCOUNTED = "text with other than eight locations: the reference takes the tokens themselves for the next label"
FROM_MARK = "a run that starts with <sep> or </poly>: the reference makes it the label"
POINTLESS = "a ring of one odd coordinate: the reference answers a ring without a point"
MIXED = "boxes beside polygons: the reference makes the boxes polygons of two points"

FAULTS = {
    "boxes": {STRAY: _stray, LEFTOVER: _leftover_before_boxes},
    "quads": {STRAY: _stray, MISCOUNTED: _quads_miscounted},
    "polygons": {FROM_MARK: _label_from_mark, POINTLESS: _pointless_ring},
    "boxes_or_polygons": {
        STRAY: _stray,
        MIXED: _boxes_beside_polygons,
        LEFTOVER: lambda text: (_leftover_before_polygons if "<poly>" in text else _leftover_before_boxes)(text),
        FROM_MARK: lambda text: "<poly>" in text and _label_from_mark(text),
        POINTLESS: lambda text: "<poly>" in text and _pointless_ring(text),
    },
    "text": {},
    "proposals": {},
}


def _fault(token: str, mended: str) -> str | None:
    task = find(token)
    assert task
    return next((name for name, concerns in FAULTS[task.answer].items() if concerns(mended)), None)


# --- comparing ------------------------------------------------------------------------------------------------------


def _expected(reference: Florence2Processor, token: str, mended: str) -> Any:
    def pixels(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], int):
            return [(index + 0.5) * SIZE[place % 2] / 1000 for place, index in enumerate(value)]
        if isinstance(value, list):
            return [pixels(item) for item in value]
        return {key: pixels(item) for key, item in value.items()} if isinstance(value, dict) else value

    answered = reference.post_process_generation(text=mended, task=token, image_size=(1000, 1000))[token]
    return _unmend(pixels(answered))


def _assert_sound(token: str, text: str) -> Any:
    """The answer, after checks that hold for any text: JSON-ready, as many labels as places, all inside the picture."""
    started = time.process_time()
    found = answer(token, text, SIZE)
    assert time.process_time() - started < 0.050, text
    json.dumps(found, allow_nan=False)
    if isinstance(found, dict):
        for places, labels in (("bboxes", "labels"), ("quad_boxes", "labels"), ("polygons", "labels")):
            if places in found and labels in found:
                assert len(found[places]) == len(found[labels])
        for number, side in _numbers(found):
            assert 0 < number < side, text
    return found


def _numbers(value: Any) -> Iterator[tuple[float, int]]:
    if isinstance(value, dict):
        value = [places for key, places in value.items() if "labels" not in key]
    for place, item in enumerate(value):
        if isinstance(item, float):
            yield item, SIZE[place % 2]
        else:
            yield from _numbers(item)


def test_sentences(reference: Florence2Processor) -> None:
    theirs = reference.task_prompts_without_inputs | reference.task_prompts_with_input
    assert {task.token: task.sentence for task in TASKS if task.token in STOCK} == theirs
    takes_input = {task.token for task in TASKS if task.token in STOCK and task.input != "none"}
    assert takes_input == set(reference.task_prompts_with_input)


def test_twenty_thousand_texts(reference: Florence2Processor) -> None:
    rng = random.Random(20_24)
    compared, excused, wrong = Counter[str](), Counter[str](), Counter[str]()
    for index in range(20_000):
        sort, token = SORTS[index % len(SORTS)], rng.choice(TOKENS)
        text = _text(rng, token, sort)
        found, mended = _assert_sound(token, text), _mend(token, text)
        fault, expected = _fault(token, mended), _expected(reference, token, mended)
        if fault:
            excused[fault] += 1
            wrong[fault] += found != expected
        else:
            assert found == expected, (token, text)
            compared[sort] += 1

    assert compared["well-formed"] == compared["unicode"] == 4_000
    assert compared["truncated"] > 3_900
    # What is shuffled or random is garbage, of which the reference reads about half wrong.
    assert min(compared["shuffled"], compared["random tokens"]) > 1_800
    assert set(excused) == {fault for faults in FAULTS.values() for fault in faults}, "a fault that no text shows"
    for fault, texts in excused.items():
        assert wrong[fault] > texts / 3, f"excuses more than the reference gets wrong: {fault}"


def test_whole_pixels_of_any_picture(reference: Florence2Processor) -> None:
    """The reference cuts pixels down to whole ones; ours are what it cuts, to a thousandth for its single precision."""
    rng = random.Random(7)
    for _ in range(500):
        size = (rng.randrange(1, 5000), rng.randrange(1, 5000))
        text = _text(rng, "<OD>", "well-formed")
        found = answer("<OD>", text, size)
        theirs = reference.post_process_generation(text=text, task="<OD>", image_size=size)["<OD>"]
        assert isinstance(found, dict)
        assert len(found["bboxes"]) == len(theirs["bboxes"])
        for our_box, their_box in zip(found["bboxes"], theirs["bboxes"], strict=True):
            for ours, cut in zip(our_box, their_box, strict=True):
                assert cut - 0.001 < ours < cut + 1.001


PIECES = st.one_of(
    st.integers(0, 1100).map("<loc_{}>".format),
    st.sampled_from((*STRUCTURE, *WORDS, *FOREIGN)),
    st.text(max_size=8),
)


@settings(max_examples=400, deadline=None)
@given(token=st.sampled_from(TOKENS), text=st.lists(PIECES, max_size=40).map("".join))
def test_any_text(reference: Florence2Processor, token: str, text: str) -> None:
    found, mended = _assert_sound(token, text), _mend(token, text)
    if not _fault(token, mended):
        assert found == _expected(reference, token, mended)

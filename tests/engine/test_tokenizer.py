"""The stock tokenizer.json with Florence's tokens added: ids equal to transformers' on thousands of strings."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import BartTokenizerFast, PreTrainedTokenizerFast

from vision_server.engine.preprocess import FLORENCE_TOKENS, LOCATIONS, PromptTokenizer
from vision_server.tasks import TASKS

STOCK = Path(__file__).parents[1] / "data" / "tokenizer.json.gz"
ENDS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MASK = AddedToken("<mask>", lstrip=True, special=True)  # it takes the spaces before it along, as in BART
TASK_TOKENS = (
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>"),
    *("<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>", "<proposal>"),
    *("</proposal>", "<poly>", "</poly>", "<and>"),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    (folder / "tokenizer.json").write_bytes(gzip.decompress(STOCK.read_bytes()))
    return folder


@pytest.fixture(scope="module")
def ours(directory: Path) -> PromptTokenizer:
    return PromptTokenizer(directory)


def added() -> list[str]:
    """Florence's tokens as its processor adds them, written out apart from the engine's table."""
    return ["<od>", "</od>", "<ocr>", "</ocr>", *(f"<loc_{n}>" for n in range(1000)), *TASK_TOKENS]


@pytest.fixture(scope="module")
def reference(directory: Path) -> PreTrainedTokenizerFast:
    """The whole file as transformers reads it, template and all."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>"}
    fast = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), mask_token=MASK, **names)
    fast.add_special_tokens({"additional_special_tokens": added()})
    return fast


@pytest.fixture(scope="module")
def rebuilt(directory: Path) -> BartTokenizerFast:
    """transformers' own BART, built from vocabulary and merges alone."""
    model = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    fast = BartTokenizerFast(vocab=model["vocab"], merges=merges, mask_token=MASK)
    fast.add_special_tokens({"additional_special_tokens": added()})
    return fast


def strings() -> Iterator[str]:
    """More than 2,000, always the same."""
    yield from ENDS
    yield from added()  # 1,024
    for task in TASKS:
        yield from (task.token, task.sentence, task.sentence.replace("{input}", "a green car left of <loc_1><loc_999>"))
    yield from ("", " ", "  ", "\n", "\t\t", " \u00a0 ", "\u3000\u3000", "a  b   c    d", " lead", "trail ", "\r\n\r\n")
    yield from (
        "caf\u00e9",
        "cafe\u0301",
        "\u65e5\u672c\u8a9e",
        "\ud55c\uad6d\uc5b4",
        "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
        "\u05e9\u05dc\u05d5\u05dd",
        "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    )
    yield from (
        "\U0001f1e9\U0001f1ea",
        "\u2764\ufe0f",
        "\ufeffBOM",
        "\u200b\u200d",
        "\U0010ffff",
        "\ufffd",
        "it's we'll THEY'RE",
        "1,234.56 %",
    )
    yield from (chr(code) for code in range(0x100))  # every control character among them
    rng = random.Random(2)
    pieces = [
        *ENDS,
        "<loc_7>",
        "<loc_1000>",
        "<od>",
        "</poly>",
        " ",
        "  ",
        "\n",
        "car",
        " Car",
        "\u00e9",
        "\U0001f600",
        "<",
        ">",
        "loc_",
        "\x00",
        "\x7f",
        "'s",
        "12",
        "\u4e2d",
    ]
    for _ in range(350):
        yield "".join(rng.choices(pieces, k=rng.randrange(1, 12)))
    for _ in range(250):
        yield "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD7FF), rng.randrange(0xE000, 0x110000))))
            for _ in range(rng.randrange(1, 40))
        )
    for _ in range(150):
        yield rng.randbytes(rng.randrange(1, 60)).decode("latin-1")
    for _ in range(50):
        yield rng.randbytes(rng.randrange(1, 60)).decode("utf-8", "replace")


def test_there_are_enough_strings() -> None:
    assert len(set(strings())) >= 2000


def test_ids_equal_transformers(ours: PromptTokenizer, reference: PreTrainedTokenizerFast) -> None:
    texts = list(strings())
    for text, ids in zip(texts, reference(texts)["input_ids"], strict=True):
        assert ours.encode(text) == ids, repr(text)


def test_ids_equal_transformers_bart(ours: PromptTokenizer, rebuilt: BartTokenizerFast) -> None:
    texts = list(strings())
    for text, ids in zip(texts, rebuilt(texts, add_special_tokens=False)["input_ids"], strict=True):
        assert ours.encode(text) == [0, *ids, 2], repr(text)


def test_texts_equal_transformers(ours: PromptTokenizer, reference: PreTrainedTokenizerFast) -> None:
    """What is decoded: the ends left out, locations kept."""
    rng = random.Random(3)
    for _ in range(300):
        ids = [rng.randrange(4, 51289) for _ in range(rng.randrange(1, 20))]
        assert ours.decode([0, *ids, 2, 1]) == reference.decode(ids, clean_up_tokenization_spaces=False), ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<GENERATE_TAGS>", [0, 41552, 30965, 2076, 8625, 1215, 46985, 104, 15698, 2]),
        ("<MIXED_CAPTION>", [0, 41552, 7539, 1000, 1691, 1215, 28494, 10263, 15698, 2]),
        ("<ANALYZE>", [0, 41552, 1889, 2118, 975, 33288, 15698, 2]),
        ("<od></od><ocr></ocr><loc_0>", [0, 50265, 50266, 50267, 50268, 50269, 2]),
        ("<loc_999><cap>", [0, 51268, 51269, 2]),
        ("<and>", [0, 51288, 2]),
    ],
)
def test_the_published_ids(ours: PromptTokenizer, text: str, ids: list[int]) -> None:
    assert ours.encode(text) == ids


def test_the_table_of_tokens_is_the_published_one() -> None:
    assert list(FLORENCE_TOKENS) == added()
    assert LOCATIONS == 1000

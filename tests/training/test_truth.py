"""The truth's grammar: every text says what the scene holds, in order, and reads back to the scene."""

import re
from collections import Counter

import pytest

from vision_server.training.pictograms import KINDS
from vision_server.training.questions import PROMPTS, ask
from vision_server.training.scenes import BACKGROUNDS, TEXTURES, Item, Scene, Sign, scene
from vision_server.training.truth import NUMBERS, TOKENS, locations, things, truth
from vision_server.training.vocabulary import build_tokenizer
from vision_server.training.words import WORDS

SCENES = [scene(seed) for seed in range(300)]
KIND = "|".join(KINDS)
BACKGROUND = "|".join(BACKGROUNDS)

BY_HAND = Scene(
    size_px=200,
    background="striped blue",
    items=(
        Item("umbrella", "red", "large", (10.0, 20.0, 70.0, 70.0), ((10.0, 20.0),), (1, 0, 0, 0, 1, 0)),
        Item("car", "black", "small", (140.0, 150.0, 180.0, 199.9), ((140.0, 150.0),), (1, 0, 0, 0, 1, 0)),
    ),
    sign=Sign("CAFE", (50.0, 85.0, 130.0, 115.0), (50.0, 86.0, 130.0, 85.0, 130.0, 114.0, 50.0, 115.0), "white"),
    seed=1,
)
SIGN_BOX = "<loc_250><loc_425><loc_650><loc_575>"
UMBRELLA_BOX = "<loc_50><loc_100><loc_350><loc_350>"
CAR_BOX = "<loc_700><loc_750><loc_900><loc_999>"
MIXED = "car, sign and umbrella on a striped background\nstriped background, black, red"
ANALYSIS = "things: three, texture: striped, tint: blue, sign: white, text: CAFE"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("<CAPTION>", "car, sign and umbrella on a striped background"),
        (
            "<DETAILED_CAPTION>",
            "black car, sign that says CAFE and red umbrella on a striped blue background",
        ),
        ("<OD>", f"car{CAR_BOX}sign{SIGN_BOX}umbrella{UMBRELLA_BOX}"),
        ("<OCR>", "CAFE"),
        (
            "<OCR_WITH_REGION>",
            "CAFE<loc_250><loc_430><loc_650><loc_425><loc_650><loc_570><loc_250><loc_575>",
        ),
        ("<GENERATE_TAGS>", "car, sign, umbrella, black, red, striped background"),
        (
            "<DENSE_REGION_CAPTION>",
            f"black car{CAR_BOX}white sign{SIGN_BOX}red umbrella{UMBRELLA_BOX}",
        ),
        ("<REGION_PROPOSAL>", f"{CAR_BOX}{SIGN_BOX}{UMBRELLA_BOX}"),
        (
            "<MORE_DETAILED_CAPTION>",
            "black car, sign that says CAFE and red umbrella on a striped blue background. There are three things in "
            "all. The sign is white, at the centre.",
        ),
        ("<GENERATE_PROMPT>", "car, sign, umbrella, black, red, striped background"),
        ("<MIXED_CAPTION>", MIXED),
        ("<MIX_CAPTION>", MIXED),
        ("<ANALYZE>", ANALYSIS),
        ("<MIXED_CAPTION_PLUS>", f"{MIXED}\n{ANALYSIS}"),
        ("<MIX_CAPTION_PLUS>", f"{MIXED}\n{ANALYSIS}"),
    ],
)
def test_the_truth_of_a_scene_made_by_hand(token: str, expected: str) -> None:
    assert truth(BY_HAND, token) == expected


def test_every_token_has_an_answer_and_others_have_none() -> None:
    assert len(TOKENS) == len(set(TOKENS)) == 15
    with pytest.raises(KeyError):
        truth(BY_HAND, "<NO_SUCH_PROMPT>")


def test_without_a_sign_there_is_no_text() -> None:
    bare = next(one for one in SCENES if one.sign is None)
    assert truth(bare, "<OCR>") == "no text"
    assert truth(bare, "<OCR_WITH_REGION>") == ""
    assert truth(bare, "<ANALYZE>").endswith("sign: no, text: NA")
    assert truth(bare, "<MORE_DETAILED_CAPTION>").endswith("No sign stands in it.")
    silent = set(TOKENS) - {"<MORE_DETAILED_CAPTION>", "<ANALYZE>", "<MIXED_CAPTION_PLUS>", "<MIX_CAPTION_PLUS>"}
    assert "sign" not in "".join(truth(bare, token) for token in silent)


def count_of(phrase: str) -> tuple[int, str]:
    """How many of what: "two red cars" is (2, "red car")."""
    number, _, name = phrase.partition(" ")
    return (NUMBERS.index(number), name.removesuffix("s")) if number in NUMBERS else (1, phrase)


def test_things_are_named_by_kind_and_from_left_to_right() -> None:
    for one in SCENES:
        named = [
            (thing.kind if isinstance(thing, Item) else "sign", thing.box[0] + thing.box[2]) for thing in things(one)
        ]
        assert named == sorted(named)


def test_captions_read_back_to_the_scene() -> None:
    for one in SCENES:
        brief = re.fullmatch(rf"(.+) on a ({'|'.join(TEXTURES)}) background", truth(one, "<CAPTION>"))
        assert brief is not None
        assert brief[2] == one.background.split()[0]
        labels = [thing.kind if isinstance(thing, Item) else "sign" for thing in things(one)]
        counts = Counter(labels)
        several = {label: label if label == "fish" else f"{label}s" for label in counts}
        named = [label if count == 1 else several[label] for label, count in counts.items()]
        assert re.split(", | and ", brief[1]) == named

        full = re.fullmatch(rf"(.+) on a ({BACKGROUND}) background", truth(one, "<DETAILED_CAPTION>"))
        assert full is not None
        assert full[2] == one.background
        names = [
            f"{thing.colour} {thing.kind}" if isinstance(thing, Item) else f"sign that says {thing.text}"
            for thing in things(one)
        ]
        said = [count_of(phrase) for phrase in re.split(", | and ", full[1])]
        assert Counter({name: count for count, name in said}) == Counter(names)
        kinds = ["sign" if "sign" in name else name.split()[-1] for _, name in said]
        assert kinds == sorted(kinds)


def test_truths_can_be_said_under_the_ban_of_repeated_three_grams() -> None:
    """All of them but a few detailed captions ("red car, blue car, blue tree": "car, blue" twice)."""
    vocabulary = build_tokenizer()
    unsayable: Counter[str] = Counter()
    for one in SCENES:
        for token in PROMPTS:
            ids = vocabulary.encode(ask(one, token).truth).ids
            grams = list(zip(ids, ids[1:], ids[2:], strict=False))
            unsayable[token] += len(set(grams)) < len(grams)
    for token in ("<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"):
        assert unsayable.pop(token) <= 0.02 * len(SCENES)
    assert unsayable.total() == 0
    assert all(len({word[i : i + 3] for i in range(len(word) - 2)}) == len(word) - 2 for word in WORDS)


def test_every_word_of_the_truths_is_few_tokens_and_a_capital_is_one() -> None:
    vocabulary = build_tokenizer()
    for kind in KINDS:
        assert len(vocabulary.encode(f"a {kind}", add_special_tokens=False).ids) == 2
    assert vocabulary.encode("CAFE", add_special_tokens=False).tokens == list("CAFE")
    assert len(vocabulary.encode("<loc_0><loc_999><sep></poly>", add_special_tokens=False).ids) == 4


def test_locations_read_back_to_the_boxes_within_a_bin() -> None:
    for one in SCENES:
        text = truth(one, "<OD>")
        assert re.fullmatch(rf"((?:{KIND}|sign)(<loc_\d{{1,3}}>){{4}})+", text)
        bins = [int(number) for number in re.findall(r"<loc_(\d+)>", text)]
        pixels = [(number + 0.5) * one.size_px / 1000 for number in bins]
        boxes = [value for thing in things(one) for value in thing.box]
        assert pixels == pytest.approx(boxes, abs=0.5 * one.size_px / 1000 + 1e-6)


def test_locations_stay_within_the_thousand_bins() -> None:
    assert locations((-3.0, 0.0, 255.9, 256.0, 400.0), 256) == "<loc_0><loc_0><loc_999><loc_999><loc_999>"
    assert locations((128.0, 64.1), 256) == "<loc_500><loc_250>"

"""The truth's grammar: every text says what the scene holds, in order, and reads back to the scene."""

import re

import numpy as np
import pytest

from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import BACKGROUNDS, COLOURS, TEXTURES, Item, Scene, Sign, scene
from vision_server.training.truth import TOKENS, cells, locations, things, truth

SCENES = [scene(seed) for seed in range(300)]
KIND = "|".join(KINDS)
PLACE = "top left|top right|bottom left|bottom right|top|bottom|left|right|center"
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


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("<CAPTION>", "an umbrella, a sign and a car on a striped background"),
        (
            "<DETAILED_CAPTION>",
            "a large red umbrella, a sign that says CAFE and a small black car on a striped blue background",
        ),
        (
            "<MORE_DETAILED_CAPTION>",
            "There is a large red umbrella at the top left and a small black car at the bottom right. "
            "A sign at the center says CAFE. The background is striped blue.",
        ),
        ("<OD>", f"umbrella{UMBRELLA_BOX}sign{SIGN_BOX}car{CAR_BOX}"),
        ("<OCR>", "CAFE"),
        (
            "<OCR_WITH_REGION>",
            "CAFE<loc_250><loc_430><loc_650><loc_425><loc_650><loc_570><loc_250><loc_575>",
        ),
        ("<GENERATE_TAGS>", "car, sign, umbrella, black, red, striped background"),
        (
            "<DENSE_REGION_CAPTION>",
            f"large red umbrella{UMBRELLA_BOX}sign that says CAFE{SIGN_BOX}small black car{CAR_BOX}",
        ),
        ("<REGION_PROPOSAL>", f"{UMBRELLA_BOX}{SIGN_BOX}{CAR_BOX}"),
    ],
)
def test_the_truth_of_a_scene_made_by_hand(token: str, expected: str) -> None:
    assert truth(BY_HAND, token) == expected


def test_every_token_has_an_answer_and_others_have_none() -> None:
    assert len(TOKENS) == len(set(TOKENS)) == 9
    with pytest.raises(KeyError):
        truth(BY_HAND, "<NO_SUCH_PROMPT>")


def test_without_a_sign_there_is_no_text() -> None:
    bare = next(one for one in SCENES if one.sign is None)
    assert truth(bare, "<OCR>") == "no text"
    assert truth(bare, "<OCR_WITH_REGION>") == ""
    assert "sign" not in "".join(truth(bare, token) for token in TOKENS)


def test_captions_read_back_to_the_scene() -> None:
    detailed = re.compile(rf"a (?:(small|large) (\w+) ({KIND})|sign that says ([A-Z]{{3,6}}))")
    for one in SCENES:
        brief = truth(one, "<CAPTION>")
        texture = re.fullmatch(rf"(.+) on a ({'|'.join(TEXTURES)}) background", brief)
        assert texture is not None
        assert texture[2] == one.background.split()[0]
        labels = [thing.kind if isinstance(thing, Item) else "sign" for thing in things(one)]
        assert re.findall(rf"\ban? ({KIND}|sign)\b", texture[1]) == labels
        assert not re.search(r"\ba [aeiou]", texture[1])
        assert texture[1].count(" and ") == (len(labels) > 1)

        full = re.fullmatch(rf"(.+) on a ({BACKGROUND}) background", truth(one, "<DETAILED_CAPTION>"))
        assert full is not None
        assert full[2] == one.background
        assert detailed.findall(full[1]) == [
            (thing.size, thing.colour, thing.kind, "") if isinstance(thing, Item) else ("", "", "", thing.text)
            for thing in things(one)
        ]


def test_the_long_caption_names_the_third_in_which_each_centre_lies() -> None:
    columns, rows = {"left": 0, "right": 2}, {"top": 0, "bottom": 2}
    for one in SCENES:
        long = truth(one, "<MORE_DETAILED_CAPTION>")
        found = re.findall(rf"a (?:small|large) \w+ ({KIND}) at the ({PLACE})\b", long)
        assert [kind for kind, _ in found] == [item.kind for item in one.items]
        for (_, place), item in zip(found, one.items, strict=True):
            words = place.split()
            column = next((columns[word] for word in words if word in columns), 1)
            row = next((rows[word] for word in words if word in rows), 1)
            assert column <= 3 * (item.box[0] + item.box[2]) / 2 / one.size_px < column + 1
            assert row <= 3 * (item.box[1] + item.box[3]) / 2 / one.size_px < row + 1
        assert (one.sign is not None) == bool(re.search(r"A sign at the [a-z ]+ says [A-Z]+\.", long))
        assert long.endswith(f". The background is {one.background}.")


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


@pytest.mark.parametrize("grid", [4, 8, 16])
def test_cells_know_what_lies_in_them(grid: int) -> None:
    for one in SCENES:
        truth_cells = cells(one, grid)
        side = one.size_px / grid
        assert truth_cells.kind.shape == truth_cells.colour.shape == truth_cells.character.shape == (grid, grid)
        assert BACKGROUNDS[truth_cells.background] == one.background
        for row, column in np.argwhere(truth_cells.kind > 0):
            kind, colour = truth_cells.kind[row, column], truth_cells.colour[row, column]
            over = [
                thing
                for thing in things(one)
                if thing.box[0] < (column + 1) * side
                and thing.box[2] > column * side
                and thing.box[1] < (row + 1) * side
                and thing.box[3] > row * side
            ]
            if kind == len(KINDS) + 1:
                assert any(isinstance(thing, Sign) for thing in over)
                assert colour == 0
            else:
                names = {(thing.kind, thing.colour) for thing in over if isinstance(thing, Item)}
                assert (KINDS[kind - 1], COLOURS[colour - 1]) in names
        if grid == 16:
            shown = {item.kind for item in one.items}
            assert {KINDS[kind - 1] for kind in np.unique(truth_cells.kind) if 0 < kind <= len(KINDS)} == shown


def test_cells_of_a_fine_grid_spell_the_sign() -> None:
    for one in SCENES:
        found = cells(one, 16).character
        rows, columns = np.nonzero(found)
        read = "".join(
            chr(64 + found[row, column])
            for row, column in sorted(zip(rows, columns, strict=True), key=lambda at: at[1])
        )
        assert read == (one.sign.text if one.sign else "")

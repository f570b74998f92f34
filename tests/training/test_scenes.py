"""Scenes: what chance may and may not do, and that the painted pixels are where the scene says they are."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vision_server.training.drawing import PAINTS, draw
from vision_server.training.pictograms import KINDS, PICTOGRAMS
from vision_server.training.scenes import (
    BACKGROUNDS,
    COLOURS,
    EVAL_SEEDS,
    GAP,
    LARGE,
    ORDER_GAP,
    SMALL,
    TRAIN_SEEDS,
    Item,
    Scene,
    scene,
)
from vision_server.training.words import WORDS

SIZE_PX = 256
SCENES = [scene(seed, SIZE_PX) for seed in range(1500)]
HATS = [item for seed in range(3) for item in scene(seed, SIZE_PX, ("hat",)).items]


def pixels_of(item: Item) -> NDArray[np.bool_]:
    """Which pixels of an otherwise empty picture the item paints."""
    empty = Scene(SIZE_PX, "plain grey", (), None, 0)
    alone = dataclasses.replace(empty, items=(item,))
    difference = np.asarray(draw(alone), dtype=np.int64) - np.asarray(draw(empty), dtype=np.int64)
    painted: NDArray[np.bool_] = np.abs(difference).sum(axis=2) > 0
    return painted


def first_of_each_kind(each: int) -> list[Item]:
    seen: Counter[str] = Counter()
    found = []
    for item in (item for one in SCENES for item in one.items):
        if seen[item.kind] < each:
            seen[item.kind] += 1
            found.append(item)
    assert set(seen.values()) == {each}
    assert len(seen) == len(KINDS)
    return found


def test_the_same_seed_gives_the_same_scene_and_the_same_pixels() -> None:
    for seed in (0, 7, EVAL_SEEDS[0]):
        assert scene(seed) == scene(seed)
        assert draw(scene(seed)).tobytes() == draw(scene(seed)).tobytes()
    assert len({draw(one).tobytes() for one in SCENES[:200]}) == 200


def test_a_hat_is_in_no_scene_unless_it_is_asked_for() -> None:
    """The embedded checkpoint has seen none, and what it is measured on has none."""
    assert {item.kind for one in SCENES for item in one.items} == set(KINDS)
    assert set(PICTOGRAMS) - set(KINDS) == {"hat"}
    assert {item.kind for item in HATS} == {"hat"}


@pytest.mark.parametrize("size_px", [64, 128, 512])
def test_another_picture_size_shows_the_same_scene(size_px: int) -> None:
    for reference in SCENES[:50]:
        other = scene(reference.seed, size_px)
        assert draw(other).size == (size_px, size_px)
        assert draw(other).mode == "RGB"
        assert (other.background, other.sign and other.sign.text) == (
            reference.background,
            reference.sign and reference.sign.text,
        )
        for one, two in zip(other.items, reference.items, strict=True):
            assert (one.kind, one.colour, one.size) == (two.kind, two.colour, two.size)
            assert one.box == pytest.approx([value * size_px / SIZE_PX for value in two.box])


def test_the_box_is_tight_around_the_painted_pixels() -> None:
    for item in [*first_of_each_kind(8), *HATS]:
        ys, xs = np.nonzero(pixels_of(item))
        painted = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert painted == pytest.approx(item.box, abs=1.5), item


def test_the_polygon_goes_round_the_painted_pixels() -> None:
    for item in [*first_of_each_kind(4), *HATS]:
        assert 3 <= len(item.polygon) <= 16
        inside = Image.new("1", (SIZE_PX, SIZE_PX))
        ImageDraw.Draw(inside).polygon(item.polygon, fill=1)
        filled, painted = np.asarray(inside), pixels_of(item)
        assert (filled & painted).sum() / (filled | painted).sum() > 0.75, item


def test_an_item_is_mostly_of_its_own_colour() -> None:
    for item in [*first_of_each_kind(4), *HATS]:
        alone = draw(Scene(SIZE_PX, "plain grey", (item,), None, 0))
        painted = np.asarray(alone, dtype=np.int64)[pixels_of(item)]
        near = (np.abs(painted - np.asarray(PAINTS[item.colour])).max(axis=1) <= 8).mean()
        assert near > 0.3, item


def test_every_item_stands_out_from_every_background() -> None:
    bare = {name: np.asarray(draw(Scene(64, name, (), None, 3)), dtype=np.int64) for name in BACKGROUNDS}
    for name, colour in itertools.product(BACKGROUNDS, COLOURS):
        distance = np.linalg.norm(bare[name] - np.asarray(PAINTS[colour]), axis=2)
        assert distance.min() > 50, (name, colour)


def test_a_textured_background_has_a_texture_and_a_plain_one_has_none() -> None:
    for name in BACKGROUNDS:
        tones = draw(Scene(SIZE_PX, name, (), None, 11)).getcolors(maxcolors=SIZE_PX * SIZE_PX)
        assert tones is not None
        assert (len(tones) == 1) == name.startswith("plain")


def test_everything_lies_inside_and_nothing_overlaps() -> None:
    for one in SCENES:
        boxes = [item.box for item in one.items] + ([one.sign.box] if one.sign else [])
        least_px = GAP * SIZE_PX - 1e-6
        for x1, y1, x2, y2 in boxes:
            assert least_px <= x1 < x2 <= SIZE_PX - least_px
            assert least_px <= y1 < y2 <= SIZE_PX - least_px
        for a, b in itertools.combinations(boxes, 2):
            aside = max(a[0], b[0]) - min(a[2], b[2])
            above = max(a[1], b[1]) - min(a[3], b[3])
            assert max(aside, above) >= least_px


def test_the_order_from_left_to_right_is_never_in_doubt() -> None:
    for one in SCENES:
        centres = [(item.box[0] + item.box[2]) / 2 for item in one.items]
        assert centres == sorted(centres)
        if one.sign:
            centres = sorted([*centres, (one.sign.box[0] + one.sign.box[2]) / 2])
        assert all(right - left >= ORDER_GAP * SIZE_PX - 1e-6 for left, right in itertools.pairwise(centres))


def test_small_and_large_are_never_in_doubt() -> None:
    sides: dict[str, list[float]] = {"small": [], "large": []}
    for item in (item for one in SCENES for item in one.items):
        x1, y1, x2, y2 = item.box
        sides[item.size].append(math.sqrt((x2 - x1) * (y2 - y1)) / SIZE_PX)
        assert max(x2 - x1, y2 - y1) < SIZE_PX / 2
    assert min(sides["small"]) >= SMALL[0]
    assert max(sides["small"]) < (SMALL[1] + LARGE[0]) / 2 - 0.005
    assert min(sides["large"]) > (SMALL[1] + LARGE[0]) / 2 + 0.005


def test_what_chance_gives_has_the_promised_shares() -> None:
    count = len(SCENES)
    items = [item for one in SCENES for item in one.items]
    sizes = Counter(len(one.items) for one in SCENES)
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert min(sizes.values()) > 0.15 * count
    for names, values in ((KINDS, [i.kind for i in items]), (COLOURS, [i.colour for i in items])):
        shares = Counter(values)
        assert set(shares) == set(names)
        assert min(shares.values()) > 0.7 * len(items) / len(names)
    assert len(KINDS) >= 12
    assert len(COLOURS) == 8
    textured = sum(not one.background.startswith("plain") for one in SCENES)
    assert textured / count == pytest.approx(0.5, abs=0.05)
    assert {one.background for one in SCENES} == set(BACKGROUNDS)
    signs = [one.sign for one in SCENES if one.sign]
    assert len(signs) / count == pytest.approx(1 / 3, abs=0.05)
    assert sum(sign.text in WORDS for sign in signs) / len(signs) == pytest.approx(0.7, abs=0.08)
    assert Counter(item.size for item in items)["large"] > 0.3 * len(items)


def test_signs_are_large_enough_to_be_read() -> None:
    for sign in (one.sign for one in SCENES if one.sign):
        assert 3 <= len(sign.text) <= 6
        assert sign.text.isascii()
        assert sign.text.isalpha()
        assert sign.text.isupper()
        x1, y1, x2, y2, x3, y3, x4, y4 = sign.quad
        assert (min(x1, x4), min(y1, y2), max(x2, x3), max(y3, y4)) == pytest.approx(sign.box)
        assert x1 < x2 and y1 < y4 and x4 < x3 and y2 < y3  # noqa: PT018 - one fact: clockwise from the top left
        assert abs(math.degrees(math.atan2(y2 - y1, x2 - x1))) <= 3.0001
        assert 0.16 < math.hypot(x4 - x1, y4 - y1) / SIZE_PX < 0.26
        assert 0.65 * sign.font_px >= 0.075 * SIZE_PX  # the mean capital is 0.65 of the font's size wide


def test_the_letters_are_painted_where_the_sign_says() -> None:
    for one in [one for one in SCENES if one.sign][:60]:
        assert one.sign is not None
        dark = np.asarray(draw(one).convert("L")) < 110
        for letter, (x, y) in zip(one.sign.text, one.sign.letter_centres(), strict=True):
            half = 0.5 * one.sign.font_px
            cut = dark[round(y - half) : round(y + half), round(x - 0.9 * half) : round(x + 0.9 * half)]
            rows, columns = np.nonzero(cut)
            assert len(rows) > 12, letter
            assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(cut.shape[0] / 2, abs=3.5), letter
            assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(cut.shape[1] / 2, abs=3.5), letter


def test_training_and_evaluation_share_no_seed() -> None:
    assert not set(range(TRAIN_SEEDS.start, TRAIN_SEEDS.stop, 1000)) & set(EVAL_SEEDS[::1000])
    assert TRAIN_SEEDS.stop <= EVAL_SEEDS.start
    assert len(TRAIN_SEEDS) >= 5_000_000
    assert len(EVAL_SEEDS) >= 10_000


def test_the_words_are_about_two_hundred_and_fit_a_sign() -> None:
    assert 180 <= len(WORDS) <= 220
    assert len(set(WORDS)) == len(WORDS)
    assert all(3 <= len(word) <= 6 and word.isalpha() and word.isupper() for word in WORDS)


def test_silhouettes_differ_at_twenty_pixels() -> None:
    """Any two kinds, filled and shrunk to 20 pixels, agree on less than nine tenths of the pixels they cover."""
    masks = {}
    for kind, pictogram in PICTOGRAMS.items():
        low, high = pictogram.extent.min(axis=0), pictogram.extent.max(axis=0)
        canvas = Image.new("1", (20, 20))
        for shape in (*pictogram.body, *pictogram.marks):
            scaled = (shape - (low + high) / 2) * 19 / (high - low).max() + 9.5
            ImageDraw.Draw(canvas).polygon(scaled.ravel().tolist(), fill=1)
        masks[kind] = np.asarray(canvas)
    for one, two in itertools.combinations(KINDS, 2):
        for other in (masks[two], masks[two][:, ::-1]):
            overlap = (masks[one] & other).sum() / (masks[one] | other).sum()
            assert overlap < 0.85, (one, two, overlap)

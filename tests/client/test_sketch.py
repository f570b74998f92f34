"""What is drawn, looked at pixel by pixel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from vision_server.client.sketch import draw_answer, open_upright, save, sketch
from vision_server.errors import BadImage, BadInput
from vision_server.tasks import Kind, Shape

GREY = (128, 128, 128)
SIZE = (600, 400)
SQUARE = [100.0, 100.0, 300.0, 100.0, 300.0, 300.0, 100.0, 300.0]


@pytest.fixture
def picture() -> Image.Image:
    return Image.new("RGB", SIZE, GREY)


def changed(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int]:
    box = ImageChops.difference(one, other).getbbox()
    assert box is not None, "nothing was drawn"
    return box


@pytest.mark.parametrize(("kind", "ring"), [("box", [100.0, 100.0, 300.0, 300.0]), ("quad", SQUARE)])
def test_boxes_and_quads_are_frames(picture: Image.Image, kind: Kind, ring: list[float]) -> None:
    drawn = sketch(picture, [Shape(kind, "", [ring])])
    assert changed(drawn, picture) == pytest.approx((98, 98, 303, 303), abs=2)
    assert drawn.getpixel((200, 200)) == GREY
    assert all(drawn.getpixel(place) != GREY for place in ((200, 100), (300, 200), (200, 300), (100, 200)))
    assert picture.getcolors() == [(SIZE[0] * SIZE[1], GREY)], "the picture itself was drawn into"


def test_polygons_are_half_transparent(picture: Image.Image) -> None:
    picture.paste((255, 255, 255), (200, 0, 600, 400))
    drawn = sketch(picture, [Shape("polygon", "", [SQUARE, [400, 100, 500, 100, 500, 200]])])
    on_grey, on_white, elsewhere = (drawn.getpixel(place) for place in ((150, 200), (250, 200), (350, 200)))
    assert elsewhere == (255, 255, 255)
    assert len({on_grey, on_white, GREY, elsewhere, drawn.getpixel((200, 100))}) == 5
    assert drawn.getpixel((470, 120)) == on_white  # its second ring
    # What lies under it still shows, by the same share in every band.
    assert isinstance(on_grey, tuple)
    assert isinstance(on_white, tuple)
    shares = {round((white - grey) / 127, 1) for white, grey in zip(on_white, on_grey, strict=True)}
    assert shares == {0.6}


def test_one_label_has_one_colour_and_another_another(picture: Image.Image) -> None:
    boxes = [[10.0, 100.0, 100.0, 200.0], [210.0, 100.0, 300.0, 200.0], [410.0, 100.0, 500.0, 200.0]]
    drawn = sketch(picture, [Shape("box", label, [box]) for label, box in zip("aba", boxes, strict=True)])
    first, second, third = (drawn.getpixel((x, 150)) for x in (100, 300, 500))
    assert first == third != second


@pytest.mark.parametrize(
    ("box", "plate"),
    [
        ((100.0, 100.0, 300.0, 300.0), (100, 75, 200, 100)),  # above
        ((100.0, 2.0, 300.0, 300.0), (100, 0, 200, 30)),  # no room above: moved into the picture
        ((560.0, 100.0, 599.0, 300.0), (480, 75, 600, 100)),  # moved to the left
    ],
)
def test_a_label_stands_on_a_plate_at_the_shape(
    picture: Image.Image, box: tuple[float, ...], plate: tuple[int, int, int, int]
) -> None:
    bare, labelled = (sketch(picture, [Shape("box", label, [list(box)])]) for label in ("", "a red car"))
    left, top, right, bottom = changed(bare, labelled)
    assert plate[0] <= left < right <= plate[2]
    assert plate[1] <= top < bottom <= plate[3]
    colours = [colour for _, colour in sorted(labelled.crop((left, top, right, bottom)).getcolors(99999) or [])]
    assert (230, 25, 75) in colours  # the plate
    assert (255, 255, 255) in colours  # letters that stand out from it


def test_labels_do_not_cover_each_other(picture: Image.Image) -> None:
    """The first stands above the shape, the second below it."""
    one = Shape("box", "car", [[100.0, 100.0, 300.0, 300.0]])
    _, top, _, bottom = changed(sketch(picture, [one]), sketch(picture, [one, one]))
    assert 290 < top < bottom < 330


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 48), (3000, 20)])
@pytest.mark.parametrize(
    "shape",
    [
        Shape("box", "inside out, and outside", [[900, 40, -5, 3]]),
        Shape("polygon", "", []),
        Shape("polygon", "no ring", [[]]),
        Shape("polygon", "a point", [[1, 1]]),
        Shape("polygon", "a line", [[1, 1, 5, 5]]),
        Shape("quad", "odd", [[1, 1, 5, 5, 7]]),
        Shape("box", "long " * 500, [[0, 0, 1, 1]]),
        Shape("box", "two\nlines 東京 \x00", [[0, 0, 1, 1]]),
    ],
    ids=lambda shape: shape.label[:10] or shape.kind,
)
def test_any_answer_can_be_drawn_into_any_picture(size: tuple[int, int], shape: Shape) -> None:
    drawn = sketch(Image.new("RGB", size, GREY), [shape])
    assert (drawn.mode, drawn.size) == ("RGB", size)


def test_an_answer_that_has_no_place_is_not_drawn(picture: Image.Image) -> None:
    results: list[Any] = ["a red car", {"bboxes": [], "labels": []}, {"caption": "x"}]
    for result in results:
        assert draw_answer(picture, result) is None


@pytest.mark.parametrize("region", [[100, 100, 300, 300], "100,100,300,300", "<loc_166><loc_249><loc_499><loc_749>"])
def test_the_region_that_was_asked_about_is_drawn_with_a_text(picture: Image.Image, region: Any) -> None:
    drawn = draw_answer(picture, "a red car", region)
    assert drawn is not None
    left, top, right, bottom = changed(drawn, picture)
    assert (left, right, bottom) == pytest.approx((98, 303, 303), abs=2)
    assert top < 95, "the text is missing"
    outline = draw_answer(picture, {"polygons": [[SQUARE]], "labels": [""]}, region)
    assert outline is not None
    assert outline.getpixel((200, 200)) != GREY
    with pytest.raises(BadInput):
        draw_answer(picture, "a red car", "over there")


def test_a_picture_is_read_upright_as_the_worker_reads_it() -> None:
    stored = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    opened = open_upright(file.getvalue())
    assert (opened.mode, opened.size) == ("RGB", (20, 40))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(BadImage):
        open_upright(b"no picture")


def test_no_file_is_replaced(picture: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    names = [save(picture, folder, "a b/../c: <OD>").name for _ in range(3)]
    assert names == ["a_b_.._c_OD_.png", "a_b_.._c_OD_-2.png", "a_b_.._c_OD_-3.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    with Image.open(folder / names[0]) as stored:
        assert stored.size == SIZE
    with pytest.raises(OSError, match=r"new"):
        save(picture, folder / names[0], "x")

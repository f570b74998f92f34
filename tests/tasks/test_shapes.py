"""Every kind of answer as places, one after the other."""

from __future__ import annotations

import pytest

from vision_server.tasks import Shape, answer, shapes

SIZE = (1000, 1000)
FOUR = "<loc_1><loc_2><loc_30><loc_40>"
EIGHT = "<loc_1><loc_2><loc_30><loc_2><loc_30><loc_40><loc_1><loc_40>"
BOX = [1.5, 2.5, 30.5, 40.5]
RING = [1.5, 2.5, 30.5, 2.5, 30.5, 40.5, 1.5, 40.5]


@pytest.mark.parametrize(
    ("token", "generated", "found"),
    [
        ("<CAPTION>", f"car{FOUR}", []),
        ("<OD>", f"car{FOUR}{FOUR}bus{FOUR}", [("box", "car", [BOX])] * 2 + [("box", "bus", [BOX])]),
        ("<OD>", "nothing", []),
        ("<REGION_PROPOSAL>", FOUR, [("box", "", [BOX])]),
        ("<OCR_WITH_REGION>", f"STOP{EIGHT}", [("quad", "STOP", [RING])]),
        ("<REGION_TO_SEGMENTATION>", f"{EIGHT}<sep>{EIGHT}", [("polygon", "", [RING, RING])]),
        (
            "<OPEN_VOCABULARY_DETECTION>",
            f"car{FOUR}bus<poly>{EIGHT}</poly>",
            [("box", "car", [BOX]), ("polygon", "bus", [RING])],
        ),
    ],
)
def test_the_places_of_an_answer(token: str, generated: str, found: list[tuple[str, str, list[list[float]]]]) -> None:
    told = shapes(answer(token, generated, SIZE))
    assert [(shape.kind, shape.label, shape.rings) for shape in told] == found


def test_bounds() -> None:
    assert Shape("box", "inside out", [[30, 4, 1, 20]]).bounds == (1, 4, 30, 20)
    assert Shape("polygon", "", [[5, 5, 9, 5, 9, 8], [1, 7, 3, 7, 3, 20]]).bounds == (1, 5, 9, 20)
    assert Shape("polygon", "", []).bounds == Shape("polygon", "", [[]]).bounds == (0, 0, 0, 0)

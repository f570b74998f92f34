"""One row per answer kind, each fault of the published post-processors, and the time that a hostile text takes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vision_server.tasks import TASKS, answer, parse_fields

SIZE = (1000, 500)  # a bin is 1 pixel wide and half a pixel high


def loc(*bins: int) -> str:
    return "".join(f"<loc_{index}>" for index in bins)


def px(*bins: int) -> list[float]:
    return [index + 0.5 if place % 2 == 0 else (index + 0.5) / 2 for place, index in enumerate(bins)]


BOX, BOX2 = (10, 20, 300, 400), (0, 0, 999, 999)
QUAD, QUAD2 = (10, 10, 90, 10, 90, 30, 10, 30), (11, 50, 99, 60, 98, 80, 10, 70)
RING, RING2 = (1, 1, 50, 1, 50, 50), (60, 60, 70, 60, 70, 70, 60, 70)


def boxes(*found: tuple[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"bboxes": [px(*box) for _, box in found], "labels": [label for label, _ in found]}


def polygons(*objects: list[tuple[int, ...]]) -> dict[str, Any]:
    return {"polygons": [[px(*ring) for ring in rings] for rings in objects], "labels": [""] * len(objects)}


def detected(located: dict[str, Any], outlined: dict[str, Any], outlined_labels: list[str]) -> dict[str, Any]:
    return {
        "bboxes": located["bboxes"],
        "bboxes_labels": located["labels"],
        "polygons": outlined["polygons"],
        "polygons_labels": outlined_labels,
    }


ANSWERS: list[tuple[str, str, Any]] = [
    ("<CAPTION>", "</s><s><s><s>A red car.</s><pad><pad>", "A red car."),
    ("<DETAILED_CAPTION>", "<s>The image shows a car.</s>", "The image shows a car."),
    ("<MORE_DETAILED_CAPTION>", " two\nlines \n", "two\nlines"),
    ("<OCR>", "</s><s>SALE\n50 %</s>", "SALE\n50 %"),
    (
        "<OCR_WITH_REGION>",
        f"</s><s>SALE{loc(*QUAD)}50 %{loc(*QUAD2)}</s>",
        {"quad_boxes": [px(*QUAD), px(*QUAD2)], "labels": ["SALE", "50 %"]},
    ),
    ("<OD>", f"car{loc(*BOX)}tree{loc(*BOX2, *BOX)}</s>", boxes(("car", BOX), ("tree", BOX2), ("tree", BOX))),
    ("<DENSE_REGION_CAPTION>", f"a red car, parked{loc(*BOX)}", boxes(("a red car, parked", BOX))),
    ("<REGION_PROPOSAL>", f"</s><s>{loc(*BOX, *BOX2)}</s>", boxes(("", BOX), ("", BOX2))),
    ("<CAPTION_TO_PHRASE_GROUNDING>", f"A car{loc(*BOX)}it{loc(*BOX2)}", boxes(("A car", BOX), ("it", BOX2))),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", f"{loc(*RING)}", polygons([RING])),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", f"{loc(*RING)}<sep>{loc(*RING2)}", polygons([RING, RING2])),
    (
        "<REGION_TO_SEGMENTATION>",
        f"<poly>{loc(*RING)}</poly><poly>{loc(*RING2)}</poly>",
        polygons([RING], [RING2]),
    ),
    ("<OPEN_VOCABULARY_DETECTION>", f"a car{loc(*BOX)}", detected(boxes(("a car", BOX)), polygons(), [])),
    (
        "<OPEN_VOCABULARY_DETECTION>",
        f"a car<poly>{loc(*RING)}<sep>{loc(*RING2)}</poly><poly>{loc(*RING2)}</poly>",
        detected(boxes(), polygons([RING, RING2], [RING2]), ["a car", "a car"]),
    ),
    ("<REGION_TO_CATEGORY>", "car</s>", "car"),
    ("<REGION_TO_DESCRIPTION>", "a red car</s>", "a red car"),
    ("<REGION_TO_OCR>", "SALE</s>", "SALE"),
    ("<GENERATE_TAGS>", "car, red \\(colour\\)</s>", "car, red \\(colour\\)"),
    ("<MIXED_CAPTION>", "A car.\n\ncar, red</s>", "A car.\n\ncar, red"),
    ("<MIXED_CAPTION_PLUS>", "A car.\n\ncar, red\n\nlocation: road</s>", "A car.\n\ncar, red\n\nlocation: road"),
    ("<MIX_CAPTION>", "A car.\ncar</s>", "A car.\ncar"),
    ("<MIX_CAPTION_PLUS>", "A car.\ncar\ntext: NA</s>", "A car.\ncar\ntext: NA"),
    ("<ANALYZE>", "camera_angle: front, text: NA</s>", "camera_angle: front, text: NA"),
    ("<GENERATE_PROMPT>", "car, road</s>", "car, road"),
    ("<VQA>", "red</s>", "red"),
    ("<DocVQA>", "1 May</s>", "1 May"),
    ("<DESCRIPTION>", "A car.</s>", "A car."),
    ("<TokenOfAFineTune>", f"{{'a': 1}}{loc(*BOX)}</s>", f"{{'a': 1}}{loc(*BOX)}"),
]


@pytest.mark.parametrize(("token", "generated", "expected"), ANSWERS)
def test_each_task(token: str, generated: str, expected: Any) -> None:
    assert answer(token, generated, SIZE) == expected


def test_the_table_covers_the_registry() -> None:
    assert {task.token for task in TASKS} <= {token for token, _, _ in ANSWERS}


@pytest.mark.parametrize("token", sorted({token for token, _, _ in ANSWERS}))
def test_nothing_found(token: str) -> None:
    found = answer(token, "</s><s></s>", SIZE)
    assert not found if isinstance(found, str) else not any(found.values())


MENDED: list[tuple[str, str, str, Any]] = [
    ("</s> in the first OCR label", "<OCR_WITH_REGION>", f"</s><s>SALE{loc(*QUAD)}</s>", ["SALE"]),
    ("OCR label cut at a newline", "<OCR_WITH_REGION>", f"two\nlines{loc(*QUAD)}", ["two\nlines"]),
    ("label lost for a newline", "<OD>", f"two\nlines{loc(*BOX)}", ["two\nlines"]),
    ("letters dropped", "<OD>", f"café 犬{loc(*BOX)}", ["café 犬"]),
    ("label from half a token", "<OD>", f"{loc(*BOX)}{loc(7)}car{loc(*BOX)}", ["car"]),
    ("label glued to a token", "<OD>", f"cat{loc(7)}car{loc(*BOX)}", ["car"]),
    ("label after structure", "<OD>", f"<od>car{loc(*BOX)}</od>", ["car"]),
    ("label with a '<'", "<OD>", f"x < y{loc(*BOX)}", ["x < y"]),
    ("tokens taken for text", "<OCR_WITH_REGION>", f"A{loc(*QUAD, 7)}B{loc(*QUAD)}", ["A", "B"]),
    ("tokens taken for text", "<OCR_WITH_REGION>", f"A{loc(*QUAD[:7])}B{loc(*QUAD)}", ["B"]),
    ("label from a mark", "<REGION_TO_SEGMENTATION>", f"<sep>{loc(*RING)}", [""]),
]


@pytest.mark.parametrize(("fault", "token", "generated", "labels"), MENDED)
def test_published_faults_are_not_repeated(fault: str, token: str, generated: str, labels: list[str]) -> None:
    found = answer(token, generated, SIZE)
    assert isinstance(found, dict)
    assert found["labels"] == labels, fault


def test_a_ring_without_a_point_is_none() -> None:
    found = answer("<REGION_TO_SEGMENTATION>", f"<poly>{loc(*RING)}<sep>{loc(5)}</poly><poly>{loc(5)}</poly>", SIZE)
    assert found == polygons([RING])


def test_an_odd_last_coordinate_is_dropped() -> None:
    found = answer("<REGION_TO_SEGMENTATION>", loc(*RING, 9), SIZE)
    assert found == polygons([RING])


def test_boxes_beside_polygons() -> None:
    found = answer("<OPEN_VOCABULARY_DETECTION>", f"car{loc(*BOX)}tree<poly>{loc(*RING)}</poly>", SIZE)
    assert found == detected(boxes(("car", BOX)), polygons([RING]), ["tree"])


@pytest.mark.parametrize(("token", "places"), [("<OCR_WITH_REGION>", loc(*QUAD)), ("<OD>", loc(*BOX))])
def test_places_without_a_label_are_dropped(token: str, places: str) -> None:
    found = answer(token, f"<s>{places}</s>", SIZE)
    assert isinstance(found, dict)
    assert not any(found.values())


def test_a_box_cut_short_is_dropped() -> None:
    assert answer("<OD>", f"car{loc(*BOX)}tree{loc(1, 2, 3)}<loc_", SIZE) == boxes(("car", BOX))


def test_bins_beyond_the_last_stay_inside() -> None:
    found = answer("<OD>", f"car<loc_0><loc_0007><loc_1000><loc_{'9' * 5000}>", SIZE)
    assert found == boxes(("car", (0, 7, 999, 999)))


def test_banned_phrases_are_grounding_s_and_the_caller_s() -> None:
    text = f"it{loc(*BOX)}A car{loc(*BOX)}"
    assert answer("<CAPTION_TO_PHRASE_GROUNDING>", text, SIZE, banned={"it"}) == boxes(("A car", BOX))
    assert answer("<OD>", text, SIZE, banned={"it"}) == boxes(("it", BOX), ("A car", BOX))


def test_the_name_may_be_spelled_as_people_do() -> None:
    assert answer("od", f"car{loc(*BOX)}", SIZE) == answer("<OD>", f"car{loc(*BOX)}", SIZE)


HOSTILE = (
    "<loc_1>",
    "<loc_1>a",
    "a<loc_1><loc_2><loc_3><loc_4>",
    "<poly>",
    "</poly><poly>",
    "<loc_1><sep>",
    "<",
    "<loc_",
    "<s",
    "<<s>s>",
    "<loc_" + "1" * 50,
    "a",
    "\n",
    "a: b,",
    "a;",
    "a_",
    "x,",
    "\\(",
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_grows_with_the_length_only(unit: str) -> None:
    """Sixteen times the text takes about sixteen times as long; a quadratic reading would take 256 times."""

    def seconds(length: int) -> float:
        text = "car: " + unit * (length // len(unit))
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            for task in TASKS:
                answer(task.token, text, SIZE)
                parse_fields(task.token, text)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(160_000) < 16 * 4 * max(seconds(10_000), 0.001)


@pytest.mark.parametrize("unit", HOSTILE)
def test_no_answer_takes_long(unit: str) -> None:
    text = "car" + unit * (1_000_000 // len(unit))
    for task in TASKS:
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            answer(task.token, text, SIZE)
            best = min(best, time.process_time() - started)
        assert best < 0.050, task.token

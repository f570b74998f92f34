"""The outlines of the things that drawn scenes show, one per kind, on a grid of 100 with y downwards.

Only geometry: which colour, how large and where is decided in `scenes`, and painted in `drawing`. A pictogram is a few
filled shapes: the body in the item's own colour, marks (windows, eyes, wheels) in a contrasting one. Silhouettes are
chosen to stay apart when they are twenty pixels high.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Points = Sequence[Point]


@dataclass(frozen=True, eq=False)
class Pictogram:
    """One kind's geometry.

    `body` and `marks` are arrays of shape [n, 2] painted in this order; `outline` ([at most 16, 2]) runs once around
    the whole; `extent` ([m, 2]) holds every painted point, for computing the tight box after a transformation.
    """

    body: tuple[NDArray[np.float64], ...]
    marks: tuple[NDArray[np.float64], ...]
    outline: NDArray[np.float64]
    extent: NDArray[np.float64]


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int) -> list[Point]:
    """Points of an ellipse from `start` to `end` degrees (clockwise as seen, 0 is to the right), both included."""
    angles = (math.radians(start + (end - start) * step / (steps - 1)) for step in range(steps))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def _disc(x: float, y: float, rx: float, ry: float | None = None, steps: int = 16) -> list[Point]:
    return _arc(x, y, rx, rx if ry is None else ry, 0, 360, steps + 1)[:-1]


def _pictogram(body: Sequence[Points], marks: Sequence[Points], outline: Points) -> Pictogram:
    arrays = [np.asarray(points, dtype=np.float64) for points in (*body, *marks)]
    return Pictogram(
        body=tuple(arrays[: len(body)]),
        marks=tuple(arrays[len(body) :]),
        outline=np.asarray(outline, dtype=np.float64),
        extent=np.concatenate(arrays),
    )


def _boat() -> Pictogram:
    hull = [(0, 70), (100, 70), (80, 98), (20, 98)]
    mast = [(46, 0), (53, 0), (53, 70), (46, 70)]
    return _pictogram(
        body=[mast, hull, [(43, 4), (43, 62), (8, 62)], [(56, 16), (92, 62), (56, 62)]],
        marks=[[(10, 77), (90, 77), (86, 83), (14, 83)]],
        outline=[
            (46, 0),
            (53, 0),
            (56, 16),
            (92, 62),
            (92, 70),
            (100, 70),
            (80, 98),
            (20, 98),
            (0, 70),
            (8, 70),
            (8, 62),
        ],
    )


def _car() -> Pictogram:
    shell = [(0, 62), (3, 46), (22, 42), (34, 20), (70, 20), (84, 42), (97, 46), (100, 62), (100, 76), (0, 76)]
    return _pictogram(
        body=[shell],
        marks=[
            [(37, 26), (49, 26), (49, 42), (29, 42)],
            [(54, 26), (67, 26), (77, 42), (54, 42)],
            _disc(24, 76, 14),
            _disc(76, 76, 14),
        ],
        outline=[*shell[:9], (89, 80), (76, 90), (62, 78), (38, 78), (24, 90), (11, 80), shell[9]],
    )


def _crown() -> Pictogram:
    rim = [(0, 15), (25, 48), (50, 5), (75, 48), (100, 15), (90, 88), (10, 88)]
    return _pictogram(body=[rim], marks=[[(12, 70), (88, 70), (87, 79), (13, 79)]], outline=rim)


def _cup() -> Pictogram:
    bowl = [(0, 12), (74, 12), (66, 96), (8, 96)]
    handle = [*_arc(72, 46, 28, 26, -80, 80, 9), *_arc(70, 46, 15, 14, 80, -80, 9)]
    return _pictogram(
        body=[handle, bowl],
        marks=[[(3, 26), (71, 26), (69, 42), (5, 42)]],
        outline=[
            (0, 12),
            (74, 12),
            (75, 20),
            (88, 25),
            (98, 36),
            (100, 46),
            (98, 56),
            (88, 67),
            (69, 72),
            (66, 96),
            (8, 96),
        ],
    )


def _fish() -> Pictogram:
    tail = [(62, 50), (100, 22), (92, 50), (100, 78)]
    fin = [(26, 30), (54, 12), (58, 32)]
    return _pictogram(
        body=[tail, fin, _disc(38, 50, 38, 25, 24)],
        marks=[_disc(17, 44, 5.5, 5.5, 10), [(34, 36), (40, 50), (34, 64), (31, 64), (36, 50), (31, 36)]],
        outline=[*_arc(38, 50, 38, 25, 35, 245, 9), (54, 12), (58, 31), (72, 43), (100, 22), (92, 50), (100, 78)],
    )


def _flower() -> Pictogram:
    petals = [
        ((38 + 11 * math.cos(5 * angle)) * math.sin(angle), -(38 + 11 * math.cos(5 * angle)) * math.cos(angle))
        for angle in (2 * math.pi * step / 60 for step in range(60))
    ]
    return _pictogram(body=[petals], marks=[_disc(0, 0, 14)], outline=[petals[step] for step in range(0, 60, 4)])


def _hat() -> Pictogram:
    top = [(20, 4), (80, 4), (75, 80), (25, 80)]
    return _pictogram(
        body=[top, _disc(50, 82, 50, 14, 20)],
        marks=[[(23.7, 54), (76.3, 54), (75.5, 68), (24.5, 68)]],
        outline=[(20, 4), (80, 4), (75.7, 70), *_arc(50, 82, 50, 14, -45, 225, 11), (24.3, 70)],
    )


def _heart() -> Pictogram:
    curve = []
    for step in range(32):
        angle = 2 * math.pi * step / 32
        drop = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        curve.append((16 * math.sin(angle) ** 3, -drop))
    shine = [(x * 2.2 - 7.5, y * 3.2 - 5.5) for x, y in _disc(0, 0, 1, 1, 10)]
    return _pictogram(body=[curve], marks=[shine], outline=curve[::2])


def _house() -> Pictogram:
    chimney = [(70, 5), (82, 5), (82, 35), (70, 35)]
    walls = [(50, 0), (100, 46), (88, 46), (88, 96), (12, 96), (12, 46), (0, 46)]
    return _pictogram(
        body=[chimney, walls],
        marks=[[(56, 60), (74, 60), (74, 96), (56, 96)], [(24, 54), (44, 54), (44, 74), (24, 74)]],
        outline=[(50, 0), (70, 18), (70, 5), (82, 5), (82, 29), *walls[1:]],
    )


def _key() -> Pictogram:
    shaft = [(40, 22), (100, 22), (100, 52), (90, 52), (90, 34), (82, 34), (82, 46), (72, 46), (72, 34), (40, 34)]
    return _pictogram(
        body=[shaft, _disc(24, 28, 24, 24, 20)],
        marks=[_disc(20, 28, 10, 10, 12)],
        outline=[
            *_arc(24, 28, 24, 24, 20, 340, 8),
            (100, 22),
            (100, 52),
            (90, 52),
            (90, 34),
            (82, 46),
            (72, 46),
            (72, 34),
        ],
    )


def _moon() -> Pictogram:
    crescent = [*_arc(50, 50, 50, 50, 60, 300, 19), *_arc(75, 50, 44, 46, 248, 112, 13)]
    return _pictogram(body=[crescent], marks=[_disc(17, 55, 5, 5, 10)], outline=crescent[::2])


def _mushroom() -> Pictogram:
    stem = [(36, 50), (64, 50), (72, 96), (28, 96)]
    cap = _arc(50, 54, 50, 52, 180, 360, 17)
    return _pictogram(
        body=[stem, cap],
        marks=[_disc(50, 20, 9, 9, 12), _disc(24, 38, 7, 7, 10), _disc(76, 38, 7, 7, 10)],
        outline=[*cap[::2], (64, 54), (72, 96), (28, 96), (36, 54)],
    )


def _star() -> Pictogram:
    tips = [
        (radius * math.sin(math.pi * step / 5), -radius * math.cos(math.pi * step / 5))
        for step, radius in enumerate((50.0, 21.0) * 5)
    ]
    return _pictogram(body=[tips], marks=[_disc(0, 0, 6, 6, 10)], outline=tips)


def _tree() -> Pictogram:
    right = [(50, 0), (72, 30), (62, 30), (82, 56), (70, 56), (92, 84)]
    crown = [*right, *((100 - x, y) for x, y in right[:0:-1])]
    return _pictogram(
        body=[crown],
        marks=[[(42, 84), (58, 84), (58, 100), (42, 100)]],
        outline=[*right, (58, 84), (58, 100), (42, 100), (42, 84), *((100 - x, y) for x, y in right[:0:-1])],
    )


def _umbrella() -> Pictogram:
    scallops = [point for left in (75, 50, 25, 0) for point in _arc(left + 12.5, 48, 12.5, 8, 0, -180, 6)[1:]]
    canopy = [*_arc(50, 48, 50, 48, 180, 360, 15), *scallops[:-1]]
    handle = [(47, 36), (53, 36), (53, 86), *_arc(42, 86, 11, 13, 0, 180, 7), (37, 86), *_arc(42, 86, 5, 6, 180, 0, 5)]
    return _pictogram(
        body=[handle, canopy],
        marks=[[(49, 2), (51, 2), (68, 42), (64, 42)], [(49, 2), (51, 2), (36, 42), (32, 42)]],
        outline=[
            *_arc(50, 48, 50, 48, 180, 360, 9),
            (53, 46),
            (53, 88),
            (48, 97),
            (36, 97),
            (31, 87),
            (47, 86),
            (47, 46),
        ],
    )


PICTOGRAMS: Final[dict[str, Pictogram]] = {
    "boat": _boat(),
    "car": _car(),
    "crown": _crown(),
    "cup": _cup(),
    "fish": _fish(),
    "flower": _flower(),
    "heart": _heart(),
    "house": _house(),
    "key": _key(),
    "moon": _moon(),
    "mushroom": _mushroom(),
    "star": _star(),
    "tree": _tree(),
    "umbrella": _umbrella(),
}
KINDS: Final[tuple[str, ...]] = tuple(PICTOGRAMS)
PICTOGRAMS["hat"] = _hat()  # in no scene unless it is asked for: the embedded checkpoint has never seen one

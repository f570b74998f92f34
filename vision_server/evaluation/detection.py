"""Average precision of places by pycocotools, as COCO counts it, boxes or outlines.

Florence-2 gives no scores, so all places count as equally sure, in the order in which they were said. Labels are the
categories; what is said with a label that no true place of these pictures has counts for nothing, as in COCO.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision_server.tasks import Shape

Size = tuple[int, int]
_MOST = 100  # places of a label that count in a picture, COCO's own limit
_ANY_AREA = [[0, 1e10]]
_CORNERS = (0, 1, 2, 1, 2, 3, 0, 3)


class Detections:
    """Said and true places of each question. `first_only`: at an overlap of .5, else the mean from .5 to .95."""

    def __init__(
        self, places: Sequence[tuple[Sequence[Shape], Sequence[Shape]]], sizes: Sequence[Size], first_only: bool = False
    ) -> None:
        self._places, self._sizes, self._first_only = places, sizes, first_only

    def value(self, weights: NDArray[np.float64] | None = None) -> float | None:
        """With `weights`, whole numbers, each question counts so often; None where there are no true places."""
        if not any(true for _, true in self._places):
            return None
        met = self._met
        chosen = np.arange(len(self._sizes))
        if weights is not None:
            chosen = np.repeat(chosen, weights.astype(np.int64))
            met = copy.copy(met)
            met.params = met._paramsEval = copy.copy(met.params)
            met.params.imgIds = list(range(len(chosen)))
            grid = np.empty((len(met.params.catIds), len(self._sizes)), object)
            grid.ravel()[:] = self._met.evalImgs
            met.evalImgs = list(grid[:, chosen].ravel())
        with contextlib.redirect_stdout(io.StringIO()):
            met.accumulate()
        precision = met.eval["precision"]
        known = precision[precision > -1]
        return float(known.mean()) if known.size else None

    @cached_property
    def _met(self) -> Any:
        """Which places of each picture and label met which."""
        kind = "bbox" if all(one.kind == "box" for _, true in self._places for one in true) else "segm"
        labels = sorted({one.label for _, true in self._places for one in true})
        with contextlib.redirect_stdout(io.StringIO()):
            made = COCOeval(*(self._coco(side, labels, kind) for side in (1, 0)), kind)
            made.params.maxDets, made.params.areaRng, made.params.areaRngLbl = [_MOST], _ANY_AREA, ["all"]
            made.params.iouThrs = np.array([0.5]) if self._first_only else made.params.iouThrs
            made.evaluate()
        return made

    def _coco(self, side: int, labels: list[str], kind: str) -> Any:
        """The said (0) or true (1) places as a data set of pycocotools'."""
        rows: list[dict[str, Any]] = []
        for image, (pair, size) in enumerate(zip(self._places, self._sizes, strict=True)):
            for one in pair[side]:
                if one.label in labels:
                    row = {"id": len(rows) + 1, "image_id": image, "category_id": labels.index(one.label)}
                    rows.append({**row, **_measured(one, kind, size), "iscrowd": 0, "score": 1.0})
        made = COCO()
        made.dataset = {
            "images": [{"id": i, "width": width, "height": height} for i, (width, height) in enumerate(self._sizes)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(labels)],
            "annotations": rows,
        }
        made.createIndex()
        return made


def _measured(shape: Shape, kind: str, size: Size) -> dict[str, Any]:
    left, top, right, bottom = shape.bounds
    if kind == "bbox":
        return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
    rings = [
        [ring[at] for at in _CORNERS] if shape.kind == "box" else ring[: len(ring) // 2 * 2] for ring in shape.rings
    ]
    # a line or a point encloses nothing, and pycocotools reads no ring of fewer than three corners
    rings = [ring if len(ring) >= 6 else [*ring[:2]] * 3 for ring in rings if len(ring) >= 2] or [[0.0, 0.0] * 3]
    encoded = masks.merge(masks.frPyObjects(rings, size[1], size[0]))
    return {"segmentation": encoded, "area": float(masks.area(encoded))}

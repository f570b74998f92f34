"""How many engines a cluster gets, and each one's share."""

from __future__ import annotations

from typing import Any

import pytest

from vision_server.bulk.pools import pool
from vision_server.errors import BadSetting

GIB = 1 << 30


def share(device: str = "auto", engines: int | None = None, nodes: Any = (), **other: Any) -> tuple[Any, ...]:
    given = {"pictures": None, "model_bytes": GIB, "free_bytes": None} | other
    made = pool(device, engines, nodes, **given)
    return made.engines, made.device, made.cpus, made.gpus, made.threads


@pytest.mark.parametrize(
    ("device", "engines", "nodes", "wanted"),
    [
        ("auto", None, [{"CPU": 1.0}], (1, "cpu", 1, 0, 1)),
        ("auto", None, [{"CPU": 6.0}], (1, "cpu", 6, 0, 6)),
        ("cpu", None, [{"CPU": 16.0, "GPU": 2.0}], (4, "cpu", 4, 0, 4)),
        ("auto", 2, [{"CPU": 6.0}], (2, "cpu", 3, 0, 3)),
        ("auto", 8, [{"CPU": 2.0}], (8, "cpu", 1, 0, 1)),
        ("auto", None, [{"CPU": 8.0}, {"CPU": 4.0}, {"object_store_memory": 1.0}], (3, "cpu", 4, 0, 4)),
        ("auto", None, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}], (3, "cuda", 1, 1, None)),
        ("cuda", 2, [{"CPU": 8.0, "GPU": 8.0}], (2, "cuda", 1, 1, None)),
        ("cuda", 9, [{"CPU": 8.0, "GPU": 8.0}], (8, "cuda", 1, 1, None)),
        ("mps", None, [{"CPU": 8.0}], (1, "mps", 1, 0, None)),
    ],
)
def test_engines_and_their_shares(device: str, engines: int | None, nodes: Any, wanted: tuple[Any, ...]) -> None:
    assert share(device, engines, nodes) == wanted


def test_memory_bounds_the_engines_of_one_machine() -> None:
    nodes = [{"CPU": 32.0}]
    assert share(nodes=nodes, free_bytes=100 * GIB)[0] == 8
    assert share(nodes=nodes, free_bytes=8 * GIB) == (2, "cpu", 16, 0, 16)
    assert share(nodes=nodes, free_bytes=GIB)[0] == 1
    assert share(engines=4, nodes=nodes, free_bytes=GIB)[0] == 4, "who says a number knows"


@pytest.mark.parametrize("device", ["cuda:1", "xpu:0", "cuda"])
def test_devices_that_cannot_be_had(device: str) -> None:
    with pytest.raises(BadSetting, match="device"):
        share(device, nodes=[{"CPU": 2.0}])


@pytest.mark.parametrize(("pictures", "batch"), [(None, 32), (10, 8), (80, 20), (10_000, 32)])
def test_batches_leave_no_engine_waiting(pictures: int | None, batch: int) -> None:
    assert pool("cpu", None, [{"CPU": 2.0}], pictures, 1, None).batch == batch

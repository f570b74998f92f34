"""The accuracy of 8-bit linear layers: the measure itself, and what the committed figures promise."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.checkpoints import TINY
from tests.bench.int8 import CAPTIONS, SCENES, captions, logit_errors
from tests.bench.machine import RESULTS


def test_a_logit_error_is_measured_and_is_none_where_nothing_is_quantised(tmp_path: Path) -> None:
    """TINY's layers are too narrow for 8 bits, so that its int8 engine is its float32 one."""
    found = logit_errors(tmp_path, TINY, pictures=2, tokens=6)
    assert found["tokens"] == 12
    assert found["rms_error"] < 1e-5
    assert found["same_first_choice"] == 1.0


def test_exact_captions_fall_by_at_most_a_point() -> None:
    committed = json.loads((RESULTS / "int8.json").read_text(encoding="utf-8"))
    for token in CAPTIONS:
        shares = committed["exact_answers"][token]
        assert shares["int8"] >= shares["float32"] - 0.01, token
    found = captions(60)
    for token, shares in found.items():
        assert shares["int8"] >= shares["float32"] - 0.05, token
        assert shares["int8"] > 0.8, token
    assert committed["exact_answers"]["scenes"] == SCENES


def test_the_committed_logit_errors_are_small() -> None:
    committed = json.loads((RESULTS / "int8.json").read_text(encoding="utf-8"))
    for size in ("base", "large"):
        assert 0 < committed[f"logits_{size}"]["rms_error"] < 0.2, size
        assert committed[f"logits_{size}"]["same_first_choice"] > 0.9, size

"""What is said of a download, and when it is worth asking again."""

from __future__ import annotations

import pytest

from vision_server.worker.protocol import Progress
from vision_server.worker.transfer import PHASE, Transfer


def progress(done: int, total: int = 1_000_000_000) -> Progress:
    return Progress(PHASE, done, total)


def test_without_a_rate_it_is_a_guess() -> None:
    transfer = Transfer(progress(0, 0), 50.0)
    assert (transfer.left_s(50.0), str(transfer)) == (10.0, "the download has just begun")
    transfer.advance(progress(0))
    assert transfer.left_s(60.0) == 10.0


def test_the_rate_is_that_of_this_download() -> None:
    """What an earlier attempt left is there at once, and says nothing about how fast the rest will come."""
    transfer = Transfer(progress(0, 0), 0.0)
    transfer.advance(progress(600_000_000))
    transfer.advance(progress(800_000_000))
    assert transfer.left_s(20.0) == pytest.approx(20.0)
    assert str(transfer) == "800 of 1,000 MB are here"


@pytest.mark.parametrize(("done", "left_s"), [(1_000_000_000, 1.0), (1_000_000, 120.0)])
def test_it_is_never_less_than_one_second_and_never_more_than_a_client_waits(done: int, left_s: float) -> None:
    transfer = Transfer(progress(0), 0.0)
    transfer.advance(progress(done))
    assert transfer.left_s(60.0) == left_s

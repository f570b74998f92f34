"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import processes
from tests.peer import Peer, listening
from tests.processes import no_process_outlives_its_module as no_process_outlives_its_module
from vision_server.settings import let_waiting_threads_sleep

let_waiting_threads_sleep()  # before anything imports torch: the tests share their cores with the daemons they start

processes.mark()
processes.react_to_signals()

# The hub library reads these when it is imported, and so do the daemons and commands that tests start: what this
# machine's user has set (offline mode, a token, a cache) is not what is tested.
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_"))]:
    del os.environ[_name]

# A busy machine is slow at everything; how long an example took says nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with listening() as server:
        yield server


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ahead of all fixtures: a GPU that others can see is none yet that torch can use."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")

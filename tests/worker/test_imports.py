"""What a worker imports, in a fresh process: torch's compiler is left out, and is there for who asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vision_server
from vision_server.worker.ahead import may_have_accelerator
from vision_server.worker.imports import Imports

DEMO = Path(vision_server.__file__).parent / "models" / "demo"

SKIPPED = "torch._meta_registrations"

LEAN = f"""
import sys
from vision_server.worker.imports import Imports
Imports().wait()
assert "vision_server.engine" in sys.modules
import torch
assert {SKIPPED!r} not in sys.modules and not hasattr(torch, "_meta_registrations")
assert "torch._refs" not in sys.modules and "torch._inductor" not in sys.modules
"""

# Whoever compiles asks for it; the shape of such padding comes from there alone.
ASKED_FOR = """
import torch._meta_registrations
assert callable(sys.modules["torch._meta_registrations"].activate_meta)
assert torch._meta_registrations is sys.modules["torch._meta_registrations"]
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    assert torch.nn.functional.pad(torch.empty(2, 3), (1, 1), mode="reflect").shape == (2, 5)
"""

IMPORTED_BEFORE = """
import sys, torch
real = torch._meta_registrations
from vision_server.worker.imports import Imports
Imports().wait()
assert sys.modules["torch._meta_registrations"] is real is torch._meta_registrations
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


cpu_only = pytest.mark.skipif(may_have_accelerator(), reason="nothing is left out beside an accelerator")


@cpu_only
def test_what_only_the_compiler_needs_is_not_imported() -> None:
    run(LEAN)


@cpu_only
def test_who_needs_it_later_gets_the_real_one() -> None:
    run(LEAN + ASKED_FOR)


def test_where_torch_was_imported_before_nothing_is_taken_away() -> None:
    run(IMPORTED_BEFORE)


def test_parts_are_made_of_the_model_that_is_likely(tmp_path: Path) -> None:
    likely = Imports(lambda: DEMO)
    likely.wait()
    assert likely.parts is not None
    assert likely.parts.directory == DEMO
    for nothing in (Imports(), Imports(lambda: tmp_path)):
        nothing.wait()
        assert nothing.parts is None

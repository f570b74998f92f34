"""What every model needs, imported by a thread of its own from the beginning, and nothing that no model runs; then what
is small of the model that is likely, if nobody has asked for one by then.

At its end `import torch` registers, in Python, how some two thousand operators behave on tensors without values and how
they are made of others. That is for torch's compiler, which the worker does not use, and takes a fifth of the import.
It is left out where there is only the CPU, which is where it was tried.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .ahead import may_have_accelerator
from .decode import register_formats

if TYPE_CHECKING:
    from ..engine import Parts

_FOR_THE_COMPILER = "torch._meta_registrations"


class Imports:
    """Begins at once. `likely` is asked, when all is imported, where the model lies that may have to be loaded next;
    `parts` are those of it, or None."""

    def __init__(self, likely: Callable[[], Path | None] = lambda: None) -> None:
        self.parts: Parts | None = None
        self._likely = likely
        self._all_is_there = threading.Event()
        threading.Thread(target=self._import, name="imports", daemon=True).start()

    def _import(self) -> None:
        with contextlib.suppress(Exception):  # the load will meet it again, and can tell the daemon
            with contextlib.nullcontext() if may_have_accelerator() else _without(_FOR_THE_COMPILER):
                import torch  # noqa: F401
            from ..engine import Parts

            directory = self._likely()
            self.parts = Parts.of(directory) if directory else None
        self._all_is_there.set()
        register_formats()

    def wait(self) -> None:
        """Until torch and the engine are there, and the parts if they were begun."""
        self._all_is_there.wait()


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Meanwhile `import name` finds an empty module, and afterwards the real one."""
    if name in sys.modules:
        yield
        return
    empty = sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is empty:
            del sys.modules[name]
        package, _, own_name = name.rpartition(".")
        if getattr(sys.modules.get(package), own_name, None) is empty:
            delattr(sys.modules[package], own_name)

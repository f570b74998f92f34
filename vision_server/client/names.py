"""Names that a file can have everywhere: what Windows refuses, or takes for something else, is told or replaced.

From Microsoft's "Naming Files, Paths, and Namespaces". Names only: nothing is looked at on the disk.
"""

from __future__ import annotations

import re

_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_MOST_BYTES = 200  # of 255, so that there is room for a number and an extension


def refused_by_windows(name: str) -> str | None:
    """Why Windows has no file of this name, or means another one by it; None where it does as it is told."""
    if found := _FORBIDDEN.search(name):
        return f"no name there holds {found[0]!r}"
    if _is_device(name):
        return "it names a device there, with any extension"
    return "a dot or a blank at the end is dropped there" if name.endswith((".", " ")) else None


def safe(text: str) -> str:
    """A name made of any text, which every system takes once an extension is put behind it."""
    name = re.sub(r"[^\w.-]+", "_", text) or "_"
    name = name.encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")
    return f"_{name}" if _is_device(name) else name


def _is_device(name: str) -> bool:
    return _DEVICE.fullmatch(name.partition(".")[0].rstrip(" ")) is not None

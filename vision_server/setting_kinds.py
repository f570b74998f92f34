"""The kinds of value a setting can have: how each is read, and what is said when the value is not of the kind.

A kind takes what the source holds (text from flags and variables, YAML's own types from the file) and returns the value
or raises ValueError with the end of a sentence that starts with the setting's name. It knows no setting.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .fetching.address import host_pattern


@dataclass(frozen=True)
class Kind:
    """`name` stands for the value in the help text; `parse` raises ValueError."""

    name: str
    parse: Callable[[object], Any]


def _number(raw: object) -> float:
    """A finite number. YAML's booleans are numbers to Python, hence the first line."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError(f"must be a number, not {raw!r}.")
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        raise ValueError(f"must be a number, not {raw!r}.") from None
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {raw!r}.")
    return value


def number(low: float, high: float) -> Kind:
    def parse(raw: object) -> float:
        value = _number(raw)
        if not low <= value <= high:
            raise ValueError(f"must be between {low:g} and {high:g}, not {value:g}.")
        return value

    return Kind("NUMBER", parse)


def whole(low: int, high: int) -> Kind:
    def parse(raw: object) -> int:
        value = _number(raw)
        if value != int(value) or not low <= value <= high:
            raise ValueError(f"must be a whole number between {low} and {high}, not {raw}.")
        return int(value)

    return Kind("NUMBER", parse)


def whole_or_auto(low: int, high: int) -> Kind:
    parse_whole = whole(low, high).parse

    def parse(raw: object) -> int | str:
        if isinstance(raw, str) and raw.strip().lower() == "auto":
            return "auto"
        try:
            return int(parse_whole(raw))
        except ValueError:
            raise ValueError(f"must be auto or a whole number between {low} and {high}, not {raw!r}.") from None

    return Kind("NUMBER|auto", parse)


def _idle(raw: object) -> float:
    value = _number(raw)
    if value < 0 and value != -1:
        raise ValueError(f"must be seconds, 0 (release as soon as the work is done) or -1 (never), not {value:g}.")
    return value


def _text(raw: object) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(f"must be text, not {raw!r}.")
    return raw.strip()


def choice(*allowed: str) -> Kind:
    def parse(raw: object) -> str:
        value = _text(raw).lower()
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}, not {raw!r}.")
        return value

    return Kind("|".join(allowed), parse)


def _device(raw: object) -> str:
    value = _text(raw).lower()
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
        raise ValueError(f"must be auto, cpu, cuda, cuda:0, cuda:1, mps, xpu or the like, not {raw!r}.")
    return value


def _switch(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    value = str(raw).strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"must be true or false, not {raw!r}.")


def _key(raw: object) -> str | None:
    if raw is None or raw == "":
        return None
    # The value itself is never repeated: messages end up in logs.
    if not isinstance(raw, str) or not re.fullmatch(r"[!-~]+", raw):
        raise ValueError("must be text of printable ASCII characters without spaces (quote it in YAML).")
    return raw


def _names(raw: object) -> tuple[str, ...]:
    """A YAML list, or text with commas."""
    items = raw.split(",") if isinstance(raw, str) else raw
    if items is None:
        return ()
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"must be a list of texts (or one text with commas), not {raw!r}.")
    return tuple(item.strip() for item in items if item.strip())


def _hosts(raw: object) -> tuple[str, ...]:
    names = tuple(name.strip("[]").lower() for name in _names(raw))
    for name in names:
        if not re.fullmatch(r"[a-z0-9_.-]+", name) and not _is_address(name):
            raise ValueError(f"must hold bare host names without scheme, port or wildcard, not {name!r}.")
    return names


def _fetch_hosts(raw: object) -> tuple[str, ...]:
    hosts = [(name, host_pattern(name)) for name in _names(raw)]
    for name, host in hosts:
        if host is None:
            raise ValueError(f"must hold hosts such as img.example, *.img.example or img.example:8443, not {name!r}.")
    return tuple(host for _, host in hosts if host)


def _networks(raw: object) -> tuple[str, ...]:
    """Addresses and networks, each as a network: 10.0.0.1 is 10.0.0.1/32."""
    names = _names(raw)
    try:
        return tuple(str(ipaddress.ip_network(name, strict=False)) for name in names)
    except ValueError:
        raise ValueError(f"must hold addresses or networks such as 10.0.0.0/8, not {raw!r}.") from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _origins(raw: object) -> tuple[str, ...]:
    origins = []
    for text in _names(raw):
        parts = urlsplit(text.lower().rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or "*" in text:
            raise ValueError(f"must hold exact origins such as https://app.example:8443, not {text!r}.")
        origins.append(f"{parts.scheme}://{parts.netloc}")
    return tuple(origins)


def _prompts(raw: object) -> tuple[str, ...]:
    for prompt in (prompts := _names(raw)):
        if len(prompt) > 200 or not prompt.strip("<> ") or not prompt.isprintable():
            raise ValueError(f"must hold prompts such as <GENERATE_TAGS>, not {prompt[:40]!r}.")
    return prompts


def _pairs(raw: object) -> tuple[tuple[str, str], ...]:
    """A YAML mapping of texts, or text like `this=that,these=those`; the last of several with one name counts."""
    if isinstance(raw, dict):
        pairs = list(raw.items())
    else:
        cut = (item.rpartition("=") for item in _names(raw))
        pairs = [(name, value) for name, _, value in cut]
    if not all(isinstance(text, str) and text.strip() for pair in pairs for text in pair):
        raise ValueError(f"must be a mapping of texts (or one text like this=that,these=those), not {raw!r}.")
    return tuple({" ".join(name.split()): value.strip() for name, value in pairs}.items())


def _folder(raw: object) -> Path | None:
    """Absolute, since the worker's working directory is another one than ours."""
    return None if raw is None or raw == "" else Path(_text(raw)).expanduser().absolute()


def _endpoint(raw: object) -> str | None:
    if raw is None or raw == "":
        return None
    parts = urlsplit(_text(raw))
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise ValueError("must be an address such as https://hub.example.")
    return _text(raw).rstrip("/")


TEXT = Kind("TEXT", _text)
DEVICE = Kind("DEVICE", _device)
DTYPE = choice("auto", "float32", "float16", "bfloat16", "int8")
FOLDER = Kind("FOLDER", _folder)
ENDPOINT = Kind("URL", _endpoint)
SWITCH = Kind("yes|no", _switch)
KEY = Kind("KEY", _key)
IDLE = Kind("SECONDS", _idle)
HOSTS = Kind("NAME,...", _hosts)
NETWORKS = Kind("NETWORK,...", _networks)
FETCH_HOSTS = Kind("HOST,...", _fetch_hosts)
ORIGINS = Kind("ORIGIN,...", _origins)
PROMPTS = Kind("PROMPT,...", _prompts)
ALIASES = Kind("NAME=MODEL,...", _pairs)
PHRASES = Kind("PHRASE=PROMPT,...", _pairs)

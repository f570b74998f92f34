"""The table of settings as people see it: flags, a sample file in YAML, README's table. Reads no setting."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from .setting_kinds import ALIASES, PHRASES, SWITCH
from .setting_models import MODELS
from .settings import TABLE, Row

_MAPPINGS = (MODELS, ALIASES, PHRASES)


def add_flags(
    parser: argparse.ArgumentParser, names: Iterable[str] = TABLE, other_defaults: Mapping[str, str] | None = None
) -> None:
    """One flag per setting. Values stay text: `load` parses them, so that every source gives the same messages.

    `other_defaults` are shown in place of the table's; to apply them is the caller's.
    """
    for row in (TABLE[name] for name in names if TABLE[name].flag):
        text = f"{row.help} [{(other_defaults or {}).get(row.name, _shown(row))}]".replace("`", "").replace("%", "%%")
        if row.kind is SWITCH:
            parser.add_argument(
                row.flag, dest=row.name, help=text, default=argparse.SUPPRESS, action=argparse.BooleanOptionalAction
            )
        else:
            parser.add_argument(row.flag, dest=row.name, help=text, default=argparse.SUPPRESS, metavar=row.kind.name)


def sample_yaml() -> str:
    """A configuration file with every setting, commented out at its default."""
    lines = [
        "# vision-server: remove the # before a line to change it. Flags and VISION_SERVER_* variables win over it."
    ]
    for row in TABLE.values():
        lines += ["", f"# {row.help}", f"# {row.name}: {'{}' if row.kind in _MAPPINGS else _yaml(row.default)}"]
    return "\n".join(lines) + "\n"


def readme_table() -> str:
    """README's table of settings, in Markdown."""
    lines = ["| setting | flag | default | meaning |", "|---|---|---|---|"]
    for row in TABLE.values():
        flag = f"`{row.flag}`" if row.flag else "-"
        lines.append(f"| `{row.name}` | {flag} | `{_shown(row)}` | {row.help} |")
    return "\n".join(lines) + "\n"


def _shown(row: Row) -> str:
    if row.default is None or row.default == ():
        return "none"
    if isinstance(row.default, bool):
        return "yes" if row.default else "no"
    return f"{row.default:g}" if isinstance(row.default, float) else str(row.default)


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if value == ():
        return "[]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if isinstance(value, str) and not value.isalnum() else str(value)

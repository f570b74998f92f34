"""What is shown of the table of settings: flags, the sample file, README's table."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import yaml

from vision_server.setting_texts import add_flags, readme_table, sample_yaml
from vision_server.settings import TABLE, Settings, load


def test_other_defaults_can_be_shown() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, ("model", "dtype"), {"model": "demo"})
    assert "[demo]" in parser.format_help()
    assert "[auto]" in parser.format_help()


def test_help_holds_every_flag_and_default() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    text = parser.format_help()
    for row in TABLE.values():
        assert row.flag in text or not row.flag
    given_flags = vars(parser.parse_args(["--idle-timeout", "-1", "--allow-anonymous", "--max-queue", "3"]))
    assert given_flags == {"idle_timeout_s": "-1", "allow_anonymous": True, "max_queue": "3"}


def test_the_sample_file_loads_to_the_defaults(tmp_path: Path) -> None:
    sample = sample_yaml()
    assert yaml.safe_load(sample) is None
    names = "|".join(TABLE)
    uncommented = re.sub(rf"(?m)^# ({names}): ", r"\1: ", sample)
    assert set(yaml.safe_load(uncommented)) == set(TABLE)
    config = tmp_path / "c.yaml"
    config.write_text(uncommented, encoding="utf-8")
    assert load({}, config, {}).settings == Settings()


def test_the_readme_table_has_a_line_for_every_setting() -> None:
    lines = readme_table().splitlines()
    assert len(lines) == len(TABLE) + 2
    assert all(line.count("|") == 5 for line in lines)
    assert "| `idle_timeout_s` | `--idle-timeout` | `300` |" in readme_table()

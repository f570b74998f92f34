"""pyproject.toml asks for lower bounds; constraints.txt pins the same names; the environment holds the pins."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="ascii").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def asked() -> list[Requirement]:
    """What the package as installed asks for, its extras included; markers other than the extra's are kept."""
    return [Requirement(line) for line in metadata.requires("vision-server") or []]


def test_every_direct_dependency_is_pinned_and_nothing_else() -> None:
    assert {canonicalize_name(pin.name) for pin in pins()} == {canonicalize_name(one.name) for one in asked()}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_has_exactly_one_pin_for_each_name(python: str) -> None:
    applying = [pin.name for pin in pins() if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert sorted(applying) == sorted({pin.name for pin in pins()})


def test_the_pins_satisfy_what_pyproject_asks() -> None:
    for pin in pins():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin} is not one version"
        version = Version(str(pin.specifier)[2:])
        for one in asked():
            if canonicalize_name(one.name) == canonicalize_name(pin.name):
                assert version in one.specifier, f"{pin} against {one}"


def test_pyproject_only_asks_for_lower_bounds() -> None:
    for one in asked():
        assert re.fullmatch(r"(>=[\d.]+)?", str(one.specifier)), str(one)


def test_this_environment_holds_the_pinned_versions() -> None:
    """What the tests prove, they prove for the pins. The extras gpu and reference need not be installed."""
    for pin in pins():
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            installed = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            extras = {str(one.marker) for one in asked() if canonicalize_name(one.name) == canonicalize_name(pin.name)}
            assert extras <= {'extra == "gpu"', 'extra == "reference"'}, f"{pin} is not installed"
            continue
        assert Version(installed) in pin.specifier, f"{pin.name} {installed} is installed"

"""The wheel, built by the project's own backend without a network: it holds what the daemon reads at run time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files(folder: str) -> set[str]:
    paths = (ROOT / folder).rglob("*")
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}


def test_the_page_is_in_the_wheel(names: set[str]) -> None:
    page = files("vision_server/page")
    assert "vision_server/page/index.html" in page
    assert page <= names


def test_the_whole_package_is_in_the_wheel_and_nothing_beside_it(names: set[str]) -> None:
    package = {name for name in names if ".dist-info/" not in name}
    assert package == files("vision_server")

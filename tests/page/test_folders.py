"""Folders: chosen and dropped, with folders in them; what is no picture is left out, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from .browsing import Open, Page, choose, drop, expect, run
from .conftest import Daemon

pytestmark = pytest.mark.browser

NAMES = ["holiday/2.png", "holiday/10.JPG", "holiday/beach/1.webp", "holiday/beach/far away/Ünter.png"]
CROWD = 130  # of a folder's entries, Chromium tells a hundred at a time


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    folder = tmp_path / "holiday"
    (folder / "empty").mkdir(parents=True)
    for number, name in enumerate(NAMES, 1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 * number, 8), (40 * number, 0, 0)).save(path)
    (folder / "notes.txt").write_text("no picture")
    (folder / "beach" / "2.png.json").write_text("{}")
    (folder / "._2.png").write_bytes(b"what a Mac keeps beside a file on a foreign disk")
    return folder


def check_holiday(page: Page) -> None:
    """Its pictures are there in the order of their numbers, each with its folder, and are answered."""
    expect(page.locator("#count")).to_contain_text(f"{len(NAMES)} pictures")
    expect(page.locator("#left-out")).to_have_text("3 files left out: no pictures.")
    buttons = page.locator("#table tbody tr:not(.spacer) th button")
    expect(buttons).to_have_count(len(NAMES))
    assert [button.get_attribute("title") for button in buttons.all()] == NAMES
    choose(page, "<CAPTION>")
    run(page)
    expect(page.locator("#tally")).to_have_text(f"{len(NAMES)} of {len(NAMES)} answers")


def test_a_folder_is_chosen_with_the_folders_in_it(open_page: Open, fake: Daemon, holiday: Path) -> None:
    with fake() as url:
        page = open_page(url)
        page.get_by_label("Choose a folder").set_input_files(holiday)
        check_holiday(page)


def test_a_folder_is_dropped_with_the_folders_in_it(open_page: Open, fake: Daemon, holiday: Path) -> None:
    with fake() as url:
        page = open_page(url)
        drop(page, holiday)
        check_holiday(page)


def test_folders_and_pictures_are_dropped_together(
    open_page: Open, fake: Daemon, holiday: Path, tmp_path: Path
) -> None:
    """More of them, too, than a folder's entries are told at a time."""
    crowd = tmp_path / "crowd"
    crowd.mkdir()
    for number in range(CROWD):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(crowd / f"{number}.png")
    alone = tmp_path / "alone.png"
    Image.new("RGB", (8, 8)).save(alone)
    with fake() as url:
        page = open_page(url)
        drop(page, holiday, alone, crowd)
        expect(page.locator("#count")).to_contain_text(f"{len(NAMES) + 1 + CROWD} pictures")
        first = page.locator("#table tbody tr:not(.spacer) th button").first
        expect(first).to_have_attribute("title", "alone.png")

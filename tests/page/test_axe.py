"""For everybody: axe-core finds nothing serious in any state the page can be in, in light and in dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .browsing import PHONE, Open, answered, bring, card, choose, expect, findings, run
from .conftest import Daemon

pytestmark = pytest.mark.browser

GONE = ("Failed to load resource", "net::")  # what Chromium says of errors and of broken connections


def test_axe_sees_what_is_wrong(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    page.evaluate("() => document.getElementById('search').removeAttribute('aria-label')")
    page.evaluate("() => document.getElementById('search').removeAttribute('placeholder')")
    page.evaluate("() => document.documentElement.style.setProperty('--good', '#d0d0d0')")
    page.evaluate("() => document.documentElement.style.setProperty('--muted', 'light-dark(#5a6375, #404040)')")
    found = findings(page)
    assert "label" in " ".join(found)
    assert any(one.startswith("dark: ") and "color-contrast" in one for one in found)
    assert not any(one.startswith("light: ") and "color-contrast" in one for one in found)


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_nothing_serious_is_found_from_the_first_visit_to_the_zip(
    open_page: Open, embedded: str, device: dict[str, Any]
) -> None:
    page = open_page(embedded, **device)
    assert findings(page) == []
    bring(page, "scene-05.jpg")
    choose(page, "<CAPTION>", "<OD>")
    page.locator(".options summary").click()
    run(page)
    answered(page, "<OD>").locator("details summary").click()
    page.click("#zip")
    assert findings(page) == []
    bring(page, "scene-01.jpg", "scene-02.png")
    run(page)
    expect(page.locator("#tally")).to_have_text("6 of 6 answers")
    assert findings(page) == []


def test_nor_while_it_loads_and_when_that_fails(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with fake(f"--load download --gate {gate}", shutdown_grace_s="0.1") as url:
        page = open_page(url, expected=GONE)
        bring(page, "scene-01.jpg")
        run(page)
        expect(page.locator("#loading-bytes")).to_contain_text("of 1.1 GB")
        expect(card(page, "<CAPTION>")).to_contain_text("Number 1")
        assert findings(page) == []
    expect(page.locator("#state")).to_have_text("Not answering")
    expect(page.locator("#hold")).to_be_visible()
    assert findings(page) == []
    with fake("--load fail") as url:
        page = open_page(url, expected=GONE)
        page.click("#load")
        expect(page.locator("#state")).to_have_text("Load failed")
        assert findings(page) == []


def test_nor_while_it_waits_and_leaves_out_and_fails(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """A full queue, a refused unload, a file that is no picture and one that looks like one."""
    gate = tmp_path / "gate"
    for name in ("notes.txt", "broken.png"):
        (tmp_path / name).write_text("no picture")
    with fake(max_queue="1") as url:
        page = open_page(url, expected=GONE)
        bring(page, *(f"scene-0{number}.{'jpg' if number % 2 else 'png'}" for number in range(1, 7)))
        bring(page, tmp_path / "notes.txt", tmp_path / "broken.png")
        choose(page, "<CAPTION_TO_PHRASE_GROUNDING>", text=f"gate:{gate}")
        run(page)
        expect(page.locator("#hold-why")).to_contain_text("queue")
        page.click("#unload")
        expect(page.locator("#unload-forced")).to_be_visible()
        page.fill("#search", "nothing is called so")
        expect(page.locator("#none-found")).not_to_be_empty()
        assert findings(page) == []
        gate.touch()
        page.click("#go-on")
        expect(page.locator("#tally")).to_have_text("6 of 7 answers · 1 failed")
        assert findings(page) == []
        page.get_by_role("button", name="broken.png", exact=True).click()
        expect(card(page, "<CAPTION_TO_PHRASE_GROUNDING>")).to_have_attribute("data-state", "failed")
        expect(page.locator(".scroll")).to_be_hidden()  # there is nothing to show
        assert findings(page) == []


def test_nor_with_a_key_a_long_answer_and_a_rectangle(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "unseen.tiff")  # Chromium cannot show it
    with fake(api_key="s3cret") as url:
        page = open_page(url, expected=GONE, ready=False)
        page.fill("#key-field", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_contain_text("wrong")
        assert findings(page) == []
        page.keyboard.press("Escape")
        expect(page.locator("#key-wanted")).to_be_visible()
        assert findings(page) == []
        page.click("#key-enter")
        page.fill("#key-field", "s3cret")
        page.keyboard.press("Enter")
        page.wait_for_selector(".prompt")
        bring(page, tmp_path / "unseen.tiff")
        choose(page, "<VQA>", text="a long question " * 400)
        run(page)
        assert answered(page, "<VQA>").locator(".said").evaluate("(said) => said.scrollHeight > said.clientHeight")
        assert findings(page) == []
        page.click("#clear")
        bring(page, "scene-05.jpg")
        choose(page, "<REGION_TO_CATEGORY>")
        for side, value in zip(page.locator("#region input").all()[:4], ("10", "10", "200", "200"), strict=True):
            side.fill(value)
        page.locator("#region input").nth(3).press("Enter")
        expect(page.locator(".region")).to_have_count(1)
        assert findings(page) == []

"""The server at a glance, and all it may say or do: asleep, loading, busy, full, keyed, too large."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from .browsing import Open, Route, answered, bring, card, choose, expect, run
from .conftest import Daemon

pytestmark = pytest.mark.browser

REFUSED = ("Failed to load resource",)  # what Chromium says of every answer that is an error
GONE = (*REFUSED, "net::")


def test_the_first_visit_is_told_of_loading_and_then_all_is_shown(open_page: Open, fake: Daemon) -> None:
    with fake(idle_timeout_s="90") as url:
        page = open_page(url)
        expect(page.locator("#state")).to_have_text("Asleep")
        expect(page.locator("#first-visit")).to_contain_text("The first answer loads it")
        expect(page.locator("#model-name")).to_have_text("toy")
        bring(page, "scene-01.jpg")
        run(page)
        answered(page, "<CAPTION>")
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#first-visit")).to_be_hidden()
        expect(page.locator("#said")).to_contain_text("The model is loaded.")
        figures = page.locator("#figures")
        expect(figures).to_contain_text("MB")
        expect(figures).to_contain_text("empty")
        expect(figures.locator("div", has_text="Unloads")).to_contain_text("in ")
        for name in ("Last load", "Last answer"):
            expect(figures.locator("div", has_text=name)).to_contain_text(" s")
        expect(page.locator("#stages")).to_contain_text("generate")
        expect(page.locator("#device")).to_have_text("cpu · float32")
        page.click("#unload")
        expect(page.locator("#state")).to_have_text("Asleep")
        page.click("#load")
        expect(page.locator("#state")).to_have_text("Ready")


def test_loading_shows_its_bytes(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with fake(f"--load download --gate {gate}") as url:
        page = open_page(url)
        page.click("#load")
        expect(page.locator("#state")).to_have_text("Loading")
        expect(page.locator("#sentence")).to_contain_text("downloading")
        expect(page.locator("#loading-bytes")).to_contain_text("of 1.1 GB")
        gate.touch()
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#loading")).to_be_hidden()


def test_unloading_while_it_works_is_offered_for_later(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with fake() as url:
        page = open_page(url, expected=REFUSED)
        bring(page, "scene-01.jpg")
        choose(page, "<CAPTION_TO_PHRASE_GROUNDING>", text=f"gate:{gate}")
        run(page)
        expect(page.locator("#state")).to_have_text("Working")
        page.click("#unload")
        expect(page.locator("#act-words")).to_contain_text("in use")
        page.click("#unload-forced")
        gate.touch()
        answered(page, "<CAPTION_TO_PHRASE_GROUNDING>")
        expect(page.locator("#state")).to_have_text("Asleep")
        expect(page.locator("#act-note")).to_be_hidden()


def test_a_load_that_fails_is_said_and_can_be_retried(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    with fake(f"--load fail --once {tmp_path / 'once'}") as url:
        page = open_page(url, expected=REFUSED)
        page.click("#load")
        expect(page.locator("#state")).to_have_text("Load failed")
        expect(page.locator("#sentence")).to_contain_text("cannot be loaded")
        expect(page.locator("#load")).to_be_enabled()
        bring(page, "scene-01.jpg")
        run(page)
        answered(page, "<CAPTION>")
        expect(page.locator("#state")).to_have_text("Ready")


def test_a_key_is_asked_for_kept_for_the_tab_and_nothing_is_lost(open_page: Open, fake: Daemon) -> None:
    with fake(api_key="s3cret") as url:
        page = open_page(url, expected=REFUSED, ready=False)
        dialog = page.locator("dialog#key")
        expect(dialog).to_be_visible()
        expect(page.locator("#key-field")).to_be_focused()
        page.fill("#key-field", "ключ")  # a header cannot carry it
        page.keyboard.press("Enter")
        assert page.locator("#key-field").evaluate("(field) => field.validity.patternMismatch")
        expect(dialog).to_be_visible()
        page.fill("#key-field", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_contain_text("wrong")
        expect(dialog).to_be_visible()
        page.click("#key-cancel")
        expect(dialog).to_be_hidden()
        expect(page.locator("#state")).to_have_text("No access")
        expect(page.locator("#no-prompts")).to_contain_text("The key is wrong")
        page.click("#key-enter")
        page.fill("#key-field", "s3cret")
        page.keyboard.press("Enter")
        page.wait_for_selector(".prompt")
        expect(page.locator("#no-prompts")).to_be_hidden()
        bring(page, "scene-01.jpg")
        run(page)
        answered(page, "<CAPTION>")
        page.evaluate("() => sessionStorage.setItem('vision-server-key', 'no longer')")
        page.evaluate("() => window.dispatchEvent(new Event('focus'))")
        run(page)
        expect(dialog).to_be_visible()
        page.fill("#key-field", "s3cret")
        page.keyboard.press("Enter")
        answered(page, "<CAPTION>")
        page.reload()
        page.wait_for_selector(".prompt")
        expect(dialog).to_be_hidden()
        assert page.evaluate("() => localStorage.length") == 0
        assert page.context.cookies() == []


def test_a_picture_that_is_too_large_is_said(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """By its bytes, which the server refuses before it has read them, and by its pixels."""
    Image.effect_noise((1600, 1600), 90).save(tmp_path / "bytes.png")
    Image.new("1", (1500, 1500)).save(tmp_path / "pixels.png")
    with fake(max_body_mb="1", max_pixels_m="2") as url:
        page = open_page(url, expected=GONE)
        for name in ("bytes.png", "pixels.png"):
            bring(page, tmp_path / name)
            run(page)
            expect(card(page, "<CAPTION>")).to_have_attribute("data-state", "failed")
            expect(card(page, "<CAPTION>")).to_contain_text("large" if name == "bytes.png" else "pixels")
            page.click("#clear")


def test_several_checkpoints_are_there_to_choose_from(open_page: Open, fake: Daemon) -> None:
    """Of two, the one that is chosen is the one that is asked for its prompts and for answers."""
    with fake() as url:
        page = open_page(url, expected=("Failed to load resource",))  # the second is not really there
        expect(page.locator("#model")).to_be_hidden()

        def with_another(route: Route) -> None:
            response = route.fetch()
            route.fulfill(response=response, json={**response.json(), "models": ["toy", "second"]})

        page.route("**/status", with_another)
        expect(page.locator("#model")).to_be_visible()
        with page.expect_request("**/prompts?model=second"):
            page.select_option("#model", "second")
        expect(page.locator("#no-prompts")).to_contain_text("no such model")
        bring(page, "scene-01.jpg")
        run(page)
        expect(card(page, "<CAPTION>")).to_contain_text("no such model")
        page.unroute_all(behavior="wait")

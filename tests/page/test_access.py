"""For everybody: the keyboard reaches all and keeps its place, what happens is said, a phone is wide enough, little is
loaded, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from .browsing import PHONE, SAMPLES, Open, answered, bring, choose, expect, run
from .conftest import Daemon

pytestmark = pytest.mark.browser

MOST_BYTES = 100_000


def test_a_phone_needs_no_scrolling_sideways(open_page: Open, embedded: str) -> None:
    page = open_page(embedded, **PHONE)
    bring(page, "scene-05.jpg")
    choose(page, "<CAPTION>", "<OD>")
    run(page)
    answered(page, "<OD>")
    wide = "() => document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 390
    bring(page, "scene-02.png")
    expect(page.locator("#table")).to_be_visible()
    assert page.evaluate(wide) <= 390


def test_all_is_done_by_keyboard(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    inputs = page.locator("input[type=file]")
    assert inputs.nth(0).get_attribute("multiple") is not None
    assert inputs.nth(0).get_attribute("webkitdirectory") is None
    assert inputs.nth(1).get_attribute("webkitdirectory") is not None
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    for _ in range(10):
        page.keyboard.press("Tab")
        if inputs.nth(0).evaluate("(input) => input === document.activeElement"):
            break
    expect(inputs.nth(0)).to_be_focused()
    with page.expect_file_chooser() as chooser:
        # To open no window the renderer is told on another path than keys come by: not before it has heard of it.
        page.evaluate("() => 0")
        page.keyboard.press("Enter")
    chooser.value.set_files(SAMPLES / "scene-02.png")
    expect(page.locator("#said")).to_have_text("1 picture added.")
    page.locator("#search").focus()
    page.keyboard.type("phrases come back")
    for _ in range(3):  # the button beside it, the list, the one prompt in it
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.type("fish")
    page.keyboard.press("Control+Enter")
    answered(page, "<CAPTION_TO_PHRASE_GROUNDING>")
    expect(page.locator(".label text")).to_have_text("fish")
    expect(page.locator("#said")).to_contain_text("Finished: 2 of 2 answers.")


def test_the_focus_is_not_lost_with_what_had_it(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """Whoever steps through by keyboard would else begin at the top of the page each time."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    with fake() as url:
        page = open_page(url, expected=("Failed to load resource", "net::ERR_ABORTED"))

        def press(name: str) -> None:
            page.get_by_role("button", name=name, exact=True).press("Enter")

        def focused(name: str) -> None:
            expect(page.get_by_role("button", name=name, exact=True)).to_be_focused()

        press("Load")
        focused("Unload")
        press("Unload")
        focused("Load")
        bring(page, "scene-01.jpg", broken, "scene-02.png")
        choose(page, "<CAPTION>")
        run(page)
        expect(page.locator("#tally")).to_have_text("2 of 3 answers · 1 failed")
        press("Ask CAPTION of broken.png again")
        focused("broken.png")
        expect(page.locator("#tally")).to_have_text("2 of 3 answers · 1 failed")
        press("Retry 1")
        focused("Retry 1")
        press("broken.png")
        expect(page.locator("#picture h2")).to_be_focused()
        press("Retry")
        expect(page.locator("#picture .card")).to_be_focused()
        press("Next picture")
        focused("Next picture")
        press("Next picture")
        expect(page.locator("#picture h2")).to_have_text("scene-02.png")
        expect(page.locator("#picture h2")).to_be_focused()
        press("← All pictures")
        focused("scene-02.png")
        choose(page, "<CAPTION_TO_PHRASE_GROUNDING>", text="hold")
        run(page)
        press("Cancel")
        focused("Retry 3")
        press("Remove all")
        expect(page.locator("#choose")).to_be_focused()


def test_what_is_said_is_not_overwritten(open_page: Open, embedded: str) -> None:
    """Lines are only added to the live region, and stay until there are many."""
    page = open_page(embedded)
    region = page.locator("#said")
    expect(region).to_have_role("log")
    page.evaluate(
        """async () => {
            const changes = window.changes = [];
            new MutationObserver((records) => {
                for (const { type, removedNodes } of records) changes.push([type, removedNodes.length]);
            }).observe(document.getElementById("said"), { childList: true, characterData: true, subtree: true });
            const { announce } = await import(new URL("page/dom.js", location));
            for (const words of ["one", "two", "two"]) announce(words);
        }"""
    )
    bring(page, "scene-01.jpg", "scene-02.png")
    choose(page, "<CAPTION>")
    run(page)
    expect(page.locator("#tally")).to_have_text("2 of 2 answers")
    expect(region.locator("p", has_text="Finished")).to_have_count(1)
    lines = region.locator("p").all_inner_texts()
    assert lines[:4] == ["one", "two", "two", "2 pictures added."]
    assert [line for line in lines if "Working" in line] == []  # that it works is no news
    changes = page.evaluate("() => window.changes")
    assert len(changes) > 3
    assert {tuple(change) for change in changes} == {("childList", 0)}


def test_the_first_paint_is_small_and_all_comes_from_here(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    loaded = page.evaluate(
        """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
            .map(({ name, transferSize }) => [name, transferSize])"""
    )
    own = [(name, size) for name, size in loaded if "/page/" in name or name == f"{embedded}/"]
    assert all(name.startswith(embedded) for name, _ in loaded)
    assert len(own) > 20
    assert 10_000 < sum(size for _, size in own) < MOST_BYTES


def test_what_the_policy_forbids_does_not_run(open_page: Open, embedded: str) -> None:
    """A script that got into the page, by whatever way, is stopped by the browser."""
    page = open_page(embedded, expected=("Content Security Policy", "csp"))
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src='data:,x' onerror='window.ran = true'>");
        }"""
    )
    assert page.evaluate("async () => { await new Promise(requestAnimationFrame); return window.ran; }") is None
    stopped = page.evaluate("() => fetch('https://203.0.113.1/').then(() => 'reached', () => 'stopped')")
    assert stopped == "stopped"

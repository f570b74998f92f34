"""One picture, asked and looked at: what is drawn is what is true, and can be pointed at, zoomed, copied, cancelled."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from .browsing import SAMPLES, Open, answered, asked, bring, card, check_truth, choose, drawn, drop, expect, run, truth
from .conftest import Daemon

pytestmark = pytest.mark.browser


def test_boxes_are_drawn_where_things_are(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    bring(page, "scene-05.jpg")
    choose(page, "<CAPTION>", "<OD>")
    run(page)
    check_truth(page, "scene-05.jpg", "<OD>", page.locator(".figure"))
    assert answered(page, "<CAPTION>").locator(".said").inner_text() == truth("scene-05.jpg", "<CAPTION>")
    listed = answered(page, "<OD>").locator(".place .name").all_inner_texts()
    assert sorted(listed) == sorted(truth("scene-05.jpg", "<OD>")["labels"])
    raw = answered(page, "<OD>").locator("details")
    raw.locator("summary").click()
    assert len(json.loads(raw.locator("pre").inner_text())["result"]["bboxes"]) == len(listed)


@pytest.mark.parametrize(
    ("file", "prompt"),
    [
        ("scene-04.png", "<OCR_WITH_REGION>"),
        ("scene-08.png", "<REFERRING_EXPRESSION_SEGMENTATION>"),
        ("scene-02.png", "<OPEN_VOCABULARY_DETECTION>"),
    ],
)
def test_quads_outlines_and_what_a_text_asks_for(open_page: Open, embedded: str, file: str, prompt: str) -> None:
    page = open_page(embedded)
    bring(page, file)
    choose(page, prompt, text=asked(file, prompt).text)
    run(page)
    check_truth(page, file, prompt, page.locator(".figure"))
    if prompt == "<REFERRING_EXPRESSION_SEGMENTATION>":
        mask = page.locator(".shape.is-polygon .line")
        assert float(mask.evaluate("(path) => getComputedStyle(path).fillOpacity")) > 0.2
        expect(page.locator(".label text")).to_have_text(asked(file, prompt).text)


def test_a_picture_that_is_turned_by_its_exif_data_has_its_boxes_where_things_are(
    open_page: Open, embedded: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be shown turned right by a quarter
    with Image.open(SAMPLES / "scene-05.jpg") as upright:
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    page = open_page(embedded)
    bring(page, tmp_path / "turned.png")
    choose(page, "<OD>")
    run(page)
    check_truth(page, "scene-05.jpg", "<OD>", page.locator(".figure"))


def test_the_picture_has_room_beside_its_cards(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    bring(page, "scene-05.jpg")
    choose(page, "<CAPTION>", "<OD>")
    run(page)
    answered(page, "<OD>")
    for width in (900, 1100, 1900):
        page.set_viewport_size({"width": width, "height": 760})
        page.wait_for_function("() => document.querySelector('.canvas').clientWidth >= 330")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_several_prompts_stand_side_by_side(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    bring(page, "scene-02.png")
    prompts = ("<CAPTION>", "<OD>", "<GENERATE_TAGS>", "<DENSE_REGION_CAPTION>")
    choose(page, *prompts)
    run(page)
    for prompt in prompts:
        answered(page, prompt)
    panes = page.locator(".pane")
    expect(panes).to_have_count(2)
    check_truth(page, "scene-02.png", "<OD>", panes.nth(0).locator(".figure"))
    lefts = [pane.bounding_box() for pane in panes.all()]
    assert lefts[0] is not None
    assert lefts[1] is not None
    assert lefts[0]["x"] + lefts[0]["width"] <= lefts[1]["x"]
    assert lefts[0]["y"] == lefts[1]["y"]


def test_a_rectangle_is_drawn_or_said_in_numbers(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    question = asked("scene-02.png", "<REGION_TO_CATEGORY>")
    assert question.region is not None
    bring(page, "scene-02.png")
    choose(page, "<REGION_TO_CATEGORY>")
    run(page)
    assert "rectangle" in page.locator("#run-note").inner_text()
    expect(page.locator("#said")).to_contain_text("Draw a rectangle on the picture first.")
    frame = page.locator(".canvas").bounding_box()
    assert frame is not None
    x1, y1, x2, y2 = (value / 512 * frame["width"] for value in question.region)
    page.mouse.move(frame["x"] + x1, frame["y"] + y1)
    page.mouse.down()
    page.mouse.move(frame["x"] + x2 / 2, frame["y"] + y2, steps=3)
    page.mouse.move(frame["x"] + x2, frame["y"] + y2, steps=3)
    page.mouse.up()
    sides = page.locator("#region input[type=number]")
    expect(sides.nth(3)).not_to_have_value("")
    for side, true in zip(sides.all(), question.region, strict=True):
        assert abs(float(side.input_value()) - true) <= 2
    run(page)
    assert answered(page, "<REGION_TO_CATEGORY>").locator(".said").inner_text() == question.truth
    expect(page.locator(".label text")).to_have_text(question.truth)

    fish = asked("scene-02.png", "<REGION_TO_DESCRIPTION>")
    assert fish.region is not None
    choose(page, "<REGION_TO_DESCRIPTION>")
    page.locator(".scroll").focus()
    page.keyboard.press("Escape")
    expect(sides.nth(0)).to_have_value("")
    for side, value in zip(sides.all(), fish.region, strict=True):
        side.fill(str(round(value)))
    sides.nth(3).press("Enter")
    expect(page.locator(".region")).to_have_count(1)
    run(page)
    assert answered(page, "<REGION_TO_DESCRIPTION>").locator(".said").inner_text() == fish.truth


def test_pointing_lights_picture_and_list_together(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    bring(page, "scene-05.jpg")
    choose(page, "<OD>")
    run(page)
    rows = answered(page, "<OD>").locator(".places li")
    rows.nth(1).hover()
    expect(page.locator(".shape.is-lit")).to_have_attribute("data-index", "1")
    expect(page.locator(".canvas")).to_have_class("canvas has-lit")
    page.locator("h1").hover()
    expect(page.locator(".is-lit")).to_have_count(0)
    page.locator('.label[data-index="2"]').hover()
    expect(rows.nth(2)).to_have_class("is-lit")
    rows.nth(3).locator("button").focus()
    expect(page.locator(".shape.is-lit")).to_have_attribute("data-index", "3")


def test_it_zooms_and_the_boxes_stay_where_they_are(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    bring(page, "scene-05.jpg")
    choose(page, "<OD>")
    run(page)
    answered(page, "<OD>")
    figure, canvas = page.locator(".figure"), page.locator(".canvas")
    before = drawn(figure)
    fitted = canvas.bounding_box()
    figure.get_by_role("button", name="Zoom in").click()
    page.locator(".scroll").press("+")
    page.locator(".scroll").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -150)
    page.keyboard.up("Control")
    zoomed = canvas.bounding_box()
    assert fitted is not None
    assert zoomed is not None
    assert zoomed["width"] > fitted["width"] * 2.5
    after = drawn(figure)
    for one, other in zip(before["bboxes"], after["bboxes"], strict=True):
        assert all(abs(a - b) < 0.5 for a, b in zip(one, other, strict=True))
    scroll = page.locator(".scroll")
    at = scroll.evaluate("(scroll) => scroll.scrollLeft")
    scroll.hover()
    page.mouse.down()
    page.mouse.move(500, 400, steps=4)
    page.mouse.up()
    assert scroll.evaluate("(scroll) => scroll.scrollLeft") != at
    scroll.press("0")
    refitted = canvas.bounding_box()
    assert refitted is not None
    assert refitted["width"] == fitted["width"]


@pytest.mark.parametrize("interface", ["there", "missing", "forbidden"])
def test_an_answer_is_copied(open_page: Open, embedded: str, interface: str) -> None:
    """Over plain HTTP from another machine the clipboard's interface is missing; a browser may forbid its use."""
    page = open_page(embedded, permissions=["clipboard-read", "clipboard-write"])
    if interface != "there":
        fails = "undefined" if interface == "missing" else "{ writeText: async () => { throw new Error('no'); } }"
        page.evaluate(f"() => Object.defineProperty(navigator, 'clipboard', {{ value: {fails} }})")
    bring(page, "scene-02.png")
    choose(page, "<CAPTION>")
    run(page)
    answered(page, "<CAPTION>").get_by_role("button", name="Copy").click()
    expect(page.locator("#said")).to_contain_text("Copied.")
    expect(answered(page, "<CAPTION>").get_by_role("button", name="Copy")).to_be_focused()
    page.focus("#search")
    page.keyboard.press("Control+V")
    expect(page.locator("#search")).to_have_value(truth("scene-02.png", "<CAPTION>"))


def test_pictures_are_dropped_and_pasted_and_what_is_none_is_left_out(
    open_page: Open, embedded: str, tmp_path: Path
) -> None:
    page = open_page(embedded, permissions=["clipboard-read", "clipboard-write"])
    drop(page, SAMPLES / "scene-01.jpg")
    expect(page.locator("#count")).to_contain_text("1 picture")
    data = base64.b64encode((SAMPLES / "scene-02.png").read_bytes()).decode()
    page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const image = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
        }""",
        data,
    )
    page.keyboard.press("Control+V")
    expect(page.locator("#count")).to_contain_text("2 pictures")
    (tmp_path / "notes.txt").write_text("no picture")
    drop(page, tmp_path / "notes.txt")
    expect(page.locator("#left-out")).to_have_text("1 file left out: no picture.")
    expect(page.locator("#count")).to_contain_text("2 pictures")


def test_prompts_are_grouped_explained_and_found(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    groups = page.locator("#prompts legend").all_inner_texts()
    assert groups[:3] == ["Describe", "Find and outline", "Read text"]
    for row in page.locator(".prompt").all():
        assert row.locator("p").inner_text()
    page.fill("#search", "phrase")
    expect(page.locator(".prompt:visible")).to_have_count(1)
    page.fill("#search", "nothing is called so")
    expect(page.locator("#none-found")).to_have_text("No prompt is called so.")


def test_what_runs_is_cancelled_and_the_server_drops_it(open_page: Open, fake: Daemon) -> None:
    with fake() as url:
        page = open_page(url, expected=("ERR_ABORTED", "net::"))
        bring(page, "scene-01.jpg")
        choose(page, "<CAPTION_TO_PHRASE_GROUNDING>", text="hold")
        run(page)
        expect(page.locator("#figures")).to_contain_text("1 at work")
        page.click("#cancel")
        expect(card(page, "<CAPTION_TO_PHRASE_GROUNDING>")).to_contain_text("Cancelled.")
        expect(page.locator("#figures")).to_contain_text("0 at work")
        page.locator('.prompt input[type="text"]:visible').fill("it")
        run(page)
        answered(page, "<CAPTION_TO_PHRASE_GROUNDING>")

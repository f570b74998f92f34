"""Many pictures: the table, what fails and is asked again, waiting as the server says, a thousand, downloads."""

from __future__ import annotations

import io
import re
import statistics
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from vision_server import demo

from .browsing import (
    SAMPLES,
    Open,
    Page,
    answered,
    asked,
    bring,
    choose,
    expect,
    run,
    saved_json,
    saved_text,
    truth,
)
from .conftest import Daemon

pytestmark = pytest.mark.browser

NAMES = [sample.file for sample in demo.read_samples(SAMPLES)]
REFUSED = ("Failed to load resource",)  # what Chromium says of every answer that is an error
MANY = 1000
# Of the page's main thread, for all of them: it takes about 8 s, and 45 s with 30 ms of needless work at each change.
MOST_WORK_S = 20


def small_pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 128)).save(path)
    return paths


def cells(page: Page, state: str) -> int:
    return page.locator(f'#table td[data-state="{state}"]').count()


def test_the_table_fills_and_leads_to_each_picture(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    bring(page, *NAMES[:6])
    choose(page, "<CAPTION>", "<OD>")
    expect(page.locator("#run")).to_have_text("Run on 6 pictures")
    run(page)
    expect(page.locator("#tally")).to_have_text("12 of 12 answers")
    expect(page.locator('#table td[data-state="done"]')).to_have_count(12)
    for place, name in enumerate(NAMES[:6]):
        row = page.locator("#table tbody tr:not(.spacer)").nth(place)
        assert row.locator("th button").inner_text() == name
        assert row.locator("td[data-token='<CAPTION>']").inner_text() == truth(name, "<CAPTION>")
    page.get_by_role("button", name=NAMES[3], exact=True).click()
    assert answered(page, "<CAPTION>").locator(".said").inner_text() == truth(NAMES[3], "<CAPTION>")
    page.get_by_role("button", name="Next picture").click()
    assert answered(page, "<CAPTION>").locator(".said").inner_text() == truth(NAMES[4], "<CAPTION>")
    page.get_by_role("button", name="All pictures").click()
    expect(page.locator("#table")).to_be_visible()


def test_answers_are_saved_as_png_json_text_and_zip(open_page: Open, embedded: str, tmp_path: Path) -> None:
    page = open_page(embedded)
    bring(page, "scene-02.png")
    choose(page, "<CAPTION>", "<OD>")
    run(page)
    boxes, caption = answered(page, "<OD>"), answered(page, "<CAPTION>")
    with page.expect_download() as download:
        boxes.get_by_role("button", name="Save as JSON").click()
    assert download.value.suggested_filename == "scene-02.OD.json"
    said = saved_json(download.value)
    assert sorted(said["labels"]) == sorted(truth("scene-02.png", "<OD>")["labels"])
    with page.expect_download() as download:
        caption.get_by_role("button", name="Save as text").click()
    assert download.value.suggested_filename == "scene-02.CAPTION.txt"
    assert saved_text(download.value) == truth("scene-02.png", "<CAPTION>") + "\n"
    with page.expect_download() as download:
        boxes.get_by_role("button", name="Save the picture").click()
    plain = Image.open(SAMPLES / "scene-02.png").convert("RGB")
    annotated = Image.open(Path(download.value.path())).convert("RGB")
    assert annotated.size == plain.size
    changed = ImageChops.difference(annotated, plain).convert("L").point(lambda level: 255 if level > 8 else 0)
    for x1, y1, x2, y2 in said["bboxes"]:
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
        for x, y in ((x1, middle[1]), (x2, middle[1]), (middle[0], y2)):
            assert changed.crop((round(x) - 2, round(y) - 2, round(x) + 3, round(y) + 3)).getbbox(), "no line there"
    assert changed.crop((20, 20, 200, 120)).getbbox() is None

    bring(page, "scene-01.jpg", "scene-01.jpg")  # one name twice
    run(page)
    expect(page.locator("#tally")).to_have_text("6 of 6 answers")
    page.click("#zip")
    page.check("#zip-png")
    with page.expect_download() as download:
        page.click("#zip-save")
    with zipfile.ZipFile(Path(download.value.path())) as archive:
        assert archive.testzip() is None
        names = {f"scene-02.{part}" for part in ("CAPTION.txt", "OD.txt", "OD.png", "json")}
        names |= {f"scene-01.{part}" for part in ("CAPTION.txt", "CAPTION-2.txt", "OD.txt", "OD-2.txt", "OD.png")}
        names |= {"scene-01.OD-2.png", "scene-01.json", "scene-01-2.json"}
        assert set(archive.namelist()) == names
        assert archive.read("scene-02.CAPTION.txt").decode() == truth("scene-02.png", "<CAPTION>") + "\n"
        assert Image.open(io.BytesIO(archive.read("scene-02.OD.png"))).size == (512, 512)


def test_an_error_is_its_row_s_and_can_be_retried(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """A file that is no picture is refused, and the others are answered; what was cancelled can be asked again."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    with fake() as url:
        page = open_page(url, expected=REFUSED)
        bring(page, "scene-01.jpg", broken, "scene-02.png")
        choose(page, "<CAPTION>")
        run(page)
        expect(page.locator("#tally")).to_have_text("2 of 3 answers · 1 failed")
        row = page.locator("#table tr", has_text="broken.png")
        expect(row.locator("td[data-state='failed'] .problem")).not_to_be_empty()
        page.select_option("#filter", "failed")
        expect(page.locator("#table tbody tr:not(.spacer)")).to_have_count(1)
        row.get_by_role("button", name=re.compile("Ask CAPTION of broken.png again")).click()
        expect(page.locator("#tally")).to_have_text("2 of 3 answers · 1 failed")
        expect(page.locator("#retry")).to_have_text("Retry 1")


def test_a_full_queue_is_waited_for(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """One place in the queue and two in the worker, which all hold: the others are refused, and come back in time."""
    gate = tmp_path / "gate"
    with fake(max_queue="1") as url:
        page = open_page(url, expected=REFUSED)
        bring(page, *NAMES)
        choose(page, "<CAPTION_TO_PHRASE_GROUNDING>", text=f"gate:{gate}")
        run(page)
        expect(page.locator("#hold-why")).to_contain_text("queue")
        expect(page.locator("#hold-time")).to_contain_text("Trying again in")
        gate.touch()
        page.click("#go-on")
        expect(page.locator("#tally")).to_have_text(f"{len(NAMES)} of {len(NAMES)} answers")
        expect(page.locator("#hold")).to_be_hidden()
        expect(page.locator("#said p", has_text="places in the queue")).to_have_count(1)  # however often it was full


class Worked:
    """How long the page's main thread has worked: seconds of the processor, whatever others do beside it."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def __call__(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        [work_s] = [metric["value"] for metric in metrics if metric["name"] == "TaskDuration"]
        return float(work_s)


def test_a_thousand_pictures_stay_responsive(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """While they are answered few rows exist, scrolling shows its rows at once, and the page has little work."""
    with fake() as url:
        page = open_page(url)
        worked = Worked(page)
        page.locator("input[type=file]").first.set_input_files(small_pictures(tmp_path, MANY))
        expect(page.locator("#count")).to_contain_text("1,000 pictures")
        choose(page, "<CAPTION>")
        run(page)
        took_ms = []
        for number in range(12):
            took_ms.append(
                page.evaluate(
                    """async (share) => {
                        const scroll = document.querySelector(".table-scroll");
                        const began = performance.now();
                        scroll.scrollTop = share * scroll.scrollHeight;
                        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                        return performance.now() - began;
                    }""",
                    number / 12,
                )
            )
            assert page.locator("#table tbody tr").count() < 60
        assert statistics.median(took_ms) < 500, took_ms
        expect(page.locator("#tally")).to_have_text("1,000 of 1,000 answers")
        assert worked() < MOST_WORK_S
        page.locator(".table-scroll").evaluate("(scroll) => { scroll.scrollTop = scroll.scrollHeight; }")
        last = page.locator("#table tr", has_text="0999.png")
        size = (tmp_path / "0999.png").stat().st_size
        expect(last.locator("td[data-state='done']")).to_have_text(f"<CAPTION>||{size}")
        assert int(page.locator("#table table").get_attribute("aria-rowcount") or 0) == MANY + 1


def test_the_time_left_is_told(open_page: Open, embedded: str) -> None:
    page = open_page(embedded, expected=("ERR_ABORTED",))
    bring(page, *NAMES)
    choose(page, "<CAPTION>", "<DETAILED_CAPTION>")
    run(page)
    expect(page.locator("#left")).to_contain_text("left")
    page.click("#cancel")
    expect(page.locator("#tally")).to_contain_text("cancelled")
    page.click("#retry")
    expect(page.locator("#tally")).to_have_text("24 of 24 answers")


def test_pictures_without_their_rectangle_say_so(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    question = asked("scene-02.png", "<REGION_TO_CATEGORY>")
    assert question.region is not None
    bring(page, "scene-01.jpg", "scene-02.png")
    choose(page, "<REGION_TO_CATEGORY>")
    page.get_by_role("button", name="scene-02.png", exact=True).click()
    sides = page.locator("#region input[type=number]")
    for side, value in zip(sides.all(), question.region, strict=True):
        expect(side).to_be_enabled()
        side.fill(str(round(value)))
    sides.nth(3).press("Enter")
    page.get_by_role("button", name="All pictures").click()
    run(page)
    expect(page.locator("#tally")).to_have_text("1 of 2 answers · 1 failed")
    answer = page.locator("#table tr", has_text="scene-02.png").locator("td[data-state=done]")
    expect(answer).to_have_text(question.truth)
    expect(page.locator("#table tr", has_text="scene-01.jpg").locator(".problem")).to_contain_text("rectangle")
    page.check("#region-shared")
    page.click("#retry")
    expect(page.locator("#tally")).to_have_text("2 of 2 answers")

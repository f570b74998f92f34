"""The pictures of the page that the READMEs show: `python -m tests.page.screenshots [FOLDER]`. To be looked at."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from vision_server import demo

from .browsing import SAMPLES, Page, answered, asked, bring, choose, expect, run
from .conftest import FLAGS

FOLDER = Path(__file__).parent / "screenshots"
DESKTOP = {"width": 1320, "height": 820}
PHONE = {"width": 390, "height": 844}
BROKEN = 20  # the place of a file that is no picture, among many
COLOURS = 256  # of a palette: the page has few, and a repository keeps every byte for ever


def visit(browser: Browser, url: str, scheme: str = "light", phone: bool = False) -> Page:
    page = browser.new_page(
        viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]
        color_scheme=scheme,  # type: ignore[arg-type]
        device_scale_factor=1.5 if phone else 1,
        is_mobile=phone,
        has_touch=phone,
        reduced_motion="reduce",
    )
    page.goto(url)
    page.wait_for_selector(".prompt")
    return page


def shoot(page: Page, folder: Path, name: str) -> None:
    page.evaluate("() => document.activeElement.blur()")
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    page.context.close()


def one_picture(browser: Browser, url: str, phone: bool = False) -> Page:
    page = visit(browser, url, phone=phone)
    bring(page, "scene-05.jpg")
    choose(page, "<MORE_DETAILED_CAPTION>", "<OD>")
    run(page)
    answered(page, "<MORE_DETAILED_CAPTION>")
    answered(page, "<OD>")
    expect(page.locator("#state")).to_have_text("Ready")
    page.locator("#prompts").evaluate("(list) => { list.scrollTop = 0; }")
    return page


def with_the_embedded_checkpoint(browser: Browser, folder: Path, url: str, scratch: Path) -> None:
    page = visit(browser, url)
    page.click("#load")  # so that the times are those of every day
    expect(page.locator("#state")).to_have_text("Ready")
    page.context.close()
    shoot(one_picture(browser, url), folder, "desktop-light")
    page = visit(browser, url, "dark")
    bring(page, "scene-08.png")
    outline = asked("scene-08.png", "<REFERRING_EXPRESSION_SEGMENTATION>")
    choose(page, "<OD>", outline.prompt, text=outline.text)
    run(page)
    for prompt in ("<OD>", outline.prompt):
        answered(page, prompt)
    expect(page.locator("#state")).to_have_text("Ready")
    shoot(page, folder, "desktop-dark")
    page = one_picture(browser, url, phone=True)
    page.locator("#work").evaluate("(work) => work.scrollIntoView()")
    shoot(page, folder, "phone")
    page = visit(browser, url)
    scenes = sorted(SAMPLES.glob("scene-*"))
    many = [scratch / f"holiday-{number:04}{scenes[number % 12].suffix}" for number in range(1, 601)]
    for number, path in enumerate(many, 1):
        shutil.copy(scenes[number % 12], path)
    many[BROKEN].write_bytes(b"no picture")
    bring(page, *many)
    choose(page, "<CAPTION>", "<OD>")
    run(page)
    expect(page.locator("#tally")).to_contain_text(re.compile("^4[0-9] of 1,200"))
    page.locator(".table-scroll").evaluate("(scroll, to) => { scroll.scrollTop = to; }", (BROKEN - 1) * 64)
    page.wait_for_timeout(300)  # for the small pictures
    expect(page.locator("#state")).to_have_text("Working")
    shoot(page, folder, "many-pictures")


def while_loading(browser: Browser, folder: Path, url: str) -> None:
    page = visit(browser, url)
    bring(page, "scene-02.png")
    run(page)
    expect(page.locator("#loading-bytes")).to_have_text(re.compile("^[3-6][0-9]{2} MB of 1.1 GB$"))
    shoot(page, folder, "loading")


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with demo.running_daemon({"model": "demo", "device": "cpu", "dtype": "float32"}) as url:
            with_the_embedded_checkpoint(browser, folder, url, Path(scratch))
        toy = Path(scratch) / "promptgen-large"
        toy.mkdir()
        (toy / "config.json").write_text("{}")
        worker = f"--worker=--load download --step 2000000 --gate {scratch}/never"
        command = (sys.executable, "-m", "tests.fake_daemon", worker)
        with demo.running_daemon({"model": str(toy), "shutdown_grace_s": "0.1"}, command) as url:
            while_loading(browser, folder, url)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)

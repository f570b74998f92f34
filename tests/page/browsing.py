"""What the tests of the page share: looking at what it shows, and comparing that with what is true. Not a test."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

try:
    from playwright.sync_api import Download, Locator, Page, Route, expect
except ImportError:
    pytest.skip("playwright is not installed", allow_module_level=True)

from vision_server import demo, tasks
from vision_server.outlines import agrees

__all__ = ["SAMPLES", "Download", "Locator", "Open", "Page", "Question", "Route", "expect"]

SAMPLES = demo.SAMPLES
Question = demo.Question
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
# What axe-core looks for, and how many rules it must have found kept.
SCHEMES: tuple[tuple[Literal["light", "dark"], dict[str, Any], int], ...] = (
    ("light", {}, 10),
    ("dark", {"runOnly": ["color-contrast"]}, 1),
)
WAIT_MS = 120_000  # for what takes moments where nobody else is at work
expect.set_options(timeout=WAIT_MS)


class Open(Protocol):
    """Opens the page of the server at `url` in a context of its own, and waits until it knows the prompts.

    What the browser complains of fails the test when it is over, but for messages that hold one of `expected`.
    """

    def __call__(self, url: str, *, expected: tuple[str, ...] = (), ready: bool = True, **context: Any) -> Page: ...


def findings(page: Page) -> list[str]:
    """What axe-core calls serious or critical, contrast of AA included, in light; in dark, of contrast alone."""
    page.evaluate(AXE)
    listed = []
    for scheme, rules, least in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = page.evaluate("(rules) => axe.run(document, { resultTypes: ['violations'], ...rules })", rules)
        assert len(found["passes"]) >= least
        listed += [
            f"{scheme}: {one['impact']} {one['id']}: {node['html'][:160]}"
            for one in found["violations"]
            for node in one["nodes"]
            if one["impact"] in ("serious", "critical")
        ]
    return listed


def asked(file: str, prompt: str) -> Question:
    """What truth.json asks of a bundled picture under this prompt."""
    [sample] = [one for one in demo.read_samples(SAMPLES) if one.file == file]
    return next(question for question in sample.asked if question.prompt == prompt)


def truth(file: str, prompt: str, size: tuple[int, int] = (512, 512)) -> Any:
    """What a perfect model would answer."""
    return tasks.answer(prompt, asked(file, prompt).truth, size)


def bring(page: Page, *files: str | Path) -> None:
    """Bundled pictures by name, others by path, into the first file input there is."""
    page.locator("input[type=file]").first.set_input_files([SAMPLES / file for file in files])


def drop(page: Page, *paths: Path) -> None:
    """As from the file manager: Chromium is given the paths, and reads the folders itself."""
    zone = page.locator("#drop").bounding_box()
    assert zone is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        where = {"x": zone["x"] + zone["width"] / 2, "y": zone["y"] + zone["height"] / 2}
        session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})
        if kind == "dragOver":
            expect(page.locator("#drop")).to_have_class("is-over")
    expect(page.locator("#drop")).not_to_have_class("is-over")


def choose(page: Page, *prompts: str, text: str = "") -> None:
    """Exactly these prompts, by token; `text` into the last one's field."""
    page.click("#none")
    for prompt in prompts:
        row = page.locator(f'.prompt[data-token="{prompt}"]')
        if row.is_hidden():
            page.check("#all-prompts")
        row.locator("input[type=checkbox]").check()
    if text:
        row.locator("input[type=text]").fill(text)


def run(page: Page) -> None:
    page.click("#run")


def card(page: Page, prompt: str) -> Locator:
    return page.locator(f'#picture .card[data-token="{prompt}"]')


def answered(page: Page, prompt: str) -> Locator:
    """The card, once its answer is there."""
    found = page.locator(f'#picture .card[data-token="{prompt}"][data-state="done"]')
    expect(found).to_be_visible()
    return found


def drawn(figure: Locator) -> dict[str, Any]:
    """What is drawn in a figure as an answer would say it, in pixels of the picture, read from the screen alone.

    Boxes as {"bboxes", "labels"}; quads as "quad_boxes"; outlines as "polygons".
    """
    found = figure.evaluate(
        """async (figure) => {
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            const picture = figure.querySelector("img");
            const shown = picture.getBoundingClientRect();
            const frame = figure.querySelector("svg.overlay").getBoundingClientRect();
            const sides = ["left", "top", "width", "height"];
            const view = figure.querySelector("svg.overlay").viewBox.baseVal;
            return {
                apart: Math.max(...sides.map((side) => Math.abs(shown[side] - frame[side]))),
                scale: [picture.naturalWidth / view.width, picture.naturalHeight / view.height],
                shapes: [...figure.querySelectorAll("g.shape")].map((shape) => ({
                    kind: shape.getAttribute("class").match(/is-(\\w+)/)[1],
                    label: shape.dataset.label,
                    line: shape.querySelector(".line").getAttribute("d"),
                })),
            };
        }"""
    )
    assert found["apart"] < 1, "what is drawn does not lie on the picture"
    shapes = [(one["kind"], one["label"], rings(one["line"], found["scale"])) for one in found["shapes"]]
    if all(kind == "box" for kind, _, _ in shapes):
        boxes = [[*ring[0], *ring[2]] for _, _, [ring] in shapes]
        return {"bboxes": boxes, "labels": [label for _, label, _ in shapes]}
    key = {"quad": "quad_boxes", "polygon": "polygons"}[shapes[0][0]]
    places: list[Any] = [[[value for point in ring for value in point] for ring in lines] for _, _, lines in shapes]
    if key == "quad_boxes":
        places = [lines[0] for lines in places]
    return {key: places, "labels": [label for _, label, _ in shapes]}


def rings(line: str, scale: list[float]) -> list[list[list[float]]]:
    """The points of an SVG path of closed lines, in pixels of the picture."""
    return [
        [[float(value) * by for value, by in zip(point.split(), scale, strict=True)] for point in ring.split("L")]
        for ring in line.replace("Z", "").split("M")[1:]
    ]


def check_truth(page: Page, file: str, prompt: str, figure: Locator, size: tuple[int, int] = (512, 512)) -> None:
    """What is drawn in the figure is what is true of the bundled picture."""
    answered(page, prompt)
    true = truth(file, prompt, size)
    shown = drawn(figure)
    if true.get("labels") and not any(true["labels"]):
        shown["labels"] = [""] * len(shown["labels"])  # the page names an outline by what was asked for
    if "bboxes_labels" in true:
        true = {"bboxes": true["bboxes"], "labels": true["bboxes_labels"]}
    assert agrees(shown, true, size), (shown, true)


def saved_text(download: Download) -> str:
    return Path(download.path()).read_text(encoding="utf-8")


def saved_json(download: Download) -> Any:
    return json.loads(saved_text(download))

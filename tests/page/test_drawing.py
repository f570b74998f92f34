"""How shapes and labels are drawn, apart from any answer: labels do not cover each other, colours are told apart."""

from __future__ import annotations

import itertools
import math

import pytest

from .browsing import Open

pytestmark = pytest.mark.browser


def luminance(colour: str) -> float:
    """Of "#rrggbb", as WCAG and CIE have it: 0 to 1."""
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def linear(colour: str) -> list[float]:
    shares = [value / 255 for value in bytes.fromhex(colour[1:])]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


def lab(colour: str) -> tuple[float, float, float]:
    """Its place in CIELAB, where distances are as large as they look."""
    red, green, blue = linear(colour)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, luminance(colour), z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def test_labels_do_not_cover_each_other_and_colours_stay_apart(open_page: Open, embedded: str) -> None:
    page = open_page(embedded)
    found = page.evaluate(
        """async () => {
            const { overlay } = await import(new URL("page/sketch.js", location));
            const { shapesOf } = await import(new URL("page/shapes.js", location));
            const places = Array.from({ length: 60 }, (_, n) => [90 + (n % 8) * 9, 60 + n, 180 + (n % 8) * 9, 160 + n]);
            const shapes = shapesOf({ bboxes: places, labels: places.map((_, n) => `a thing of kind ${n}`) });
            const drawn = overlay(shapes, [640, 480], 1.5);
            const sides = ["x", "y", "width", "height"];
            const fills = (what) => [...drawn.querySelectorAll(what)].map((one) => one.getAttribute("fill"));
            return {
                plates: [...drawn.querySelectorAll(".label rect")].map((plate) =>
                    sides.map((side) => Number(plate.getAttribute(side)))),
                colours: [...drawn.querySelectorAll(".shape")].sort((one, other) =>
                    one.dataset.index - other.dataset.index).map((one) => one.lastChild.getAttribute("stroke")),
                papers: fills(".label rect"),
                inks: fills(".label text"),
            };
        }"""
    )
    plates = found["plates"]
    assert len(plates) >= 50
    for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(plates, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
    assert all(x >= 0 and y >= 0 and x + w <= 960.01 and y + h <= 720.01 for x, y, w, h in plates)
    for one, other in itertools.combinations(found["colours"][:24], 2):
        assert math.dist(lab(one), lab(other)) > 28
    for ink, paper in zip(found["inks"], found["papers"], strict=True):
        dark, bright = sorted((luminance(ink), luminance(paper)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5

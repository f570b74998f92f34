"""The truth per cell, against the scenes it was made from."""

import numpy as np
import pytest

from vision_server.training.cells import END, IGNORED, LETTERS, cells
from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import BACKGROUNDS, COLOURS, Item, Sign, scene
from vision_server.training.truth import outline, things

SCENES = [scene(seed) for seed in range(300)]


@pytest.mark.parametrize("grid", [4, 8, 16])
def test_cells_know_what_lies_in_them(grid: int) -> None:
    for one in SCENES:
        truth_cells = cells(one, grid)
        side = one.size_px / grid
        assert truth_cells.kind.shape == truth_cells.colour.shape == truth_cells.character.shape == (grid, grid)
        assert BACKGROUNDS[truth_cells.background] == one.background
        for row, column in np.argwhere(truth_cells.kind > 0):
            kind, colour = truth_cells.kind[row, column], truth_cells.colour[row, column]
            over = [
                thing
                for thing in things(one)
                if thing.box[0] < (column + 1) * side
                and thing.box[2] > column * side
                and thing.box[1] < (row + 1) * side
                and thing.box[3] > row * side
            ]
            if kind == len(KINDS) + 1:
                assert any(isinstance(thing, Sign) for thing in over)
                assert colour == 0
            else:
                names = {(thing.kind, thing.colour) for thing in over if isinstance(thing, Item)}
                assert (KINDS[kind - 1], COLOURS[colour - 1]) in names
        if grid == 16:
            shown = {item.kind for item in one.items}
            assert {KINDS[kind - 1] for kind in np.unique(truth_cells.kind) if 0 < kind <= len(KINDS)} == shown


def test_cells_of_a_fine_grid_spell_the_sign() -> None:
    for one in SCENES:
        found = cells(one, 16).character
        rows, columns = np.nonzero(found)
        read = "".join(
            chr(64 + found[row, column])
            for row, column in sorted(zip(rows, columns, strict=True), key=lambda at: at[1])
        )
        assert read == (one.sign.text if one.sign else "")


def test_a_cell_holds_the_outline_of_its_thing() -> None:
    for one in SCENES[:100]:
        found = cells(one, 8)
        outlines = [np.array(outline(thing), dtype=np.float32).reshape(-1, 2) / one.size_px for thing in things(one)]
        for row, column in np.argwhere(found.kind > 0):
            said = found.outline[row, column, : found.points[row, column]]
            assert any(len(said) == len(known) and np.allclose(said, known) for known in outlines)
        assert not found.points[found.kind == 0].any()


def test_the_text_is_the_signs() -> None:
    for one in SCENES:
        text = [index for index in cells(one, 8).text if index != IGNORED]
        assert text == ([*map(LETTERS.index, one.sign.text), END] if one.sign else [])

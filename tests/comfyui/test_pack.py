"""What ComfyUI reads of the pack before a node runs: tables, inputs, metadata, workflows. And the small parts."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import vision_server

PACK = Path(__file__).parents[2] / "clients" / "comfyui"
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))
WIDGETS = {"STRING", "INT", "COMBO"}


def test_every_node_is_what_comfyui_expects(pack: ModuleType) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    assert set(nodes) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for node in nodes.values():
        assert {"CATEGORY", "DESCRIPTION", "RETURN_TYPES", "FUNCTION"} <= set(dir(node))
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        inputs = node.INPUT_TYPES()
        json.dumps(inputs)
        assert set(inputs) <= {"required", "optional"}
        for group in inputs.values():
            for name, row in group.items():
                assert name in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())
                assert row[0] in ("IMAGE", "STRING", "INT", "*") or isinstance(row[0], list)
        assert node.VALIDATE_INPUTS("<ANY>") is True if hasattr(node, "VALIDATE_INPUTS") else True


def test_the_any_type_connects_to_every_type(pack: ModuleType) -> None:
    node = pack.NODE_CLASS_MAPPINGS["VisionServerUnload"]
    anything = node.RETURN_TYPES[0]
    assert not anything != "LATENT"
    assert not "LATENT" != anything
    assert anything == "*"


def test_it_needs_nothing_that_comfyui_lacks() -> None:
    allowed = set(sys.stdlib_module_names) | {"torch", "numpy", "PIL"}
    for path in PACK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in allowed


def test_the_metadata_is_the_projects() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == vision_server.__version__
    assert project["project"]["dependencies"] == []
    assert project["tool"]["comfy"]["DisplayName"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_holds_together_and_its_api_form_is_the_same(pack: ModuleType, path: Path) -> None:
    drawn = json.loads(path.read_text(encoding="utf-8"))
    asked = json.loads((PACK / "api_workflows" / path.name).read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in drawn["nodes"]}
    sources = {link[0]: link for link in drawn["links"]}
    assert {str(number): node["type"] for number, node in nodes.items()} == {
        number: node["class_type"] for number, node in asked.items()
    }
    for number, source, slot, target, place, kind in drawn["links"]:
        assert number in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert nodes[source]["outputs"][slot]["type"] == kind
    for number, node in nodes.items():
        widgets = [one["name"] for one in node["inputs"] if "widget" in one]
        values = dict(zip(widgets, node["widgets_values"], strict=True))
        linked = {
            one["name"]: [str(sources[one["link"]][1]), sources[one["link"]][2]]
            for one in node["inputs"]
            if one["link"] is not None
        }
        values.pop("upload", None)
        assert asked[str(number)]["inputs"] == {**values, **linked}
        if (ours := pack.NODE_CLASS_MAPPINGS.get(node["type"])) is None:
            continue
        rows = {name: row for group in ours.INPUT_TYPES().values() for name, row in group.items()}
        assert widgets == [name for name, row in rows.items() if isinstance(row[0], list) or row[0] in WIDGETS]
        assert [(one["name"], one["type"]) for one in node["outputs"]] == list(
            zip(ours.RETURN_NAMES, ours.RETURN_TYPES, strict=True)
        )
        for name, row in rows.items():
            assert name not in values or not isinstance(row[0], list) or values[name] in row[0]


def test_every_node_is_in_a_workflow(pack: ModuleType) -> None:
    used = {node["type"] for path in WORKFLOWS for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    assert set(pack.NODE_CLASS_MAPPINGS) <= used


def test_pictures_reach_the_server_as_they_are(part: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = part("pictures")
    image = torch.rand(5, 7, 3)
    sent = Image.open(io.BytesIO(pictures.encode(image)))
    assert (sent.format, sent.size, sent.mode) == ("PNG", (7, 5), "RGB")
    assert torch.allclose(pictures.to_tensor(sent), image, atol=0.5 / 255 + 1e-6)
    for odd in (image[..., :1], torch.cat([image, image[..., :1]], -1), image.half(), image * 9 - 4, image / 0):
        assert pictures.to_pil(odd).mode == "RGB"
    assert pictures.to_pil(torch.tensor([[[2.0, -1.0, float("nan")]]])).getpixel((0, 0)) == (255, 0, 0)
    monkeypatch.setattr(pictures, "_LARGE_BYTES", 50)
    assert Image.open(io.BytesIO(pictures.encode(image))).format == "JPEG"


@pytest.mark.parametrize("wrong", [torch.zeros(4, 4, 3), torch.zeros(1, 3, 4, 5), "image", None])
def test_what_is_no_image_is_refused(part: Callable[[str], Any], wrong: Any) -> None:
    with pytest.raises(part("server").VisionServerError, match="no IMAGE"):
        part("pictures").split(wrong)


def test_places_of_every_size_are_drawn_and_masked(part: Callable[[str], Any]) -> None:
    """Specks, what reaches outside, labels longer than the picture: nothing fails, and all is in the picture."""
    places = part("places")
    answer = {
        "bboxes": [[3.4, 2.0, 3.4, 2.0], [-9, -9, 99, 99], [5, 5, 1, 1]],
        "bboxes_labels": ["a speck", "x" * 500, ""],
        "polygons": [[[1, 1], [1, 1, 8, 1, 8, 8]], [], [[2, 2, 6, 6]]],
        "polygons_labels": ["half", "none", "a line"],
    }
    found = places.read(answer)
    assert len(found) == 6
    picture = Image.new("RGB", (20, 10))
    assert places.draw(picture, found).size == (20, 10)
    for place in found:
        assert places.mask([place], (20, 10)).size == (20, 10)
    assert places.mask(found[:1], (20, 10)).getbbox() == (3, 2, 4, 3)
    assert places.mask(found[1:2], (20, 10)).getbbox() == (0, 0, 20, 10)
    assert picture.getbbox() is None


def test_labels_are_chosen_by_whole_words(part: Callable[[str], Any]) -> None:
    places = part("places")
    found = [places.Place(label, [], False) for label in ("red car", "carpet", "Bus", "")]
    for words, kept in (("", 4), (" , ", 4), ("CAR", 2), ("car, bus", 3), ("c++ (", 1)):
        assert len(places.only(found, words)) == kept


@pytest.mark.parametrize("answer", [{"bboxes": [[1, 2]], "labels": ["x"]}, {"polygons": [3], "labels": ["x"]}])
def test_places_that_cannot_be_read_are_told(part: Callable[[str], Any], answer: Any) -> None:
    with pytest.raises(part("server").VisionServerError, match="another version"):
        part("places").read(answer)


def test_the_readme_names_every_node_and_file(pack: ModuleType) -> None:
    text = (PACK / "README.md").read_text(encoding="utf-8")
    for name in pack.NODE_DISPLAY_NAME_MAPPINGS.values():
        assert f"**{name}**" in text
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PACK / link).exists()

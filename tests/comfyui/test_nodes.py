"""The nodes run as ComfyUI runs them, with torch tensors, against a daemon with the embedded checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vision_server.client.server import Server

SAMPLES = Path(__file__).parents[2] / "vision_server" / "samples"
KINDS: dict[str, Callable[[Any], bool]] = {
    "STRING": lambda value: isinstance(value, str),
    "INT": lambda value: isinstance(value, int),
    "IMAGE": lambda value: value.ndim == 4 and value.shape[-1] == 3 and value.dtype == torch.float32,
    "MASK": lambda value: value.ndim == 3 and value.dtype == torch.float32,
    "*": lambda value: True,
}
Run = Callable[..., list[Any]]


def image(*names: str) -> torch.Tensor:
    """Bundled pictures as an IMAGE."""
    opened = [Image.open(SAMPLES / name).convert("RGB") for name in names]
    return torch.stack([torch.from_numpy(np.array(one).astype(np.float32) / 255) for one in opened])


def truth(name: str, prompt: str) -> dict[str, Any]:
    """The first question of this prompt about the picture."""
    listed = json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))["pictures"]
    [asked] = [one["asked"] for one in listed if one["file"] == name]
    found: dict[str, Any] = next(question for question in asked if question["prompt"] == prompt)
    return found


@pytest.fixture
def run(pack: ModuleType, part: Callable[[str], Any], demo_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a node: inputs that are not given have their defaults, outputs are looked at as their types say."""
    monkeypatch.setenv("VISION_HOST", demo_url)
    prompts = part("prompts")
    monkeypatch.setattr(part("nodes"), "PROMPTS", prompts.PromptList(prompts.of_the_usual_server))

    def run_node(name: str, **given: Any) -> list[Any]:
        node = pack.NODE_CLASS_MAPPINGS[f"VisionServer{name}"]
        described = node.INPUT_TYPES()
        rows = {**described["required"], **described.get("optional", {})}
        values = {key: row[1]["default"] for key, row in rows.items() if len(row) > 1 and "default" in row[1]}
        if getattr(node, "INPUT_IS_LIST", False):
            values, given = ({key: [value] for key, value in some.items()} for some in (values, given))
            given = {key: value[0] if isinstance(value[0], list) else value for key, value in given.items()}
        assert given.keys() <= rows.keys()
        with torch.inference_mode():
            outputs = getattr(node(), node.FUNCTION)(**{**values, **given})
        assert len(outputs) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        lists = getattr(node, "OUTPUT_IS_LIST", [False] * len(outputs))
        for kind, is_list, value in zip(node.RETURN_TYPES, lists, outputs, strict=True):
            for one in value if is_list else [value]:
                assert KINDS[kind](one)
                if kind in ("IMAGE", "MASK"):
                    assert 0 <= float(one.min()) <= float(one.max()) <= 1
        return list(outputs)

    return run_node


def served(url: str, name: str, prompt: str, **more: Any) -> Any:
    """What the daemon says of the file itself."""
    return Server(url).caption((SAMPLES / name).read_bytes(), prompt, **more)


def test_a_caption_is_the_true_one(run: Run) -> None:
    assert run("Caption", image=image("scene-02.png"), prompt="<CAPTION>") == [
        truth("scene-02.png", "<CAPTION>")["truth"]
    ]


def test_text_and_region_and_a_prompt_of_ones_own_and_options_are_asked(run: Run, demo_url: str) -> None:
    asked = truth("scene-02.png", "<REGION_TO_CATEGORY>")
    region = ",".join(map(str, asked["region"]))
    picture = image("scene-02.png")
    assert run("Caption", image=picture, prompt="<REGION_TO_CATEGORY>", region=region) == [asked["truth"]]
    assert run("Caption", image=picture, prompt="<CAPTION>", other_prompt="region_to_category", region=region) == [
        asked["truth"]
    ]
    [short] = run("Caption", image=picture, prompt="<MORE_DETAILED_CAPTION>", max_new_tokens=4, num_beams=1)
    [whole] = run("Caption", image=picture, prompt="<MORE_DETAILED_CAPTION>")
    assert 0 < len(short) < len(whole)
    assert json.loads(run("Caption", image=picture, prompt="<CAPTION>", other_prompt="OD")[0]) == served(
        demo_url, "scene-02.png", "OD"
    )


def test_a_batch_in_the_caption_node_is_refused_in_words(run: Run, part: Callable[[str], Any]) -> None:
    with pytest.raises(part("server").VisionServerError, match="2 pictures: use Caption Batch"):
        run("Caption", image=image("scene-01.jpg", "scene-02.png"), prompt="<CAPTION>")


def test_a_list_of_batches_of_several_sizes_is_captioned_in_order(run: Run, demo_url: str, comfyui: Any) -> None:
    names = ["scene-01.jpg", "scene-02.png", "scene-03.jpg", "scene-04.png"]
    small = image("scene-04.png")[:, :400, :300]
    captions, joined = run("CaptionBatch", images=[image(*names), small], prompt=["<CAPTION>"], parallel=3)
    assert captions[:4] == [served(demo_url, name, "CAPTION") for name in names]
    assert captions[4:] == run("Caption", image=small, prompt="<CAPTION>")
    assert joined == "\n".join(captions)
    assert [current for current, total in comfyui.progress if total == 5][-1] == 5


def test_each_picture_of_a_list_may_have_its_own_prompt(run: Run) -> None:
    picture = image("scene-02.png")
    prompts = ["<CAPTION>", "<DETAILED_CAPTION>"]
    captions, _ = run("CaptionBatch", images=[picture], prompt=prompts)
    assert captions == [run("Caption", image=picture, prompt=prompt)[0] for prompt in prompts]
    assert captions[0] != captions[1]


def test_no_picture_at_all_is_no_caption_and_told_in_words(run: Run, part: Callable[[str], Any]) -> None:
    """An empty list, or batch, is what another node makes when it found nothing."""
    none = torch.zeros(0, 8, 8, 3)
    assert run("CaptionBatch", images=[], prompt=["<CAPTION>"]) == [[], ""]
    assert run("CaptionBatch", images=[none], prompt=["<CAPTION>"]) == [[], ""]
    for node in ("Caption", "Detect"):
        with pytest.raises(part("server").VisionServerError, match=r"batch holds (0 pictures|no picture)"):
            run(node, image=none, prompt="<OD>")


def test_boxes_are_drawn_and_masked(run: Run, demo_url: str) -> None:
    names = ("scene-01.jpg", "scene-02.png")
    pictures = image(*names)
    drawn, mask, masks, labels, answers, count = run("Detect", image=pictures, prompt="<OD>")
    answered = [served(demo_url, name, "OD") for name in names]
    assert json.loads(answers) == answered
    every = [(place, box) for place, answer in enumerate(answered) for box in answer["bboxes"]]
    assert labels.split("\n") == [label for answer in answered for label in answer["labels"]]
    assert count == len(every) == len(masks) == 4
    assert mask.shape == (2, 512, 512)
    for one, (place, (x1, y1, x2, y2)) in zip(masks, every, strict=True):
        left, top, right, bottom = map(round, (x1, y1, x2, y2))
        expected = torch.zeros(512, 512)
        expected[top:bottom, left:right] = 1
        assert torch.equal(one, expected)
        assert torch.equal(one * mask[place], one)
        inside = (slice(top + 4, bottom - 4), slice(left + 4, right - 4))  # a box is not filled
        assert not torch.equal(drawn[place, top, left:right], pictures[place, top, left:right])
        middle = inside[0].start + (inside[0].stop - inside[0].start) // 2
        assert torch.allclose(drawn[place, middle, inside[1]], pictures[place, middle, inside[1]], atol=1e-6)
    assert torch.equal(mask[1], masks[1:].amax(0))


def test_outlines_are_drawn_and_masked(run: Run) -> None:
    """The quads of text and the polygon of a thing fill about what is true of them."""
    asked = truth("scene-01.jpg", "<REFERRING_EXPRESSION_SEGMENTATION>")
    picture = image("scene-01.jpg")
    drawn, mask, masks, labels, answers, count = run(
        "Detect", image=picture, prompt=asked["prompt"], text_input=asked["text"]
    )
    [answer] = json.loads(answers)
    assert count == len(answer["polygons"]) == len(masks) >= 1
    assert labels == ""
    area = sum(_area(ring) for rings in answer["polygons"] for ring in rings)
    assert float(mask.sum()) == pytest.approx(area, rel=0.1)
    tinted = (drawn - picture).abs().sum(-1) > 0.01
    assert float((tinted & (mask > 0)).sum()) > 0.9 * float(mask.sum())
    assert float((tinted & (mask == 0)).sum()) < 0.2 * float(mask.sum())

    _, mask, _, labels, answers, count = run("Detect", image=image("scene-02.png"), prompt="<OCR_WITH_REGION>")
    [answer] = json.loads(answers)
    assert (count, labels) == (len(answer["quad_boxes"]), "\n".join(answer["labels"]))
    assert labels == "SUN"
    assert float(mask.sum()) == pytest.approx(_area(answer["quad_boxes"][0]), rel=0.1)


def _area(ring: list[float]) -> float:
    points = list(zip(ring[::2], ring[1::2], strict=True))
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True))) / 2


def test_where_nothing_is_found_the_picture_stays_and_one_mask_is_black(run: Run) -> None:
    picture = image("scene-02.png")
    drawn, mask, masks, labels, answers, count = run("Detect", image=picture, prompt="<OD>", only_labels="zebra, fis")
    assert (labels, count, len(json.loads(answers)[0]["bboxes"])) == ("", 0, 3)
    assert mask.shape == masks.shape == (1, 512, 512)
    assert float(mask.sum()) == float(masks.sum()) == 0
    assert torch.allclose(drawn, picture, atol=1e-6)
    assert run("Detect", image=picture, prompt="<OD>", only_labels="Fish, SIGN")[3] == "fish\nsign"


def test_a_text_is_no_place(run: Run, part: Callable[[str], Any]) -> None:
    with pytest.raises(part("server").VisionServerError, match="use Caption Image"):
        run("Detect", image=image("scene-01.jpg"), prompt="<CAPTION>")


def test_unload_ends_the_worker_and_lets_through(run: Run, demo_url: str, pack: ModuleType) -> None:
    run("Caption", image=image("scene-01.jpg"), prompt="<CAPTION>")
    assert Server(demo_url).call("/status")["worker_pid"] is not None
    through = object()
    assert run("Unload", after=through) == [through, "unloaded"]
    assert Server(demo_url).call("/status")["worker_pid"] is None
    changed = pack.NODE_CLASS_MAPPINGS["VisionServerUnload"].IS_CHANGED
    assert math.isnan(changed(server=""))
    assert changed(after=None) == changed(after=None)


def test_unload_leaves_a_busy_server_alone_when_told(pack: ModuleType, stub: Any) -> None:
    asked = []

    def reply(path: str, *_: Any) -> tuple[int, dict[str, str], Any]:
        asked.append(path)
        return 409, {}, {"error": "Busy.", "code": "busy"}

    node = pack.NODE_CLASS_MAPPINGS["VisionServerUnload"]()
    assert node.run(when_busy="leave it loaded", server=stub(reply).url) == (None, "busy")
    assert asked == ["/unload"]


def test_the_prompts_in_the_nodes_are_the_servers(run: Run, pack: ModuleType, demo_url: str) -> None:
    every = {row["token"]: row["answer"] for row in Server(demo_url).call("/prompts?all=1")}
    advised = Server(demo_url).call("/prompts")
    for name, text in (("Caption", True), ("CaptionBatch", True), ("Detect", False)):
        listed, _ = pack.NODE_CLASS_MAPPINGS[f"VisionServer{name}"].INPUT_TYPES()["required"]["prompt"]
        assert listed == [token for token in advised if (every[token] == "text") == text]

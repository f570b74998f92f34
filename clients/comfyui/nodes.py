"""The nodes as ComfyUI sees them: inputs, outputs, and the method that runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from . import pictures, places
from .asking import ask_all
from .prompts import PROMPTS
from .server import Refused, Server, VisionServerError

_CATEGORY = "vision-server"


class _AnyType(str):
    """`*`, which ComfyUI lets connect to every type since it differs from none: that is how it compares types."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


_ANY = _AnyType("*")
_SERVER_INPUTS: dict[str, Any] = {
    "server": ("STRING", {
        "default": "", "tooltip": "Address of the vision-server. Empty: VISION_HOST, or http://127.0.0.1:54880."}),
    "api_key": ("STRING", {
        "default": "",
        "tooltip": "Key, where the server asks for one. Saved in the workflow and in pictures made with it: better "
        "leave it empty and set VISION_API_KEY, which goes to the server that VISION_HOST names."}),
}  # fmt: skip
_ASKING_INPUTS: dict[str, Any] = {
    "text_input": ("STRING", {
        "default": "", "multiline": True,
        "tooltip": "The text that prompts such as CAPTION_TO_PHRASE_GROUNDING ask for; empty for the others."}),
    "region": ("STRING", {
        "default": "", "tooltip": "The box that REGION_TO_... prompts ask for: x1,y1,x2,y2 in pixels; else empty."}),
    "other_prompt": ("STRING", {
        "default": "", "tooltip": "A prompt that the list does not have; it is asked in place of the listed one."}),
    "model": ("STRING", {"default": "", "tooltip": "Which of the served checkpoints. Empty: the server's default."}),
    "num_beams": ("INT", {
        "default": 0, "min": 0, "max": 8, "tooltip": "Beams of the search; 1 is greedy. 0: the server's default."}),
    "max_new_tokens": ("INT", {
        "default": 0, "min": 0, "max": 4096, "tooltip": "Most tokens of an answer. 0: the server's default."}),
    **_SERVER_INPUTS,
}  # fmt: skip


def _inputs(pictures_name: str, with_places: bool, **more: Any) -> dict[str, Any]:
    """What a node takes that asks a prompt on pictures. `more` come last."""
    listed = (PROMPTS.tokens(with_places), {"tooltip": "The server's prompts; press R to list them anew."})
    return {"required": {pictures_name: ("IMAGE",), "prompt": listed}, "optional": {**_ASKING_INPUTS, **more}}


class Caption:
    """One picture, one text."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Asks a vision-server about one picture and gives its text: a caption, tags, what can be read."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("caption",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return _inputs("image", with_places=False)

    @classmethod
    def VALIDATE_INPUTS(cls, prompt: object) -> bool:
        """Any prompt: the server knows which there are, and may be another one than the list is from."""
        return True

    def run(self, image: torch.Tensor, prompt: str, server: str = "", api_key: str = "", **asked: Any) -> tuple[str]:
        frames = pictures.split(image)
        if len(frames) != 1:
            raise VisionServerError(f"This batch holds {len(frames)} pictures: use Caption Batch for it.")
        asking = Server(server, api_key)
        [answer] = ask_all(asking, [_question(asking, frames[0], prompt, asked)], 1)
        return (_as_text(answer),)


class CaptionBatch:
    """Batches, and lists of pictures of any sizes: many are asked at a time, which is when the server is fastest."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Asks a vision-server about every picture of a batch or a list, several at a time."
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("captions", "joined")
    OUTPUT_TOOLTIPS = ("A list of one text for each picture, in order.", "The texts in one, a line each.")
    OUTPUT_IS_LIST = (True, False)
    INPUT_IS_LIST = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        parallel = {"default": 8, "min": 1, "max": 64, "tooltip": "So many pictures are at the server at a time."}
        return _inputs("images", with_places=False, parallel=("INT", parallel))

    @classmethod
    def VALIDATE_INPUTS(cls, prompt: object) -> bool:
        return True

    def run(self, images: list[torch.Tensor], **lists: list[Any]) -> tuple[list[str], str]:
        """Every input is a list; a shorter one goes on with its last, as where ComfyUI itself goes through lists."""
        [server, api_key, parallel] = [
            lists.pop(name, [default])[0] for name, default in (("server", ""), ("api_key", ""), ("parallel", 8))
        ]
        asking = Server(server, api_key)
        questions = []
        for place in range(max(map(len, (images, *lists.values()))) if images else 0):
            asked = {name: _at(values, place) for name, values in lists.items()}
            prompt = asked.pop("prompt")
            questions += [_question(asking, frame, prompt, asked) for frame in pictures.split(_at(images, place))]
        captions = [_as_text(answer) for answer in ask_all(asking, questions, parallel)]
        return captions, "\n".join(captions)


class Detect:
    """Places in pictures: drawn, as masks, and as data."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Finds things with a vision-server: boxes, corners of text, outlines, drawn and as masks."
    RETURN_TYPES = ("IMAGE", "MASK", "MASK", "STRING", "STRING", "INT")
    RETURN_NAMES = ("drawn", "mask", "object_masks", "labels", "json", "count")
    OUTPUT_TOOLTIPS = (
        "The pictures with the places and their labels drawn in.",
        "A mask for each picture: all its places together.",
        "A mask for each place, picture after picture. One black mask where nothing is found.",
        "The label of each place, a line each, in the order of object_masks.",
        "The server's answers, unchanged: a JSON list with one for each picture.",
        "How many places there are.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        words = "Keep only what has one of these words in its label, with commas between: car, bus. Empty: all."
        parallel = {"default": 8, "min": 1, "max": 64, "tooltip": "So many pictures are at the server at a time."}
        return _inputs(
            "image",
            with_places=True,
            only_labels=("STRING", {"default": "", "tooltip": words}),
            parallel=("INT", parallel),
        )

    @classmethod
    def VALIDATE_INPUTS(cls, prompt: object) -> bool:
        return True

    def run(
        self,
        image: torch.Tensor,
        prompt: str,
        server: str = "",
        api_key: str = "",
        only_labels: str = "",
        parallel: int = 8,
        **asked: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, str, str, int]:
        frames = pictures.split(image)
        if not frames:  # there is no IMAGE, and no mask, of no picture
            raise VisionServerError("This batch holds no picture.")
        asking = Server(server, api_key)
        answers = ask_all(asking, [_question(asking, frame, prompt, asked) for frame in frames], parallel)
        found = [places.only(places.read(answer), only_labels) for answer in answers]
        size = (image.shape[2], image.shape[1])
        drawn = [places.draw(pictures.to_pil(frame), each) for frame, each in zip(frames, found, strict=True)]
        every = [place for each in found for place in each]
        return (
            torch.stack([pictures.to_tensor(picture) for picture in drawn]),
            torch.stack([pictures.to_tensor(places.mask(each, size)) for each in found]),
            torch.stack([pictures.to_tensor(places.mask(one, size)) for one in ([[p] for p in every] or [[]])]),
            "\n".join(" ".join(place.label.split()) for place in every),
            json.dumps(answers, ensure_ascii=False),
            len(every),
        )


class Unload:
    """Gives the server's GPU memory back, say before the sampler runs."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Makes a vision-server give its GPU memory back now. What goes through it is left as it is."
    RETURN_TYPES = (_ANY, "STRING")
    RETURN_NAMES = ("after", "state")
    FUNCTION = "run"
    OUTPUT_NODE = True
    _BUSY: ClassVar[list[str]] = ["finish its queue first", "leave it loaded"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        after = {"tooltip": "What must be there before the server unloads, say the captions; it goes on unchanged."}
        when = {"default": cls._BUSY[0], "tooltip": "What to do while the server works for somebody."}
        return {
            "required": {},
            "optional": {"after": (_ANY, after), "when_busy": (cls._BUSY, when), **_SERVER_INPUTS},
        }

    @classmethod
    def IS_CHANGED(cls, **given: Any) -> float:
        """Alone it runs each time, since NaN equals nothing. After others it runs when they do: what comes behind it
        would else be made again each time."""
        return 0.0 if "after" in given else float("nan")

    def run(self, after: Any = None, when_busy: str = _BUSY[0], server: str = "", api_key: str = "") -> tuple[Any, str]:
        asking = Server(server, api_key)
        force = "?force=1" if when_busy == self._BUSY[0] else ""
        try:
            [status] = ask_all(asking, [partial(asking.call, f"/unload{force}", {})], 1)
        except Refused as error:
            if error.status != 409 or force:
                raise
            return after, "busy"
        if not isinstance(status, Mapping):
            raise asking.foreign()
        return after, str(status.get("state", ""))


def _question(server: Server, frame: torch.Tensor, prompt: str, asked: Mapping[str, Any]) -> Callable[[], Any]:
    """The call for one picture [H, W, C]; the file is made when it is called, so that few are in memory at a time."""
    options = {name: asked[name] for name in ("num_beams", "max_new_tokens") if asked.get(name)}
    fields = {
        "prompt": asked.get("other_prompt", "").strip() or prompt,
        "text_input": asked.get("text_input", ""),
        "region": asked.get("region", ""),
        "options": options,
        "model": asked.get("model", "").strip() or None,
    }

    def ask() -> Any:
        image = base64.b64encode(pictures.encode(frame)).decode()
        answered = server.call_patiently("/process_image", {"image": image, **fields})
        if not isinstance(answered, Mapping) or not isinstance(result := answered.get("result"), str | dict):
            raise server.foreign()
        return result

    return ask


def _as_text(answer: object) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _at(values: Sequence[Any], place: int) -> Any:
    return values[min(place, len(values) - 1)]

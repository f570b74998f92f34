"""Triton's real client, and how tests write what it sends. Not a test."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import tritonclient.http as triton

IMAGE, TASK, TEXT = "INPUT_IMAGE", "TASK_PROMPT", "TEXT_PROMPT"


def tensor(name: str, *elements: bytes, binary: bool = True) -> Any:
    """BYTES of shape [n, 1]."""
    data = np.array(elements, object).reshape(-1, 1)
    return triton.InferInput(name, list(data.shape), "BYTES").set_data_from_numpy(data, binary_data=binary)


def batch(pictures: list[bytes], prompt: bytes = b"<FAKE>", *texts: bytes, binary: bool = True) -> list[Any]:
    """One prompt about each of these; in JSON they go as base64."""
    images = pictures if binary else [base64.b64encode(picture) for picture in pictures]
    inputs = [tensor(IMAGE, *images, binary=binary), tensor(TASK, *[prompt] * len(images), binary=binary)]
    return [*inputs, tensor(TEXT, *texts, binary=binary)] if texts else inputs


def answers(result: Any) -> list[dict[str, Any]]:
    """What was said about each picture, by prompt."""
    return [json.loads(text) for text in result.as_numpy("PARSED_JSON").reshape(-1)]

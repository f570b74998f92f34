"""The bodies of KServe's inferences: what is read, what is refused, and that what is written can be read again."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from tests.triton import IMAGE, TASK, TEXT, batch
from vision_server.api.tensors import MAX_BATCH, Inference, read_inference, text_of, write_inference
from vision_server.errors import BadRequest, VisionError

IMAGES, PROMPTS = ["AAAA"], ["<OD>"]


def one(name: Any, **changed: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": ["x"], **changed}


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def elements(*data: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in data)


def behind(data: bytes, size: Any, shape: Any = (1, 1), after: bytes = b"") -> tuple[bytes, str]:
    """The image behind the JSON, the prompt in it."""
    image = {"name": IMAGE, "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    head = body(image, one(TASK, shape=[shape[0], 1], data=["x"] * shape[0]))
    return head + data + after, str(len(head))


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.text(max_size=9))
def test_what_tritons_client_writes_is_read(pictures: list[bytes], said_id: str) -> None:
    texts = [bytes(reversed(picture)) for picture in pictures]
    written, size = triton.InferenceServerClient.generate_request_body(
        batch(pictures, b"<OD>", *texts), request_id=said_id
    )
    read = read_inference(written, str(size))
    assert (read.inputs[IMAGE], read.inputs[TEXT]) == (pictures, texts)
    assert read.inputs[TASK] == [b"<OD>"] * len(pictures) == [b"<OD>"] * read.pictures
    assert (read.id, read.binary) == (said_id or None, True)


@given(st.lists(st.text(), min_size=1, max_size=5), st.booleans(), st.text(max_size=9) | st.none())
def test_what_is_written_tritons_client_reads(said: list[str], binary: bool, said_id: str | None) -> None:
    said = [text.encode("utf-8", "replace").decode() for text in said]
    written, size = write_inference("toy", Inference(said_id, {}, {}, binary), said)
    result = triton.InferenceServerClient.parse_response_body(written, header_length=size)
    found = [one.decode() if binary else str(one) for one in result.as_numpy("PARSED_JSON").reshape(-1)]
    assert found == said
    assert result.get_response().get("id") == said_id


def asking(parameters: dict[str, Any]) -> bytes:
    """With these parameters of the output."""
    return body(one(IMAGE), one(TASK), outputs=[{"name": "PARSED_JSON", "parameters": parameters}])


WRONG: list[tuple[bytes, str | None, str]] = [
    (b"", None, "JSON"),
    (b"[]", None, "object"),
    (b"{}", None, "inputs"),
    (body(), None, "inputs"),
    (body(7, 8), None, "inputs"),
    (body(one(IMAGE)), None, TASK),
    (body(one(IMAGE), one(IMAGE), one(TASK)), None, "once"),
    (body(one(IMAGE), one(TASK), one("REGION")), None, TEXT),
    (body(one(IMAGE), one(TASK), one(["x"])), None, TEXT),
    (body(one(IMAGE), one(TASK), one(TEXT), one(TEXT)), None, TEXT),
    (body(one(IMAGE, datatype="UINT8"), one(TASK)), None, "BYTES"),
    (body(one(IMAGE, datatype=None), one(TASK)), None, "BYTES"),
    *(
        (body(one(IMAGE, shape=shape), one(TASK)), None, "[n, 1]")
        for shape in (None, 1, [], [1], [1, 2], [1, 1, 1], [0, 1], [-1, 1], [MAX_BATCH + 1, 1], [10**30, 1], ["1", 1])
    ),
    (body(one(IMAGE, shape=[True, 1]), one(TASK)), None, "[n, 1]"),
    (body(one(IMAGE, shape=[1.5, 1]), one(TASK)), None, "[n, 1]"),
    *(
        (body(one(IMAGE, data=data), one(TASK)), None, "list of texts")
        for data in (None, "x", [], ["x", "y"], [7], [None], [[["x"]]], [["x", "y"]], {"0": "x"})
    ),
    (body(one(IMAGE, shape=[2, 1], data=["x", "y"]), one(TASK)), None, f"{IMAGE} has 2, {TASK} has 1"),
    (body(one(IMAGE, parameters=[]), one(TASK)), None, "parameters"),
    (body(one(IMAGE, parameters={"shared_memory_region": "r"}), one(TASK)), None, "shared memory"),
    (body(one(IMAGE, parameters={"binary_data_size": 1}), one(TASK)), None, "one of them"),
    (body(one(IMAGE), one(TASK), id=7), None, "id"),
    (body(one(IMAGE), one(TASK), id="x" * 1025), None, "id"),
    (body(one(IMAGE), one(TASK), parameters=7), None, "parameters"),
    (body(one(IMAGE), one(TASK), parameters={"binary_data_output": "yes"}), None, "true or false"),
    (body(one(IMAGE), one(TASK), outputs=7), None, "outputs"),
    (body(one(IMAGE), one(TASK), outputs=[7]), None, "outputs"),
    (body(one(IMAGE), one(TASK), outputs=[{"name": "TEXT"}]), None, "PARSED_JSON"),
    (body(one(IMAGE), one(TASK), outputs=[{"name": "PARSED_JSON"}] * 2), None, "once"),
    (asking({"classification": 3}), None, "classes"),
    (asking({"binary_data": 1}), None, "true or false"),
    (asking({"shared_memory_region": "r"}), None, "shared memory"),
    *((body(one(IMAGE), one(TASK)), said, "Content-Length") for said in ("", "x", "-1", "0", "+9", "9" * 9, "9" * 99)),
    (body(one(IMAGE), one(TASK)), "10", "JSON"),
    (body(one(IMAGE), one(TASK)) + b"more", str(len(body(one(IMAGE), one(TASK)))), "4 bytes at the end"),
    (*behind(elements(b"abc"), 8), "binary_data_size"),
    (*behind(elements(b"abc"), -1), "binary_data_size"),
    (*behind(elements(b"abc"), True), "binary_data_size"),
    (*behind(elements(b"abc"), "7"), "binary_data_size"),
    (*behind(elements(b"abc"), 10**30), "binary_data_size"),
    (*behind(elements(b"abc"), 6), "not 1 elements"),
    (*behind(elements(b"abc"), 0), "not 1 elements"),
    (*behind(elements(b"abc") + b"\0\0", 9), "not 1 elements"),
    (*behind(struct.pack("<I", 0xFFFFFFFF) + b"abc", 7), "not 1 elements"),
    (*behind(elements(b"abc"), 7, (2, 1)), "not 2 elements"),
    (*behind(elements(b"abc", b"d"), 12, (1, 1)), "not 1 elements"),
    (*behind(elements(b"abc"), 7, after=b"x"), "1 bytes at the end"),
    (behind(elements(b"abc"), 7)[0], None, "JSON"),
]


@pytest.mark.parametrize(("written", "length", "words"), WRONG)
def test_what_is_wrong_is_said(written: bytes, length: str | None, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_inference(written, length)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


def test_the_largest_batch_is_read() -> None:
    inputs = [one(name, shape=[MAX_BATCH, 1], data=["x"] * MAX_BATCH) for name in (IMAGE, TASK)]
    assert read_inference(body(*inputs), None).pictures == MAX_BATCH


SOUND, LENGTH = behind(elements(b"abc"), 7)


@given(st.integers(0, len(SOUND) - 1), st.binary(max_size=3), st.sampled_from([None, LENGTH, "7"]))
def test_a_damaged_body_is_read_or_refused(at: int, put: bytes, length: str | None) -> None:
    """Never anything else than our own error."""
    try:
        read_inference(SOUND[:at] + put + SOUND[at + 1 :], length)
    except VisionError:
        return


def test_text_is_utf8() -> None:
    assert text_of(TASK, "<OD>") == text_of(TASK, b"<OD>") == "<OD>"
    with pytest.raises(BadRequest, match=TASK):
        text_of(TASK, b"\xff")

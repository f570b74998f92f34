"""The body of a KServe v2 inference: bytes -> what is asked of each picture, and answers -> bytes. No queue.

Tensors are of BYTES, with shape [n, 1]: n pictures. Each is written in the JSON, or behind it as Triton's binary tensor
extension has it: every element with its length before it, in four bytes, the lowest first.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest
from .bodies import parse_json

VERSION = "1"  # the only one that a model has here
IMAGE, TASK, TEXT = INPUTS = ("INPUT_IMAGE", "TASK_PROMPT", "TEXT_PROMPT")
OPTIONAL = (TEXT,)
OUTPUT = "PARSED_JSON"
DATATYPE = "BYTES"
JSON_LENGTH = "Inference-Header-Content-Length"
MAX_BATCH = 64  # pictures of one request, which is held by the limits on requests as one
MAX_ID_CHARS = 1024
_LENGTH = struct.Struct("<I")
_EXAMPLE = '{"inputs": [{"name": "INPUT_IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": ["<base64>"]}, ...]}'


@dataclass(frozen=True)
class Inference:
    """What is asked: the elements of each input, one for each picture, as they came: bytes, or text in JSON."""

    id: str | None
    inputs: Mapping[str, Sequence[bytes | str]]
    parameters: Mapping[str, Any]
    binary: bool  # the answers are wanted behind the JSON

    @property
    def pictures(self) -> int:
        return len(self.inputs[IMAGE])


def read_inference(body: bytes, json_length: str | None) -> Inference:
    """`json_length` is the header of that name. Raises BadRequest."""
    size = len(body) if json_length is None else _size_of_json(json_length, len(body))
    fields = parse_json(body[:size], _EXAMPLE)
    said_id, parameters = fields.get("id"), _parameters(fields, "the request")
    if said_id is not None and (not isinstance(said_id, str) or len(said_id) > MAX_ID_CHARS):
        raise BadRequest(f"id must be a text of {MAX_ID_CHARS:,} characters at most.")
    return Inference(said_id, _inputs(fields.get("inputs"), memoryview(body)[size:]), parameters, _binary(fields))


def text_of(name: str, element: bytes | str) -> str:
    """Raises BadRequest for what is not UTF-8."""
    try:
        return element if isinstance(element, str) else element.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{name} must be text in UTF-8.") from None


def write_inference(model: str, asked: Inference, answers: Sequence[str]) -> tuple[bytes, int | None]:
    """The body, and how much of it is JSON, where something stands behind that."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": DATATYPE, "shape": [len(answers), 1]}
    behind = b""
    if asked.binary:
        behind = b"".join(_LENGTH.pack(len(data)) + data for data in (answer.encode() for answer in answers))
        output["parameters"] = {"binary_data_size": len(behind)}
    else:
        output["data"] = list(answers)
    named = {"model_name": model, "model_version": VERSION, **({} if asked.id is None else {"id": asked.id})}
    head = json.dumps({**named, "outputs": [output]}, ensure_ascii=False).encode()
    return head + behind, len(head) if asked.binary else None


def _size_of_json(said: str, body_bytes: int) -> int:
    if not re.fullmatch("[0-9]{1,10}", said) or not 0 < int(said) <= body_bytes:
        raise BadRequest(f"{JSON_LENGTH} must be the bytes of JSON at the beginning of the body, 1 to {body_bytes}.")
    return int(said)


def _inputs(tensors: object, behind: memoryview) -> dict[str, Sequence[bytes | str]]:
    """What is `behind` the JSON belongs to the inputs in their order, and to nothing else."""
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise BadRequest(f"inputs must be a list of objects, such as {_EXAMPLE}.")
    names = [tensor.get("name") for tensor in tensors]
    if sorted(map(str, names)) not in (sorted(INPUTS), sorted({*INPUTS} - {*OPTIONAL})):
        raise BadRequest(f"inputs must be {IMAGE} and {TASK}, and {TEXT} where the prompt takes a text: each once.")
    inputs: dict[str, Sequence[bytes | str]] = {}
    for name, tensor in zip(names, tensors, strict=True):
        inputs[name], behind = _elements(name, tensor, behind)
    if behind:
        raise BadRequest(f"{len(behind):,} bytes at the end of the body belong to no input.")
    counts = {name: len(elements) for name, elements in inputs.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise BadRequest(f"Every input must have one element for each picture, but {said}.")
    return inputs


def _elements(name: str, tensor: Mapping[str, Any], behind: memoryview) -> tuple[Sequence[bytes | str], memoryview]:
    """The elements of one tensor, and what is behind its own."""
    if tensor.get("datatype") != DATATYPE:
        raise BadRequest(f"The datatype of {name} must be {DATATYPE}.")
    count = _count(name, tensor.get("shape"))
    size, data = _parameters(tensor, name).get("binary_data_size"), tensor.get("data")
    if size is None:
        return _in_json(name, data, count), behind
    if data is not None:
        raise BadRequest(f"{name} has both data and a binary_data_size: send one of them.")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(behind):
        raise BadRequest(
            f"The binary_data_size of {name} must be the number of its bytes; {len(behind):,} are left for it behind "
            f"the JSON, whose length the header {JSON_LENGTH} says."
        )
    return _in_binary(name, behind[:size], count), behind[size:]


def _count(name: str, shape: object) -> int:
    match shape:
        case [int(count), 1] if not isinstance(count, bool) and 1 <= count <= MAX_BATCH:
            return count
    raise BadRequest(f"The shape of {name} must be [n, 1], with n from 1 to {MAX_BATCH}.")


def _in_json(name: str, data: object, count: int) -> Sequence[str]:
    """Written flat, or as rows of one."""
    rows = data if isinstance(data, list) else []
    flat = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    if len(flat) != count or not all(isinstance(element, str) for element in flat):
        raise BadRequest(f"The data of {name} must be a list of texts, as many as its shape says: {count}.")
    return flat


def _in_binary(name: str, data: memoryview, count: int) -> Sequence[bytes]:
    elements: list[bytes] = []
    at = 0
    while len(elements) < count and at + _LENGTH.size <= len(data):
        [size] = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + size
        if at <= len(data):
            elements.append(bytes(data[at - size : at]))
    if at != len(data) or len(elements) != count:
        raise BadRequest(
            f"The bytes of {name} are not {count} elements, as its shape says, each with its length before it in four "
            "bytes, the lowest first."
        )
    return elements


def _binary(fields: Mapping[str, Any]) -> bool:
    """Whether the one output goes behind the JSON: as it says itself, or else the request; or in the JSON."""
    outputs = [] if fields.get("outputs") is None else fields["outputs"]
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise BadRequest("outputs must be a list of objects, or left out.")
    if [one.get("name") for one in outputs] not in ([], [OUTPUT]):
        raise BadRequest(f"The only output there is is {OUTPUT}: ask for it once, or leave outputs out.")
    binary = _parameters(fields, "the request").get("binary_data_output", False)
    for one in outputs:
        parameters = _parameters(one, OUTPUT)
        if parameters.get("classification"):
            raise BadRequest(f"{OUTPUT} is text, which has no classes: ask without classification.")
        binary = parameters.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise BadRequest("binary_data and binary_data_output must be true or false.")
    return binary


def _parameters(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    parameters = of.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"The parameters of {name} must be an object.")
    if any(key.startswith("shared_memory") for key in parameters):
        raise BadRequest("There is no shared memory here: send the tensors themselves.")
    return parameters

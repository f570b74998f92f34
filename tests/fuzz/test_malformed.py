"""Bodies and queries that are not what they say: an answer or a 4xx in our form, never a 5xx, never a hang."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.daemon_process import GIF, Daemon
from tests.fuzz.conftest import Start
from tests.fuzz.wire import assert_refused, request, send
from vision_server.api.fields import FIELDS, LOOKING, OPTIONS

BASE64 = base64.b64encode(GIF).decode()
NAMES = sorted({"image", *FIELDS, *OPTIONS})
FORM = "Content-Type: multipart/form-data; boundary=xyz"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
CUTS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=8)), min_size=1, max_size=4)
EXAMPLES = settings(max_examples=50, deadline=None)


@pytest.fixture(scope="module")
def daemon(start: Start) -> Daemon:
    return start()


def answered(daemon: Daemon, target: str, body: bytes | None, *headers: str) -> int:
    """The status of POST `target`, or of GET without a body. What is not 200 is a refusal as it should be."""
    answer = send(daemon, request("GET" if body is None else "POST", target, body, *headers))
    assert answer is not None
    if answer.status != 200:
        assert_refused(answer)
    return answer.status


def torn(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in cuts:
        at %= len(data) + 1
        data = data[:at] + new + data[at + length :]
    return data


@EXAMPLES
@given(JSON)
def test_any_json(daemon: Daemon, value: Any) -> None:
    assert answered(daemon, "/process_image", json.dumps(value).encode()) != 200


@EXAMPLES
@given(st.dictionaries(st.sampled_from([name for name in NAMES if name != "image"]), JSON, max_size=5))
def test_fields_of_any_type(daemon: Daemon, fields: dict[str, Any]) -> None:
    answered(daemon, "/process_image", json.dumps({"image": BASE64, **fields}).encode())


@EXAMPLES
@given(
    st.dictionaries(st.sampled_from(sorted(OPTIONS)) | st.text(max_size=9), JSON, min_size=1, max_size=5), st.booleans()
)
def test_options_of_any_type(daemon: Daemon, options: dict[str, Any], as_text: bool) -> None:
    given_as = json.dumps(options) if as_text else options
    answered(daemon, "/process_image", json.dumps({"image": BASE64, "options": given_as}).encode())


@EXAMPLES
@given(CUTS)
def test_torn_json(daemon: Daemon, cuts: list[tuple[int, int, bytes]]) -> None:
    body = json.dumps({"image": BASE64, "prompt": "CAPTION", "region": [1, 2, 3, 4], "options": {"num_beams": 3}})
    answered(daemon, "/process_image", torn(body.encode(), cuts))


@pytest.mark.parametrize(
    "body",
    [
        b"{" * 200_000,
        b'{"image":' * 50_000,
        b'{"image": ' + b"9" * 100_000 + b"}",
        b'{"image": 1e999999999}',
        b'{"image": "' + BASE64.encode() + b'", "num_beams": 1' + b"0" * 5000 + b"}",
        b'{"image": "x", "image": "' + BASE64.encode() + b'", "prompt": 5}',
        b'\xef\xbb\xbf{"image": "' + BASE64.encode() + b'", "prompt": 5}',
        '{"image": "x"}'.encode("utf-16"),
        '{"image": "x"}'.encode("utf-32"),
        b'{"image": "\\ud800"}',
        b'{"image": "\xff\xfe"}',
        b'{"image": "' + b"\\u0000" * 1000 + b'"}',
        b'{"image": "' + BASE64.encode() + b'", "options": "' + b"[" * 100_000 + b'"}',
        b'{"image": "' + BASE64.encode() + b'", "keep_alive": "' + b"9" * 100_000 + b'h"}',
        b'{"image": "' + BASE64.encode() + b'", "keep_alive": "' + b"1h" * 50_000 + b'x"}',
        b'{"image": "' + BASE64.encode() + b'", "region": "' + b"1," * 50_000 + b'"}',
        b'{"image": "' + BASE64.encode() + b'", "model": "' + b"../" * 30_000 + b'"}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_json_that_is_made_to_hurt(daemon: Daemon, body: bytes) -> None:
    assert answered(daemon, "/process_image", body) != 200


HEADS = (
    "",
    "data:image/gif;base64,",
    "data:;base64,",
    "DATA:a/b;x=y;BASE64,",
    "data:,",
    "data:base64,",
    "data:;base64",
)


@EXAMPLES
@given(st.sampled_from(HEADS) | st.from_regex(r"\A[a-z]{1,8}:[ -~]{0,12}"), st.text(max_size=40), CUTS)
@example("", "\0", [])
@example("data:" + ";" * 300 + ",", "", [])
def test_base64_and_data_uris(daemon: Daemon, head: str, tail: str, cuts: list[tuple[int, int, bytes]]) -> None:
    text = head + torn(BASE64.encode(), cuts).decode("latin-1") + tail
    answered(daemon, "/process_image", json.dumps({"image": text}).encode())


DISPOSITIONS = st.one_of(
    st.sampled_from(NAMES).map(lambda name: f'Content-Disposition: form-data; name="{name}"'),
    st.sampled_from(
        [
            "Content-Disposition: form-data",
            "Content-Disposition: form-data; name=",
            'Content-Disposition: form-data; name="image"; filename="a.gif"',
            'Content-Disposition: form-data; name="image"; filename="../../etc/passwd\0"',
            "Content-Disposition: form-data; name*=utf-8''%69mage",
            'Content-Disposition: attachment; name="image"',
            'Content-Disposition: form-data; name="image',
            "content-disposition:form-data;name=image",
            "X-Other: 1",
            "no colon at all",
            "",
        ]
    ),
)
MORE = st.sampled_from(
    [
        "",
        "Content-Type: text/plain; charset=utf-16",
        "Content-Type: text/plain; charset=nonsense",
        "Content-Type: multipart/mixed; boundary=inner",
        "Content-Type: multipart/form-data; boundary=xyz",
        "Content-Transfer-Encoding: base64",
        "Content-Transfer-Encoding: quoted-printable",
        "Content-Transfer-Encoding: nonsense",
        "Content-Encoding: gzip",
        "Content-Length: 5",
        "Content-Length: -1",
        "X: " + "y" * 9000,
    ]
)
VALUES = st.sampled_from([GIF, BASE64.encode(), b"CAPTION", b"", b"\r\n", b"--xyz", b"\xff\xfe", b"{}"]) | st.binary(
    max_size=30
)
PARTS = st.lists(st.tuples(DISPOSITIONS, MORE, VALUES), max_size=4)


def form(parts: list[tuple[str, str, bytes]]) -> bytes:
    body = b""
    for disposition, more, value in parts:
        lines = [line for line in (disposition, more) if line]
        body += b"--xyz\r\n" + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + value + b"\r\n"
    return body + b"--xyz--\r\n"


@EXAMPLES
@given(PARTS, CUTS | st.just([]))
def test_forms(daemon: Daemon, parts: list[tuple[str, str, bytes]], cuts: list[tuple[int, int, bytes]]) -> None:
    answered(daemon, "/process_image", torn(form(parts), cuts), FORM)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=" + "x" * 200,
        "multipart/form-data; boundary=xyz; charset=nonsense",
        "multipart/form-data; boundary=xyz; boundary=abc",
        "multipart/form-data; boundary=\xe4\xff",
        "multipart/mixed; boundary=xyz",
        "MULTIPART/FORM-DATA; BOUNDARY=xyz",
        "multipart/form-data boundary=xyz",
        "application/x-www-form-urlencoded",
        "application/json; charset=nonsense",
        "a" * 5000,
        "/",
        "",
    ],
)
def test_types_that_are_wrong(daemon: Daemon, content_type: str) -> None:
    part = ('Content-Disposition: form-data; name="image"; filename="a"', "", GIF)
    for body in (form([part]), json.dumps({"image": BASE64}).encode(), GIF, b"image=" + BASE64.encode()):
        answered(daemon, "/process_image", body, f"Content-Type: {content_type}")


QUERY_NAMES = sorted({*FIELDS, *OPTIONS, *LOOKING})
URL_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=30)
PAIRS = st.tuples(st.sampled_from(QUERY_NAMES), st.text(max_size=15).map(lambda text: quote(text, safe="")) | URL_TEXT)


@EXAMPLES
@given(st.lists(PAIRS.map("=".join) | URL_TEXT, max_size=4).map("&".join))
@example("model=%00&model=%ff&all=%zz")
@example("&".join(["all=1"] * 1000))
def test_queries(daemon: Daemon, query: str) -> None:
    answered(daemon, f"/process_image?{query}", GIF)
    for path in ("/prompts", "/status", "/model", "/health"):
        answered(daemon, f"{path}?{query}", None)


def test_it_is_still_there(daemon: Daemon) -> None:
    """After all of the above, when the tests run in their order."""
    status = daemon.call("/status")[1]
    assert (status["restarts"], status["queue_depth"], status["in_flight"]) == (0, 0, 0)
    assert daemon.caption("")[0] == 200

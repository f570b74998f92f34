"""Frames survive any cutting of the stream; anything else is a ProtocolError at once."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.worker import protocol
from vision_server.worker.protocol import (
    Cancel,
    Decoder,
    Done,
    Failed,
    Frame,
    Hello,
    Options,
    Progress,
    ProtocolError,
    Ready,
    Run,
    Stop,
    encode,
)

texts = st.text(st.characters(), max_size=40)
numbers = st.integers(0, 2**40)
options = st.builds(Options, num_beams=st.integers(1, 8), max_new_tokens=st.none() | st.integers(1, 4096))
regions = st.none() | texts | st.tuples(*[st.floats(0, 1e6)] * 4)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, st.none() | texts, texts, max_batch=st.none() | st.integers(1, 64), token=st.none() | texts),
    st.builds(Ready, texts, texts, texts, numbers, numbers),
    st.builds(Progress, texts, numbers, numbers, numbers),
    st.builds(Run, numbers, texts, texts, texts, regions, options, st.binary(max_size=300)),
    st.builds(
        Done,
        *(numbers, texts, numbers, numbers, texts, numbers, numbers),
        *[st.floats(0, 1e6)] * 3,
        st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(Failed, numbers, texts, texts),
    st.builds(Cancel, numbers),
    st.builds(Stop),
)


@given(st.lists(frames, max_size=5), st.integers(1, 400))
def test_frames_survive_any_cut(sent: list[Frame], piece_bytes: int) -> None:
    stream = b"".join(map(encode, sent))
    decoder = Decoder()
    seen: list[Frame] = []
    for start in range(0, len(stream), piece_bytes):
        seen += decoder.feed(stream[start : start + piece_bytes])
    assert seen == sent
    assert not decoder.partial


@given(frames, st.data())
def test_a_frame_cut_short_is_waited_for(frame: Frame, data: st.DataObject) -> None:
    stream = encode(frame)
    cut = data.draw(st.integers(1, len(stream) - 1))
    decoder = Decoder()
    assert list(decoder.feed(stream[:cut])) == []
    assert decoder.partial
    assert list(decoder.feed(stream[cut:])) == [frame]


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_an_error_or_nothing_yet(junk: bytes) -> None:
    decoder = Decoder()
    try:
        assert list(decoder.feed(junk)) == []
    except ProtocolError:
        return
    assert b"vsw1".startswith(junk[:4])


@given(frames, st.data())
def test_a_flipped_byte_never_escapes_as_another_error(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(encode(frame))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        list(Decoder().feed(bytes(stream)))
    except ProtocolError:
        pass


def test_a_progress_bar_is_recognised_at_its_first_byte() -> None:
    with pytest.raises(ProtocolError, match="expected a frame"):
        list(Decoder().feed(b"L"))


@pytest.mark.parametrize(
    "lengths", [(protocol.MAX_HEADER_BYTES + 1, 0), (10, protocol.MAX_PAYLOAD_BYTES + 1), (2**32 - 1, 2**32 - 1)]
)
def test_oversize_is_refused_before_it_is_waited_for(lengths: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        list(Decoder().feed(struct.pack(">4sII", b"vsw1", *lengths)))


def test_the_sender_is_held_to_the_limit_too() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        encode(Failed(1, "internal", "x" * protocol.MAX_HEADER_BYTES))


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "Done"},
        {"kind": "Nonsense"},
        {"kind": "Cancel", "id": "1"},
        {"kind": "Cancel", "id": True},
        {"kind": "Cancel", "id": 1, "more": 2},
        {"kind": "Progress", "phase": 5},
        {"kind": ["Stop"]},
        {"id": 1},
        [1, 2],
        "Stop",
        None,
    ],
)
def test_a_header_that_is_no_frame_is_an_error(header: Any) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">4sII", b"vsw1", len(text), 0) + text))


def test_what_was_asked_or_answered_is_not_in_the_error() -> None:
    whole = encode(Done(1, "the secret text", 1, 1, "stop", 1, 1, 0.0, 0.0, 0.0))
    prefix, header = whole[:12], whole[12:]
    for broken in (header.replace(b'"text"', b'"texT"'), header.replace(b'", ', b'"; ')):
        with pytest.raises(ProtocolError, match="not a frame") as caught:
            list(Decoder().feed(prefix + broken))
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"


def test_a_payload_where_none_belongs_is_an_error() -> None:
    text = b'{"kind": "Stop"}'
    with pytest.raises(ProtocolError, match="no payload"):
        list(Decoder().feed(struct.pack(">4sII", b"vsw1", len(text), 3) + text + b"abc"))


def test_a_token_is_not_in_the_repr() -> None:
    assert "hf_secret" not in repr(Hello(None, "toy", repository="owner/name", token="hf_secret"))

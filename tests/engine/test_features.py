"""What is kept of pictures: looked at once, bounded by bytes, known by what the vision tower would see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.engine.conftest import Pair
from tests.tiny import picture
from vision_server.engine import Florence, Generation, Options
from vision_server.engine.config import PreprocessConfig
from vision_server.engine.features import DEFAULT_BYTES, Features, digest
from vision_server.engine.policy import CPU
from vision_server.engine.preprocess import to_rgb
from vision_server.errors import OutOfMemory

Rgb = NDArray[np.uint8]
OTHERWISE: tuple[dict[str, Any], ...] = (
    {"mean": (0.5, 0.5, 0.5)},
    {"std": (0.5, 0.5, 0.5)},
    {"rescale_factor": 1 / 127},
    {"height": 4, "width": 16},  # with the same bytes
)
ROW_BYTES = 3 * 5 * 4  # (3, 5) in float32
PROMPTS = ("What does the image describe?", "<GENERATE_TAGS>", "What is the text in the image?")
OPTIONS = Options(max_new_tokens=30)


class Toy:
    """A tower that describes a picture by its first value, and remembers how many it saw at a time."""

    def __init__(self, max_bytes: int) -> None:
        self.looks: list[list[int]] = []
        self.broken = False
        self.features = Features(self.look, PreprocessConfig(), max_bytes)

    def look(self, pictures: Sequence[Rgb]) -> Tensor:
        self.looks.append([int(one.flat[0]) for one in pictures])
        if self.broken:
            raise torch.OutOfMemoryError("no room")
        return torch.stack([torch.full((3, 5), float(one.flat[0])) for one in pictures])

    def ask(self, *names: int) -> list[int]:
        pictures = [np.full((4, 4, 3), name, np.uint8) for name in names]
        of = self.features.of(pictures, [self.features.key(one) for one in pictures])
        assert of.shape == (len(names), 3, 5)
        return [int(value) for value in of[:, 0, 0]]


def test_each_picture_is_looked_at_once_and_the_new_ones_together() -> None:
    toy = Toy(100 * ROW_BYTES)
    assert toy.ask(1, 2, 1) == [1, 2, 1]
    assert toy.ask(2, 3, 4, 3, 1) == [2, 3, 4, 3, 1]
    assert toy.ask(4, 1) == [4, 1]
    assert toy.looks == [[1, 2], [3, 4]]
    assert toy.features.nbytes == 4 * ROW_BYTES


def test_without_room_every_picture_is_looked_at() -> None:
    toy = Toy(0)
    assert toy.ask(1, 2, 1) == [1, 2, 1]
    assert toy.ask(1) == [1]
    assert toy.looks == [[1, 2, 1], [1]]
    assert toy.features.nbytes == 0


def test_those_not_asked_for_lately_make_room() -> None:
    toy = Toy(2 * ROW_BYTES + 1)
    toy.ask(1)
    toy.ask(2)
    toy.ask(1)
    toy.ask(3)
    assert toy.features.nbytes == 2 * ROW_BYTES
    toy.ask(1, 3)
    assert toy.looks == [[1], [2], [3]], "2 left, since 1 was asked for after it"
    toy.ask(2)
    assert toy.looks[3:] == [[2]]


def test_more_new_pictures_than_there_is_room_for() -> None:
    toy = Toy(2 * ROW_BYTES)
    assert toy.ask(1, 2, 3, 4) == [1, 2, 3, 4]
    assert toy.features.nbytes == 2 * ROW_BYTES
    assert toy.ask(5, 3, 4) == [5, 3, 4], "what is asked for together is not driven out by its own neighbours"
    assert toy.looks == [[1, 2, 3, 4], [5]]
    small = Toy(ROW_BYTES - 1)
    assert small.ask(1) == small.ask(1) == [1]
    assert (len(small.looks), small.features.nbytes) == (2, 0)


def test_what_is_kept_holds_no_more_memory_than_is_counted() -> None:
    toy = Toy(ROW_BYTES)
    toy.ask(1, 2, 3)
    [kept] = toy.features._kept.values()
    assert kept.untyped_storage().nbytes() == toy.features.nbytes == ROW_BYTES


def test_a_look_that_fails_leaves_nothing_behind_and_what_was_there_stays() -> None:
    toy = Toy(100 * ROW_BYTES)
    toy.ask(1)
    toy.broken = True
    with pytest.raises(torch.OutOfMemoryError):
        toy.ask(1, 2)
    assert toy.features.nbytes == ROW_BYTES
    assert toy.ask(1) == [1]
    toy.broken = False
    assert toy.ask(2) == [2]
    assert toy.looks == [[1], [2], [2]]


def test_cleared_it_looks_again() -> None:
    toy = Toy(100 * ROW_BYTES)
    toy.ask(1)
    toy.features.clear()
    assert toy.features.nbytes == 0
    toy.ask(1)
    assert toy.looks == [[1], [1]]


def test_the_key_is_what_the_tower_would_see() -> None:
    config = PreprocessConfig(height=8, width=8)
    one = to_rgb(picture(1, (8, 8)), config)
    other = one.copy()
    other[7, 7, 2] ^= 1
    keys = [
        digest(one, config),
        digest(other, config),
        digest(np.ascontiguousarray(one.transpose(1, 0, 2)), config),
        *(digest(one, replace(config, **otherwise)) for otherwise in OTHERWISE),
    ]
    assert len(set(keys)) == len(keys)
    assert digest(np.asfortranarray(one), config) == keys[0], "how it lies in memory does not matter"


class Counted:
    """How many pictures the vision tower of an engine sees, batch by batch."""

    def __init__(self, florence: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.broken = False
        look = florence.network.look

        def counting(pixels_BCHW: Tensor) -> Tensor:
            self.batches.append(len(pixels_BCHW))
            if self.broken:
                raise torch.OutOfMemoryError("no room")
            return look(pixels_BCHW)

        monkeypatch.setattr(florence.network, "look", counting)


@pytest.fixture
def keeping(pair: Pair) -> Florence:
    """The same network, keeping nothing yet of what other tests asked."""
    return another(pair, DEFAULT_BYTES)


def twin(pair: Pair) -> Florence:
    """The same network, keeping nothing."""
    return another(pair, 0)


def another(pair: Pair, feature_cache_bytes: int) -> Florence:
    """Takes up to eight requests in at once, as on a GPU, so that pictures are looked at together."""
    ours, policy = pair.ours, replace(CPU, admit_at_once=8)
    return Florence(
        ours.network, ours.config, ours.tokenizer, torch.device("cpu"), torch.float32, feature_cache_bytes, policy
    )


def ids(florence: Florence, asked: list[tuple[int, str]]) -> list[list[int]]:
    answers = florence.generate([(picture(seed), prompt) for seed, prompt in asked], max_new_tokens=30)
    return [answer.token_ids for answer in answers]


def test_answers_are_the_same_with_and_without(pair: Pair, keeping: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of several pictures and prompts: new, known and both in one step, twice in one step."""
    plain = twin(pair)
    rounds = [
        [(seed, PROMPTS[seed % 3]) for seed in range(4)],
        [(seed, PROMPTS[(seed + 1) % 3]) for seed in range(6)],
        [(0, PROMPTS[0]), (7, PROMPTS[0]), (0, PROMPTS[1]), (7, PROMPTS[2])],
        [(7, PROMPTS[1])],
    ]
    expected = [ids(plain, asked) for asked in rounds]
    assert plain.feature_bytes == 0
    counted = Counted(keeping, monkeypatch)
    assert [ids(keeping, asked) for asked in rounds] == expected
    assert counted.batches == [4, 2, 1], "the last round looks at nothing"
    row_bytes = keeping.image_tokens * keeping.config.text.d_model * 4
    assert keeping.feature_bytes == 7 * row_bytes


def test_off_looks_every_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = twin(pair)
    counted = Counted(plain, monkeypatch)
    ids(plain, [(1, PROMPTS[0]), (1, PROMPTS[1])])
    ids(plain, [(1, PROMPTS[0])])
    assert counted.batches == [2, 1]


def test_a_picture_of_another_size_is_another(keeping: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
    """And in another mode with the same colours it is the same."""
    counted = Counted(keeping, monkeypatch)
    for image in (picture(1), picture(1).convert("RGBA"), picture(1, (81, 60))):
        keeping.generate([(image, PROMPTS[0])], max_new_tokens=3)
    assert counted.batches == [1, 1]


def test_another_model_or_preprocess_never_hits(pair: Pair) -> None:
    """Two engines of one network that normalise otherwise: each answers as when it is asked for the first time."""
    config = replace(pair.ours.config, preprocess=replace(pair.ours.config.preprocess, mean=(0.1, 0.9, 0.4)))
    both = [twin(pair), Florence(pair.ours.network, config, pair.ours.tokenizer, torch.device("cpu"), torch.float32)]
    asked = [(seed, PROMPTS[0]) for seed in range(6)]
    plain, other = (ids(florence, asked) for florence in both)
    assert plain != other
    assert ids(pair.ours, asked) == plain
    assert ids(both[1], asked) == other
    images = [to_rgb(picture(1), florence.config.preprocess) for florence in (pair.ours, both[1])]
    assert digest(images[0], pair.ours.config.preprocess) != digest(images[1], config.preprocess)


def test_a_step_that_runs_out_of_memory_poisons_nothing(
    pair: Pair, keeping: Florence, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(1, PROMPTS[0]), (2, PROMPTS[1])]
    expected = ids(twin(pair), asked)
    counted = Counted(keeping, monkeypatch)
    counted.broken = True
    tickets = [keeping.submit(picture(seed), prompt, OPTIONS) for seed, prompt in asked]
    with pytest.raises(OutOfMemory):
        keeping.step()
    assert keeping.feature_bytes == 0
    counted.broken = False
    answers: dict[int, Generation] = {}
    while keeping.busy:
        answers.update(keeping.step())
    assert [answers[ticket].token_ids for ticket in tickets] == expected


def test_a_request_cancelled_before_or_after_its_picture_was_seen(
    pair: Pair, keeping: Florence, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ids(twin(pair), [(1, PROMPTS[0])])
    counted = Counted(keeping, monkeypatch)
    keeping.cancel(keeping.submit(picture(1), PROMPTS[1], OPTIONS))
    keeping.step()
    assert counted.batches == []
    seen = keeping.submit(picture(1), PROMPTS[1], OPTIONS)
    keeping.step()
    keeping.cancel(seen)
    assert ids(keeping, [(1, PROMPTS[0])]) == expected
    assert counted.batches == [1], "what was seen of it serves the next prompt"


def test_forgetting_gives_the_memory_up(keeping: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(keeping, monkeypatch)
    ids(keeping, [(1, PROMPTS[0])])
    assert keeping.feature_bytes > 0
    keeping.forget_features()
    assert keeping.feature_bytes == 0
    ids(keeping, [(1, PROMPTS[0])])
    assert counted.batches == [1, 1]

"""CIDEr-D against what the authors' published code says of the same words, and what must hold of any."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_server.evaluation.cider import cider

# Scores of CiderScorer(n=4, sigma=6.0) in pycocoevalcap 1.2, the published code as it is on the package index.
PUBLISHED = (
    ("a red car stands left of a tree", 3.829436463),
    ("two dogs run on the beach", 5.576477812),
    ("a man rides a horse", 1.050621524),
    ("a a a a a a", 0.080566368),
    ("", 0.0),
    ("the sign says open", 10.0),
    ("a small green house beside a lake with many boats and people", 0.536126428),
)
REFERENCES = (
    ("a red car stands beside a tree", "there is a red car on the left of a tall tree"),
    ("two dogs run on the beach", "dogs play on a beach at noon"),
    ("a woman rides a bicycle in the city",),
    ("a cat sleeps on a sofa", "a cat on a sofa"),
    ("a bird in the sky",),
    ("the sign says open",),
    ("a green house",),
)
TEXTS = st.text("ab c'.,", max_size=20)


def test_it_is_what_the_published_code_says() -> None:
    scores = cider([text for text, _ in PUBLISHED], REFERENCES)
    assert scores == pytest.approx([score for _, score in PUBLISHED], abs=1e-8)


def test_letter_case_and_punctuation_say_nothing() -> None:
    shouted = [f"{text.upper()}!" for text, _ in PUBLISHED]
    assert cider(shouted, REFERENCES) == cider([text for text, _ in PUBLISHED], REFERENCES)
    [same, other] = cider(["it\u2019s a dog's", "x"], [["IT\u2019S a, dog's"], ["y"]])
    assert same == pytest.approx(7.5)  # three words have no 4-gram
    assert other == 0.0


def test_of_a_single_picture_nothing_is_rare() -> None:
    assert cider(["a dog"], [["a dog"]]) == [0.0]
    assert cider([], []) == []
    with pytest.raises(ValueError, match="longer"):
        cider(["a"], [["a"], ["b"]])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_scores_are_between_0_and_10_and_follow_their_pictures(pictures: list[tuple[str, list[str]]]) -> None:
    scores = cider([said for said, _ in pictures], [true for _, true in pictures])
    assert all(-1e-9 <= score <= 10 + 1e-9 for score in scores)
    turned = pictures[::-1]
    assert cider([said for said, _ in turned], [true[::-1] for _, true in turned])[::-1] == pytest.approx(scores)

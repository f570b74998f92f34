"""Two runs side by side: the intervals, the files that they are read from, and how it is shown."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from vision_server import cli
from vision_server.errors import BadInput
from vision_server.evaluation import runs
from vision_server.evaluation.comparison import compare
from vision_server.evaluation.runs import Row, Run
from vision_server.evaluation.tables import comparison_table, table

QUESTIONS = 200


def captions(model: str, share_right: float, seed: int, count: int = QUESTIONS) -> Run:
    chance = random.Random(seed)
    rows = [
        Row(
            key=str(at),
            picture=f"{at // 2}.png",
            prompt="<CAPTION>",
            sentence="What does the image describe?",
            size=(64, 48),
            said=f"</s><s>thing number {at}</s>" if chance.random() < share_right else "nothing",
            true=(f"thing number {at}",),
        )
        for at in range(count)
    ]
    return Run({"model": model, "adapter": None}, tuple(rows))


def test_a_clear_difference_is_clear_and_none_is_not() -> None:
    weak, strong, other = captions("weak", 0.5, 1), captions("strong", 0.8, 2), captions("other", 0.5, 3)
    [exact, _] = compare(weak, strong).differences
    assert (exact.prompt, exact.name) == ("<CAPTION>", "exact")
    assert exact.low is not None
    assert exact.high is not None
    assert exact.low < exact.second - exact.first < exact.high
    # the standard error of this difference is that of two shares of 200: about 4.5 points
    assert 0.12 < exact.high - exact.low < 0.25
    assert exact.is_clear
    assert not compare(weak, other).differences[0].is_clear
    assert all((one.low, one.high) == (0.0, 0.0) for one in compare(weak, weak).differences)


def test_a_seed_gives_the_same_intervals_and_another_others() -> None:
    weak, strong = captions("weak", 0.5, 1), captions("strong", 0.8, 2)
    assert compare(weak, strong, 200, seed=5) == compare(weak, strong, 200, seed=5)
    assert compare(weak, strong, 200, seed=5) != compare(weak, strong, 200, seed=6)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of 60 pairs of runs whose true difference is 0.2, the interval must miss it in few: 95 % of 60 is 57."""
    held = 0
    for seed in range(60):
        pair = captions("a", 0.5, 2 * seed, 100), captions("b", 0.7, 2 * seed + 1, 100)
        exact = compare(*pair, 200).differences[0]
        assert exact.low is not None
        assert exact.high is not None
        held += exact.low <= 0.2 <= exact.high
    assert 52 <= held <= 60


def test_only_what_both_were_asked_is_compared() -> None:
    compared = compare(captions("a", 0.5, 1), captions("b", 0.5, 1, QUESTIONS - 20))
    assert (compared.questions, compared.left_out) == (QUESTIONS - 20, 20)
    assert "180 questions, 20 that only one was asked left out." in comparison_table(compared, "a", "b")
    with pytest.raises(BadInput, match="no question in common"):
        compare(captions("a", 0.5, 1), Run({"model": "b"}, ()))


def test_tables() -> None:
    weak, strong = captions("weak", 0.5, 1), captions("strong", 0.8, 2)
    shown = table(runs.figures(weak)).splitlines()
    assert [cell.strip() for cell in shown[0].split("|")] == ["", "prompt", "questions", "exact", "CIDEr", ""]
    assert len({len(line) for line in shown}) == 1
    assert "| strong" in comparison_table(compare(weak, strong), "weak", "strong").splitlines()[2]


def test_two_files_are_compared_without_asking_anybody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "weak.json", tmp_path / "strong.json"]
    for path, run in zip(paths, (captions("weak", 0.5, 1), captions("strong", 0.8, 2)), strict=True):
        runs.write(run, path)
        assert runs.read(path) == run
    assert json.loads(paths[0].read_text())["figures"]["<CAPTION>"]["questions"] == QUESTIONS
    assert cli.main(["evaluate", "--compare", *map(str, paths), "--resamples", "100"]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out
    assert out.count("strong") == 3, "the head, and two measures that are clear"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "model": "x", "answers": [{"key": "1"}]}', None])
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    assert cli.main(["evaluate", "--compare", str(path), str(path)]) == 1
    assert f"vision-server evaluate: {path} " in capsys.readouterr().err

"""Requests joining and leaving a running decode, refusals, and what an answer says of itself."""

from __future__ import annotations

import pytest

from tests.engine.conftest import Pair
from tests.tiny import EOS, picture
from vision_server.engine import Florence, Generation, Options
from vision_server.errors import BadOption, PromptTooLong

LONG = Options(max_new_tokens=60, no_repeat_ngram_size=3)
PROMPT = "What does the image describe?"


def solo(florence: Florence, seed: int, prompt: str, options: Options) -> Generation:
    ticket = florence.submit(picture(seed), prompt, options)
    while True:
        for done, answer in florence.step():
            assert done == ticket
            return answer


def long_running(florence: Florence, at_least: int) -> int:
    """A picture whose answer takes at least that many tokens."""
    for seed in range(100):
        if len(solo(florence, seed, PROMPT, LONG).token_ids) >= at_least:
            return seed
    raise AssertionError("no picture of this model is answered at length")


def test_a_request_joins_a_running_decode_and_both_equal_their_solo_runs(one_pair: Pair) -> None:
    florence = one_pair.ours
    first_seed, second = long_running(florence, 25), "<GENERATE_TAGS>"
    first_alone, second_alone = solo(florence, first_seed, PROMPT, LONG), solo(florence, 500, second, Options())
    first = florence.submit(picture(first_seed), PROMPT, LONG)
    while florence.new_tokens().get(first, 0) <= 10:
        assert florence.step() == []
    joined = florence.submit(picture(500), second, Options())
    answers = dict(florence.step())
    assert florence.new_tokens()[joined] == 1, "the newcomer has its first token"
    assert first in florence.new_tokens(), "while the first still runs"
    while florence.busy:
        answers.update(florence.step())
    assert answers[first].token_ids == first_alone.token_ids
    assert answers[joined].token_ids == second_alone.token_ids


def test_a_cancelled_request_leaves_and_its_neighbours_do_not_notice(one_pair: Pair) -> None:
    florence = one_pair.ours
    seeds = [long_running(florence, 20), 501, 502, 503]
    alone = [solo(florence, seed, PROMPT, LONG).token_ids for seed in seeds]
    tickets = [florence.submit(picture(seed), PROMPT, LONG) for seed in seeds]
    answers: dict[int, Generation] = {}
    while len(florence.new_tokens()) < len(tickets):
        answers.update(florence.step())
    waiting = florence.submit(picture(504), PROMPT, LONG)
    for ticket in (tickets[1], waiting, 10_000):
        florence.cancel(ticket)
    while florence.busy:
        answers.update(florence.step())
    kept = {tickets[n]: alone[n] for n in (0, 2, 3)}
    assert {ticket: answer.token_ids for ticket, answer in answers.items()} == kept


def test_many_come_and_go(one_pair: Pair) -> None:
    """Twenty requests, a new one every third step, with beams from 1 to 6: each equals its solo run."""
    florence = one_pair.ours
    options = [Options(num_beams=1 + n % 6, max_new_tokens=8 + 3 * (n % 7)) for n in range(20)]
    alone = [solo(florence, 600 + n, PROMPT, options[n]).token_ids for n in range(20)]
    tickets: list[int] = []
    answers: dict[int, Generation] = {}
    while len(tickets) < 20 or florence.busy:
        if len(tickets) < 20:
            tickets.append(florence.submit(picture(600 + len(tickets)), PROMPT, options[len(tickets)]))
        for _ in range(3):
            answers.update(florence.step())
    assert [answers[ticket].token_ids for ticket in tickets] == alone


def test_answers_come_in_the_order_of_the_requests(one_pair: Pair) -> None:
    asked = [(picture(seed), PROMPT) for seed in range(700, 706)]
    together = one_pair.ours.generate(asked)
    assert [one.token_ids for one in together] == [one_pair.ours.generate([one])[0].token_ids for one in asked]


def test_nothing_to_do_is_no_error(one_pair: Pair) -> None:
    assert one_pair.ours.generate([]) == []
    assert one_pair.ours.step() == []
    assert not one_pair.ours.busy


def test_what_an_answer_says_of_itself(one_pair: Pair) -> None:
    cut = one_pair.ours.generate([(picture(1), PROMPT)], max_new_tokens=5)[0]
    assert cut.finish_reason == "length"
    assert len(cut.token_ids) == 5
    assert cut.token_ids[0] == 0, "the first token is forced"
    assert cut.token_ids[-1] == EOS, "and so is the last"
    assert cut.prompt_tokens == len(one_pair.ours.tokenizer.encode(PROMPT))
    assert cut.encode_s > 0
    assert cut.generate_s > 0
    asked = [(picture(seed), PROMPT) for seed in range(6)]
    ended = one_pair.ours.generate(asked, num_beams=5, max_new_tokens=100)
    assert any(answer.finish_reason == "stop" for answer in ended)
    for answer in ended:
        assert "<s>" not in answer.text
        assert "</s>" not in answer.text
        assert "<pad>" not in answer.text
    assert any("<loc_" in answer.text for answer in ended), "location tokens stay in the text"


def test_a_prompt_beyond_the_position_table_is_refused(one_pair: Pair) -> None:
    florence = one_pair.ours
    room = florence.max_positions - florence.image_tokens - 2
    fits = "car" + " car" * (room - 1)
    assert len(florence.tokenizer.encode(fits)) == room + 2
    assert florence.generate([(picture(1), fits)], max_new_tokens=3)
    with pytest.raises(PromptTooLong, match=f"at most {room}"):
        florence.submit(picture(1), fits + " car")
    assert not florence.busy


@pytest.mark.parametrize(
    "options",
    [Options(max_new_tokens=0), Options(max_new_tokens=129), Options(num_beams=0), Options(no_repeat_ngram_size=-1)],
)
def test_options_out_of_range_are_refused(one_pair: Pair, options: Options) -> None:
    with pytest.raises(BadOption):
        one_pair.ours.submit(picture(1), PROMPT, options)


def test_the_longest_answer_fills_the_position_table(one_pair: Pair) -> None:
    """max_new_tokens defaults to 1024 cut to the table; its last position is reached without an overrun."""
    florence = one_pair.ours
    answers = florence.generate([(picture(seed), PROMPT) for seed in range(8)], no_repeat_ngram_size=0)
    assert max(len(answer.token_ids) for answer in answers) <= florence.max_positions
    full = florence.generate([(picture(1), PROMPT)], max_new_tokens=florence.max_positions)[0]
    assert full.token_ids[-1] == EOS


def test_dtypes(one_pair: Pair) -> None:
    """bfloat16 answers too, and nearly the same first tokens; an unknown dtype or device is refused."""
    half = Florence.load(one_pair.directory, device="cpu", dtype="bfloat16")
    assert (half.device, half.dtype) == ("cpu", "bfloat16")
    assert half.generate([(picture(1), PROMPT)], max_new_tokens=5)[0].token_ids[0] == 0
    with pytest.raises(BadOption):
        Florence.load(one_pair.directory, dtype="float8")
    with pytest.raises(BadOption):
        Florence.load(one_pair.directory, device="toaster")


def test_load_reports_its_progress(one_pair: Pair) -> None:
    heard: list[tuple[str, int, int]] = []
    Florence.load(one_pair.directory, device="cpu", progress=lambda *step: heard.append(step))
    done = [step[1] for step in heard]
    assert done == sorted(done)
    assert heard[-1][1] > 0.9 * heard[-1][2]

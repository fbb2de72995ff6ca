"""What a run will take, by those that ended."""

import pytest

from rayhost.front.speed import Speed


def learn(speed: Speed, prompt: int, answer: int, prefill_ns: int, decode_ns: int) -> None:
    first = 1000 + prompt * prefill_ns
    speed.learn(
        prompt=prompt,
        answer=answer,
        started_ns=1000,
        first_ns=first,
        ended_ns=first + (answer - 1) * decode_ns,
    )


def test_nothing_is_known_before_a_run_ended() -> None:
    speed = Speed()
    assert speed.run_ns(100, 100) == 0
    assert speed.expected(77) == 77


def test_a_run_takes_its_prompt_and_its_answer() -> None:
    speed = Speed()
    learn(speed, 100, 50, prefill_ns=1000, decode_ns=5000)
    assert speed.run_ns(200, 10) == pytest.approx(200 * 1000 + 10 * 5000)
    assert (speed.expected(77), speed.expected(20)) == (50, 20)


def test_answers_of_one_length_are_never_worse_than_that_and_others_are() -> None:
    speed = Speed()
    assert speed.at_worst(77) == 77
    for _ in range(50):
        learn(speed, 10, 40, 1, 1)
    assert speed.at_worst(77) == 40
    for n in range(100):
        learn(speed, 10, 60 if n % 2 else 20, 1, 1)
    assert 70 <= speed.at_worst(1000) <= 90
    assert speed.at_worst(50) == 50


def test_the_recent_past_counts_most() -> None:
    speed = Speed()
    for decode_ns in [1000] * 50 + [9000] * 50:
        learn(speed, 10, 11, 0, decode_ns)
    assert speed.run_ns(0, 1) == pytest.approx(9000, rel=0.05)


def test_an_answer_of_one_token_tells_nothing_of_decoding() -> None:
    speed = Speed()
    learn(speed, 10, 11, 100, 1000)
    learn(speed, 10, 1, 100, 1000)
    assert speed.run_ns(0, 1) == pytest.approx(1000)

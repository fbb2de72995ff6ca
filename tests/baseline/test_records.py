"""What is derived from a baseline's figures."""

import pytest

from rayhost.baseline.quiet import share
from rayhost.baseline.records import Row
from rayhost.baseline.tasks import PROMPT
from tests.baseline.figures import around, model


def test_the_limit_is_one_reading_of_the_weights_for_each_token() -> None:
    assert model().limit_tokens_s == pytest.approx(18e9 / 90e6)


def test_a_step_makes_a_token_for_each_sequence_or_takes_the_whole_prompt() -> None:
    generate = Row(2, "split", "generate", 8, 0, around(400))
    prefill = Row(2, "split", "prefill", 1, 0, around(400))
    assert generate.step_ms.median == pytest.approx(20)
    assert prefill.step_ms.median == pytest.approx(PROMPT / 400 * 1e3)


def test_the_fastest_row_is_found_whatever_its_threads() -> None:
    found = model().find("generate", 8, 1024)
    assert found is not None
    assert (found.threads, found.sequences, found.depth) == (2, 8, 1024)
    assert model().find("generate", 3) is None


def test_what_others_took_is_what_we_did_not() -> None:
    quiet = share(busy=15.0, ours=12.0, stolen=1.0, total=20.0)
    assert quiet.others == pytest.approx(0.15)
    assert quiet.stolen == pytest.approx(0.05)
    assert share(busy=9.9, ours=10.0, stolen=0.0, total=20.0).others == 0

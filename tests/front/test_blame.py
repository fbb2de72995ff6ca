"""When a request is held to be what workers die of."""

import pytest

from rayhost.front.blame import GUILTY, Death, Record


@pytest.mark.parametrize(
    ("deaths", "guilty"),
    [
        ([Death.CRASHED], False),
        ([Death.CRASHED] * 2, True),
        ([Death.HUNG] * 3, False),
        ([Death.HUNG] * 4, True),
        ([Death.KILLED] * 11, False),
        ([Death.KILLED] * 12, True),
        ([Death.CRASHED, Death.HUNG, Death.KILLED], False),
        ([Death.CRASHED, Death.HUNG, Death.HUNG], True),
        ([Death.REPLACED] * 100, False),
    ],
)
def test_deaths_add_up_by_how_likely_the_request_is_their_cause(
    deaths: list[Death], guilty: bool
) -> None:
    record = Record()
    for death in deaths[:-1]:
        record.begin()
        assert not record.convicted_by(death)
        record.lost(death)
    record.begin()
    assert record.convicted_by(deaths[-1]) == guilty
    record.lost(deaths[-1])
    assert (record.weight >= GUILTY) == guilty


@pytest.mark.parametrize(
    ("death", "suspect"),
    [(Death.REPLACED, False), (Death.KILLED, False), (Death.HUNG, True), (Death.CRASHED, True)],
)
def test_one_kill_from_outside_makes_nobody_a_suspect(death: Death, suspect: bool) -> None:
    record = Record()
    record.lost(death)
    assert record.suspect == suspect


def test_tokens_from_the_worker_that_has_it_clear_a_request() -> None:
    record = Record()
    record.lost(Death.CRASHED)
    record.begin()
    seen = []
    for tokens in (7, 1):
        record.got(tokens)
        seen.append(record.suspect)
    assert seen == [True, False]
    record.begin()  # what it got from another worker does not count
    record.lost(Death.HUNG)
    assert record.suspect


def test_no_steady_progress_between_crashes_lasts_for_ever() -> None:
    record, crashes = Record(), 1
    record.got(1000)
    while not record.convicted_by(Death.CRASHED):
        record.lost(Death.CRASHED)
        record.begin()
        record.got(1000)
        crashes += 1
    assert crashes == 10  # of which the ninth asked for 4 << 8 tokens, more than it gives

"""What a lane does next: a table of queues and of what runs, without a lane or a worker."""

import pytest

from rayhost.front.admission import Admission, Bounds
from rayhost.front.blame import Death
from rayhost.front.dispatch import Move, next_move
from rayhost.front.fair import Claim
from rayhost.front.request import Priority, Terms
from rayhost.front.run import ActiveRun
from tests.front.fake_worker import CONTEXT, request

S = 1_000_000_000
NOW = 100 * S
SEQUENCES, AHEAD = 2, 1


def run(
    number: int, priority: Priority = Priority.NORMAL, deadline_ns: int | None = None
) -> ActiveRun:
    claim = Claim.of(Terms(priority=priority))
    claim.prompt, claim.most, claim.answer, claim.deadline_ns = 3, 100, 100, deadline_ns
    return ActiveRun(
        model="tiny",
        number=number,
        request=request(max_tokens=100),
        prompt=[5, 6, 7],
        context=CONTEXT,
        arrived_ns=NOW,
        claim=claim,
        on_close=lambda _: None,
        standing=lambda _: None,
    )


def at_work(number: int, priority: Priority = Priority.NORMAL, held_s: int = 50) -> ActiveRun:
    started = run(number, priority)
    started.given_ns = NOW - held_s * S
    return started


def waiting(*runs: ActiveRun) -> Admission[ActiveRun]:
    admission = Admission[ActiveRun](Bounds(10), SEQUENCES)
    for one in runs:
        admission.queue.push(one, NOW)
    return admission


def move(
    admission: Admission[ActiveRun], *started: ActiveRun, suspect_prompt: bool = False
) -> Move | None:
    return next_move(
        admission,
        started,
        sequences=SEQUENCES,
        ahead=AHEAD,
        suspect_prompt=suspect_prompt,
        now_ns=NOW,
    )


def test_nothing_is_done_while_nobody_waits() -> None:
    assert move(waiting()) is None


@pytest.mark.parametrize("busy", range(SEQUENCES + AHEAD))
def test_a_run_starts_while_a_sequence_or_a_place_behind_them_is_free(busy: int) -> None:
    first = run(1)
    started = [at_work(10 + n) for n in range(busy)]
    assert move(waiting(first, run(2)), *started) == Move(first, starts=True)


def test_a_run_waits_while_all_places_are_taken() -> None:
    started = [at_work(10 + n) for n in range(SEQUENCES + AHEAD)]
    assert move(waiting(run(1)), *started) is None


def test_a_high_one_is_urgent_and_starts_at_once_where_there_is_room() -> None:
    high = run(1, Priority.HIGH)
    assert move(waiting(run(2), high)) == Move(high, starts=True, urgent=True)


def test_a_lower_one_gives_its_sequence_to_a_high_one() -> None:
    high, low, normal = run(1, Priority.HIGH), at_work(10, Priority.LOW), at_work(11)
    found = move(waiting(high), low, normal)
    assert found == Move(high, gives_way=(low,), starts=True, urgent=True)


def test_a_high_one_behind_high_ones_makes_room_before_it_may_start() -> None:
    admission = Admission[ActiveRun](Bounds(10), SEQUENCES)
    high = run(1, Priority.HIGH)
    admission.queue.push(high, NOW)
    busy = [at_work(10 + n, Priority.HIGH) for n in range(SEQUENCES + AHEAD)]
    behind = at_work(20)
    found = move(admission, *busy, behind)
    assert found == Move(high, gives_way=(behind,), starts=False, urgent=True)


def test_nobody_gives_way_to_a_normal_one() -> None:
    started = [at_work(10, Priority.LOW), at_work(11, Priority.BATCH)]
    first = run(1)
    assert move(waiting(first), *started) == Move(first, starts=True)


def test_one_whose_deadline_is_over_is_refused_instead() -> None:
    over = run(1, deadline_ns=NOW - 1)
    found = move(waiting(over, run(2)))
    assert found is not None
    assert (found.run, found.starts, found.gives_way) == (over, False, ())
    assert found.late is not None
    assert "until its time-out was over" in str(found.late)


def test_one_that_has_a_part_of_its_answer_is_carried_on_whatever_its_deadline() -> None:
    resumed = run(1, deadline_ns=NOW - 1)
    resumed.produced.append(9)
    assert move(waiting(resumed, run(2))) == Move(resumed, starts=True)


def suspect(number: int) -> ActiveRun:
    one = run(number)
    one.record.lost(Death.CRASHED)
    assert one.record.suspect
    return one


def test_a_suspect_waits_for_the_other_suspect_that_runs() -> None:
    assert move(waiting(suspect(1)), suspect(2)) is None


def test_a_suspect_waits_for_a_suspected_prompt() -> None:
    assert move(waiting(suspect(1)), suspect_prompt=True) is None


def test_a_suspect_is_tried_beside_runs_that_are_none() -> None:
    one = suspect(1)
    assert move(waiting(one), at_work(10)) == Move(one, starts=True)


def test_nobody_starts_beside_a_suspect_that_is_on_trial() -> None:
    assert move(waiting(run(1)), suspect(2)) is None


def test_one_that_is_no_suspect_starts_while_a_suspected_prompt_is_read() -> None:
    one = run(1)
    assert move(waiting(one), suspect_prompt=True) == Move(one, starts=True)

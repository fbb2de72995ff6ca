"""Compiled grammars: once for each source, in turn, and no more of them than there is room for."""

import queue
from functools import partial

import pytest

from rayhost.engine.grammar import Grammar, GrammarError
from rayhost.ipc.messages import Constraint
from rayhost.worker.constraints import (
    FIRST_S,
    LONGEST_S,
    MAX_KEPT,
    MAX_KEPT_BYTES,
    MAX_REFUSED,
    Constraints,
    Outcome,
    rejected,
)
from tests.worker.fake_grammar import Gate


def regex(source: str) -> Constraint:
    return Constraint("regex", source)


def opened() -> tuple[Gate, Constraints]:
    gate = Gate()
    gate.opened.set()
    return gate, Constraints(lambda: gate)


def outcome_of(constraints: Constraints, constraint: Constraint) -> Outcome:
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    constraints.compile(1, constraint, done.put)
    return done.get(timeout=30)


def test_a_source_is_compiled_once_however_often_it_is_asked_for() -> None:
    gate = Gate()
    constraints = Constraints(lambda: gate)
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    for request_id in range(3):
        constraints.compile(request_id, regex("a"), done.put)
    assert constraints.get(regex("a")) is None
    gate.opened.set()
    outcomes = {id(done.get(timeout=30)) for _ in range(3)}
    assert outcomes == {id(constraints.get(regex("a")))}
    assert gate.compiled == [regex("a")]


def test_one_source_in_two_kinds_is_two_constraints() -> None:
    gate, constraints = opened()
    outcome_of(constraints, Constraint("regex", "start: /a/"))
    outcome_of(constraints, Constraint("lark", "start: /a/"))
    assert len(gate.compiled) == 2


def test_what_cannot_be_compiled_is_known_to_be_so() -> None:
    _, constraints = opened()
    outcome = outcome_of(constraints, regex("(?=a)"))
    assert isinstance(outcome, GrammarError)
    assert outcome.__traceback__ is None
    assert outcome.__context__ is None
    assert constraints.get(regex("(?=a)")) is outcome
    assert rejected(outcome).code == "invalid_grammar"
    assert isinstance(outcome_of(constraints, regex("a")), Grammar)


def test_the_oldest_give_way_to_new_ones_but_not_those_in_use() -> None:
    _, constraints = opened()
    for i in range(MAX_KEPT):
        outcome_of(constraints, regex("a" * (i + 1)))
    assert constraints.get(regex("a")) is not None  # used now
    outcome_of(constraints, regex("b"))
    assert constraints.get(regex("a")) is not None
    assert constraints.get(regex("aa")) is None
    assert constraints.get(regex("aaa")) is not None


@pytest.mark.parametrize("size", [MAX_KEPT_BYTES // 2, MAX_KEPT_BYTES // 4])
def test_long_sources_leave_room_for_fewer(size: int) -> None:
    _, constraints = opened()
    fitting = MAX_KEPT_BYTES // size
    sources = [regex("(?=" + character * (size - 3)) for character in "abcdefgh"[: fitting + 1]]
    for source in sources:
        outcome_of(constraints, source)
    assert [constraints.get(source) is None for source in sources] == [True] + [False] * fitting


def test_refused_sources_take_no_place_of_grammars() -> None:
    _, constraints = opened()
    outcome_of(constraints, regex("a"))
    refused = [regex("(?=" + "a" * (i + 1)) for i in range(MAX_KEPT)]
    for source in refused:
        outcome_of(constraints, source)
    assert constraints.get(regex("a")) is not None
    known = [source for source in refused if constraints.get(source) is not None]
    assert known == refused[-MAX_REFUSED:]


def test_what_nobody_waits_for_any_more_is_not_compiled() -> None:
    gate = Gate()
    constraints = Constraints(lambda: gate)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def told(request_id: int, _outcome: Outcome) -> None:
        done.put(request_id)

    for request_id, source in enumerate("abcd"):
        constraints.compile(request_id, regex(source), partial(told, request_id))
    assert gate.entered.wait(30)  # with the first one
    for request_id in (0, 1, 2):
        constraints.drop(request_id)
    constraints.drop(7)  # waits for nothing
    gate.opened.set()
    assert done.get(timeout=30) == 3
    assert done.empty()
    assert gate.compiled == [regex("a"), regex("d")]


def test_what_takes_long_waits_for_those_that_do_not() -> None:
    gate = Gate()
    long, never = regex("a"), regex("b")
    gate.needs = {long: FIRST_S + 0.1, never: LONGEST_S + 0.1}
    constraints = Constraints(lambda: gate)
    done: queue.SimpleQueue[tuple[Constraint, Outcome]] = queue.SimpleQueue()

    def told(source: Constraint, outcome: Outcome) -> None:
        done.put((source, outcome))

    sources = [never, long, regex("c"), regex("d")]
    for request_id, source in enumerate(sources):
        constraints.compile(request_id, source, partial(told, source))
    gate.opened.set()
    ended = [done.get(timeout=30) for _ in sources]
    assert [one for one, _ in ended] == [regex("c"), regex("d"), never, long]
    assert [isinstance(found, Grammar) for _, found in ended] == [True, True, False, True]
    assert gate.compiled == [*sources, never, long]
    assert constraints.get(never) is ended[2][1], "a second time it is refused at once"


def test_what_took_long_and_was_dropped_is_not_tried_again() -> None:
    gate = Gate()
    gate.needs = {regex("a"): LONGEST_S}
    constraints = Constraints(lambda: gate)
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    constraints.compile(1, regex("a"), done.put)
    assert gate.entered.wait(30)
    constraints.drop(1)
    gate.opened.set()
    constraints.compile(2, regex("b"), done.put)
    assert isinstance(done.get(timeout=30), Grammar)
    assert isinstance(outcome_of(constraints, regex("c")), Grammar)
    assert done.empty()
    assert gate.compiled == [regex("a"), regex("b"), regex("c")]

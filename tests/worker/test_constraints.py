"""Compiled grammars: once for each source, in turn, and no more of them than there is room for."""

import queue

import pytest

from rayhost.engine.grammar import Grammar, GrammarError
from rayhost.ipc.messages import Constraint
from rayhost.worker.constraints import MAX_KEPT, MAX_KEPT_BYTES, Constraints, Outcome, rejected
from tests.worker.fake_grammar import Gate


def regex(source: str) -> Constraint:
    return Constraint("regex", source)


def opened() -> tuple[Gate, Constraints]:
    gate = Gate()
    gate.opened.set()
    return gate, Constraints(lambda: gate)


def outcome_of(constraints: Constraints, constraint: Constraint) -> Outcome:
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    constraints.compile(constraint, done.put)
    return done.get(timeout=30)


def test_a_source_is_compiled_once_however_often_it_is_asked_for() -> None:
    gate = Gate()
    constraints = Constraints(lambda: gate)
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    for _ in range(3):
        constraints.compile(regex("a"), done.put)
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

"""Runs that follow a grammar, in the step loop over the fake engine."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhost.engine.grammar import MAX_FORCED
from rayhost.ipc.messages import Constraint, Tokens
from rayhost.ipc.sampling import Dry, Mirostat, Sampling, Xtc
from rayhost.ipc.status import Word
from rayhost.worker.constraints import Constraints
from rayhost.worker.scheduler import MIN_CHUNK
from tests.worker.fake_engine import END, PIECES, FakeEngine, reference
from tests.worker.fake_grammar import Gate, ready
from tests.worker.rig import GREEDY, Rig, Told

SAMPLINGS = st.sampled_from(
    (
        GREEDY,
        Sampling(seed=1),
        Sampling(top_k=4, seed=2),
        Sampling(top_p=0.7, min_p=0.05, seed=3),
        Sampling(typical_p=0.5, seed=4),
        Sampling(temperature=0.0, repeat_penalty=1.5, frequency_penalty=1.0, ignore_eos=True),
        Sampling(logit_bias=((1, -100.0), (2, 100.0)), seed=5),
        Sampling(mirostat=Mirostat(2, 3.0, 0.1), seed=6),
        Sampling(xtc=Xtc(1.0, 0.01), dry=Dry(1.0, 1.75, 1, -1, ()), seed=7),
    )
)
REGEXES = st.sampled_from(
    (
        "(ab|bc)+c?",
        "a{3,7}",
        "abcabc",
        "[abc]{2}( [abc]{1,3}){0,4}",
        "(\u00e9|ab){2,5}",
        "a*",
    )
)


def regex(source: str) -> Constraint:
    return ready(Constraint("regex", source))


def guided(source: str, **options: Any) -> Told:
    rig = Rig()
    rig.start(0, [3, 4], constraint=regex(source), **options)
    rig.finish()
    return rig.told(0)


def text_of(ids: list[int]) -> str:
    return b"".join(PIECES[token] for token in ids).decode()


@settings(max_examples=150, deadline=None)
@given(REGEXES, SAMPLINGS, st.integers(1, 30))
def test_every_answer_matches_or_was_cut(source: str, sampling: Sampling, max_tokens: int) -> None:
    told = guided(source, max_tokens=max_tokens, sampling=sampling)
    assert told.finished is not None
    if told.finished.reason == "stop":
        assert re.fullmatch(source, told.text), (source, told.text)
    else:
        assert len(told.ids) == max_tokens
    assert told.finished.n_generated == len(told.ids)


@settings(max_examples=60, deadline=None)
@given(REGEXES, SAMPLINGS, st.integers(1, 30))
def test_a_resumed_run_goes_on_identically_from_every_point(
    source: str, sampling: Sampling, max_tokens: int
) -> None:
    whole = Rig()
    whole.start(0, [3, 4], max_tokens, sampling=sampling, constraint=regex(source))
    whole.finish()
    news = [item[1] for item in whole.out.log if isinstance(item, tuple)]
    tokens = [message for message in news if isinstance(message, Tokens)]
    for cut in range(len(tokens)):
        produced = [token for message in tokens[:cut] for token in message.ids]
        rest = Rig()
        mu = tokens[cut - 1].mu if cut else None
        rest.start(
            0,
            [3, 4],
            max_tokens,
            produced=produced,
            sampling=sampling,
            constraint=regex(source),
            mu=mu,
        )
        rest.finish()
        assert rest.told(0).ids == [token for message in tokens[cut:] for token in message.ids]


def test_a_complete_grammar_ends_the_run_without_the_end_token() -> None:
    told = guided("abcabc", max_tokens=40)
    assert told.text == "abcabc"
    assert END not in told.ids
    assert told.finished is not None
    assert told.finished.reason == "stop"


def test_a_complete_grammar_at_the_last_token_is_a_stop() -> None:
    assert guided("aaa", max_tokens=3).result[1:] == ("aaa", "stop")


def test_tokens_that_must_follow_are_not_sampled() -> None:
    rig = Rig()
    rig.start(0, [3, 4], 40, constraint=regex("(a|b) abcabc abcabc"))
    rig.finish()
    assert re.fullmatch("[ab] abcabc abcabc", rig.told(0).text)
    assert len(rig.engine.sizes) < len(rig.told(0).ids)


def test_with_log_probabilities_every_token_is_sampled() -> None:
    rig = Rig()
    rig.start(0, [3, 4], 40, constraint=regex("(a|b) abcabc abcabc"), logprobs=2)
    rig.finish()
    news = rig.news(0)
    assert re.fullmatch("[ab] abcabc abcabc", rig.told(0).text)
    assert all(len(one.ids) == len(one.logprobs) == 1 for one in news)
    likeliest = {top.token for one in news for top in one.logprobs[0].top}
    assert likeliest - set(rig.told(0).ids), "those of the model, not of what the mask left"


def test_a_stop_string_inside_of_what_must_follow_ends_the_run_there() -> None:
    told = guided("abcabc abcabc", max_tokens=40, stop=("c a",))
    assert told.text == "abcab"
    assert told.finished is not None
    assert told.finished.reason == "stop"
    assert text_of(told.ids).startswith("abcabc a")


def test_max_tokens_inside_of_what_must_follow_ends_the_run_there() -> None:
    told = guided("(a|b) abcabc abcabc", max_tokens=3)
    assert told.finished is not None
    assert (told.finished.reason, len(told.ids)) == ("length", 3)


def test_an_end_that_may_not_come_ends_the_run_where_nothing_else_can() -> None:
    told = guided("", max_tokens=5, sampling=Sampling(temperature=0.0, ignore_eos=True))
    assert told.result == ([], "", "stop")


def test_others_go_on_while_a_constraint_is_compiled() -> None:
    gate = Gate()
    rig = Rig(constraints=Constraints(lambda: gate))
    rig.start(0, [3, 4], 9, constraint=regex("abc"))
    rig.start(1, [1], 5)
    rig.finish()
    assert rig.told(1).result == reference([1], 5, GREEDY)
    assert rig.told(0).ids == []
    gate.opened.set()
    item = rig.inbox.get(timeout=30)
    rig.inbox.put(item)
    rig.finish()
    assert rig.told(0).text == "abc"


def test_a_run_that_was_cancelled_while_its_constraint_is_compiled_never_starts() -> None:
    gate = Gate()
    rig = Rig(constraints=Constraints(lambda: gate))
    rig.start(0, [3, 4], 9, constraint=regex("abc"))
    rig.loop.step()
    rig.cancel(0)
    rig.loop.step()
    gate.opened.set()
    item = rig.inbox.get(timeout=30)
    rig.inbox.put(item)
    rig.finish()
    assert rig.engine.sizes == []


def test_a_constraint_that_cannot_be_compiled_here_ends_its_run_with_the_reason() -> None:
    told = guided("(?=a)b")
    assert told.rejected is not None
    assert told.rejected.code == "invalid_grammar"
    assert "look-around" in told.rejected.message


def test_what_a_resumed_run_has_must_match_too() -> None:
    rig = Rig()
    rig.start(0, [3, 4], 9, produced=[2, 2], constraint=regex("abc"))
    rig.loop.step()
    rejected = rig.told(0).rejected
    assert rejected is not None
    assert rejected.code == "grammar_too_complex"


def test_a_grammar_that_becomes_too_ambiguous_ends_its_run_alone() -> None:
    rig = Rig(FakeEngine(context=2000, batch=64))
    ambiguous = Constraint("lark", 'start: x\nx: x x | x x x | "a" | "b" | ')
    rig.start(
        0, [3, 4], 1900, constraint=ready(ambiguous), sampling=Sampling(seed=1, ignore_eos=True)
    )
    rig.start(1, [1], 5)
    rig.finish()
    rejected = rig.told(0).rejected
    assert rejected is not None
    assert rejected.code == "grammar_too_complex"
    assert rig.told(1).result == reference([1], 5, GREEDY)


@pytest.mark.parametrize("slots", [1, 3])
def test_what_must_follow_never_makes_a_batch_too_large(slots: int) -> None:
    rig = Rig(FakeEngine(slots=slots, context=200, batch=slots + 2))
    for number in range(5):
        rig.start(number, [3, number + 1], 150, constraint=regex("((a|b) " + "abc" * 9 + "){2}"))
    rig.finish()
    for number in range(5):
        assert re.fullmatch("((a|b) " + "abc" * 9 + "){2}", rig.told(number).text)
    assert max(rig.engine.sizes) <= slots + 2


def test_a_prompt_beside_what_must_follow_gets_no_more_than_beside_decoding() -> None:
    rig = Rig(FakeEngine(slots=2, context=300, batch=256))
    rig.start(0, [3, 4], 200, constraint=regex("(a|b) " + "abc" * 90))
    rig.loop.step()
    rig.start(1, [1] * 200, 5)
    rig.loop.step()
    forced = MAX_FORCED + 1
    assert rig.engine.sizes == [2, forced + MIN_CHUNK]
    rig.loop.step()
    assert rig.status[Word.PREFILL_TOKENS] == 2 + 2 * MIN_CHUNK

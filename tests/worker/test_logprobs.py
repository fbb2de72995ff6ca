"""Log-probabilities as the step loop tells them: of the raw logits, one a token, none misplaced."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhost.ipc.messages import Tokens
from rayhost.ipc.sampling import Mirostat, Sampling
from tests.worker.fake_engine import END, PIECES, VOCABULARY, next_logits
from tests.worker.rig import GREEDY, Rig

SAMPLINGS = (
    GREEDY,
    Sampling(temperature=0.9, top_k=5, seed=7),
    Sampling(repeat_penalty=1.5, logit_bias=((3, 4.0),), ignore_eos=True, seed=1),
)
PROMPT = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20)
STOPS = st.sampled_from(((), ("ab",), ("abc", "bc"), (" ", "\u00e9"), ("\U0001f600a", "cc")))


def told(rig: Rig, request_id: int = 1) -> list[Tokens]:
    """The Tokens messages of a run, in order."""
    return rig.news(request_id)


def raw_logprobs(tokens: list[int]) -> list[float]:
    row = next_logits(tokens).astype(np.float64)
    norm = row.max() + math.log(np.exp(row - row.max()).sum())
    return [float(one - norm) for one in row]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_they_are_of_the_models_own_distribution(sampling: Sampling) -> None:
    rig = Rig()
    prompt = [1, 2, 3]
    rig.start(1, prompt, max_tokens=12, sampling=sampling, logprobs=4)
    rig.finish()
    tokens = list(prompt)
    for news in told(rig):
        for token, logprob in zip(news.ids, news.logprobs, strict=True):
            expected = raw_logprobs(tokens)
            assert (logprob.token, logprob.piece) == (token, PIECES[token])
            assert logprob.logprob == pytest.approx(expected[token], abs=1e-4)
            order = sorted(range(VOCABULARY), key=lambda i: -expected[i])[:4]
            assert [one.token for one in logprob.top] == order
            tokens.append(token)
    assert len(tokens) > 5


def test_none_are_told_to_those_who_did_not_ask() -> None:
    rig = Rig()
    rig.start(1, [1, 2], logprobs=0)
    rig.start(2, [1, 2])
    rig.finish()
    assert all(news.logprobs and not news.logprobs[0].top for news in told(rig, 1))
    assert all((news.logprobs, news.settled) == ((), 0) for news in told(rig, 2))
    assert rig.told(1).ids == rig.told(2).ids


def check_settled(text: str, ids: list[int], settled: int, *, over: bool) -> None:
    """The settled tokens are those that begin in the text, and those without any before its end."""

    def length(count: int) -> int:
        # Of a half character at the end nothing is out yet.
        decoded = b"".join(PIECES[one] for one in ids[:count]).decode(errors="replace")
        return len(decoded)

    assert settled <= len(ids)
    spelled = b"".join(PIECES[one] for one in ids[:settled]).decode(errors="replace")
    if over:
        assert spelled[: len(text)] == text
    if settled:
        begins = length(settled - 1)
        # What is bad UTF-8 may be a character more or less when it is cut elsewhere.
        assert begins <= len(text) + 1


@settings(max_examples=300, deadline=None)
@given(PROMPT, STOPS, st.sampled_from(SAMPLINGS), st.integers(1, 30))
def test_tokens_settle_with_the_text_they_begin(
    prompt: list[int], stop: tuple[str, ...], sampling: Sampling, most: int
) -> None:
    rig = Rig()
    rig.start(1, prompt, most, sampling=sampling, stop=stop, logprobs=0)
    rig.finish()
    ids: list[int] = []
    text, settled = "", 0
    for news in told(rig):
        text += news.text
        ids += news.ids
        assert news.settled >= settled
        settled = news.settled
        check_settled(text, ids, settled, over=False)
    check_settled(text, ids, settled, over=True)
    finished = rig.told(1).finished
    assert finished is not None
    if finished.reason == "length":
        assert settled == len(ids)
    elif ids[-1] == END and not finished.stop_sequence:
        assert settled == len(ids) - 1  # the end itself is no part of the answer


@settings(max_examples=150, deadline=None)
@given(PROMPT, STOPS, st.integers(0, 29))
def test_a_resumed_run_settles_as_it_would_have(
    prompt: list[int], stop: tuple[str, ...], cut: int
) -> None:
    sampling = Sampling(temperature=0.9, seed=3)
    whole = Rig()
    whole.start(1, prompt, 30, sampling=sampling, stop=stop, logprobs=1)
    whole.finish()
    news = told(whole)
    produced = [one for part in news[:cut] for one in part.ids]
    if len(produced) >= len([one for part in news for one in part.ids]):
        return
    rest = Rig()
    rest.start(1, prompt, 30, sampling=sampling, stop=stop, produced=produced, logprobs=1)
    rest.finish()
    assert told(rest) == news[cut:]


@pytest.mark.parametrize("version", [1, 2])
def test_mirostats_state_is_told_and_taken_up(version: int) -> None:
    sampling = Sampling(seed=3, mirostat=Mirostat(1 if version == 1 else 2, 2.0, 0.3))
    whole = Rig()
    whole.start(1, [1, 2, 3], 20, sampling=sampling, stop=())
    whole.finish()
    news = told(whole)
    assert len(news) > 3
    assert all(part.mu is not None for part in news)
    for cut in range(1, len(news)):
        produced = [one for part in news[:cut] for one in part.ids]
        rest = Rig()
        rest.start(1, [1, 2, 3], 20, sampling=sampling, produced=produced, mu=news[cut - 1].mu)
        rest.finish()
        assert told(rest) == news[cut:]

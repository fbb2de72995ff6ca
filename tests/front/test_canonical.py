"""What must and what must not share a key, as clients spell it."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from rayhost.front.canonical import UNCOUNTED, canonical_key, reproducible
from rayhost.front.request import GenerateRequest, Priority, Terms, TextPrompt, TokenPrompt
from rayhost.http import chat, completions
from rayhost.http.answer import Caller

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi", "seed": 1}


def of_chat(**changes: Any) -> bytes:
    return canonical_key(chat.parse(json.dumps({**CHAT, **changes}).encode(), Caller("id")).request)


def of_text(**changes: Any) -> bytes:
    return canonical_key(
        completions.parse(json.dumps({**TEXT, **changes}).encode(), Caller("id")).request
    )


@pytest.mark.parametrize(
    "spelled",
    [
        {"temperature": 1},
        {"temperature": 1.0, "top_p": 1, "top_k": 0, "min_p": 0},
        {"min_p": -0.0, "presence_penalty": -0.0, "frequency_penalty": -0.0},
        {"repeat_penalty": 1},
        {"repetition_penalty": 1.0},
        {"stop": None, "max_tokens": None, "max_completion_tokens": None},
        {"stop": []},
        {"n": 1},
        {"stream": False},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "somebody", "metadata": {"trace": "1"}, "service_tier": "auto"},
        {"unknown": 1},
        {"model": "another-name-of-it"},
        {"messages": [{"content": "hi", "role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"messages": [{"role": "user", "content": "hi", "name": None}]},
        {"seed": 1 + 2**64 - 2**64},
    ],
)
def test_what_asks_the_same_shares_a_key(spelled: dict[str, Any]) -> None:
    assert of_chat(**spelled) == of_chat()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop": ["b", "a"]}),
        (
            {"messages": [{"role": "system", "content": "x"}]},
            {"messages": [{"role": "developer", "content": "x"}]},
        ),
        # Greedy: nothing is drawn, so nothing that shapes the draw matters.
        ({"temperature": 0}, {"temperature": -0.0, "seed": 2}),
        ({"temperature": 0}, {"temperature": 0.0, "seed": None}),
        ({"temperature": 0}, {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1}),
        # No seed of the client's: which one was drawn is chance.
        ({"seed": None}, {"seed": None}),
        ({"seed": -1}, {"seed": -1}),
    ],
)
def test_two_spellings_of_one_request_share_a_key(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert of_chat(**one) == of_chat(**other)


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0, "presence_penalty": 1},
    {"temperature": 0, "frequency_penalty": 1},
    {"temperature": 0, "repeat_penalty": 1.1},
    {"temperature": 0.5},
    {"top_p": 0.5},
    {"top_k": 1},
    {"min_p": 0.5},
    {"presence_penalty": 0.5},
    {"frequency_penalty": 0.5},
    {"repeat_penalty": 1.1},
    {"seed": 0},
    {"seed": 2},
    {"seed": None},
    {"max_tokens": 1},
    {"max_tokens": 16},
    {"stop": "a"},
    {"stop": ["a", "b"]},
    {"messages": [{"role": "user", "content": "hi "}]},
    {"messages": [{"role": "assistant", "content": "hi"}]},
    {"messages": [{"role": "user", "content": "hi", "name": "me"}]},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": ""}]},
    {"messages": [{"role": "user", "content": "h"}, {"role": "user", "content": "i"}]},
]


def test_whatever_changes_the_answer_changes_the_key() -> None:
    keys = {of_chat(**changes) for changes in DIFFERENT}
    assert len(keys) == len(DIFFERENT)


def test_two_texts_in_parts_are_not_one() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert of_chat(messages=[{"role": "user", "content": parts}]) != of_chat(
        messages=[{"role": "user", "content": "ab"}]
    )


def test_the_forms_of_a_text_prompt_share_a_key_and_tokens_or_a_chat_do_not() -> None:
    assert of_text() == of_text(prompt=["hi"]) == of_text(max_tokens=completions.DEFAULT_MAX_TOKENS)
    assert of_text(prompt=[1, 2]) == of_text(prompt=[[1, 2]])
    different = [of_text(), of_text(prompt=[1, 2]), of_text(prompt=[12]), of_chat(max_tokens=16)]
    assert len(set(different)) == len(different)


def test_a_prompt_of_no_token_is_not_one_of_no_text() -> None:
    def key(prompt: TextPrompt | TokenPrompt) -> bytes:
        return canonical_key(GenerateRequest(id="", model="", prompt=prompt))

    assert key(TextPrompt("")) != key(TokenPrompt(()))


def test_who_asks_and_on_what_terms_is_not_in_the_key() -> None:
    request = GenerateRequest(id="a", model="m", prompt=TextPrompt("hi"))
    terms = Terms(key="k", weight=3, priority=Priority.HIGH, timeout_ms=5)
    others = [
        replace(request, id="b"),
        replace(request, reuse="never"),
        replace(request, terms=terms),
    ]
    assert {canonical_key(one) for one in others} == {canonical_key(request)}


def test_every_field_of_a_request_was_given_a_thought() -> None:
    """A new field counts until it is listed in UNCOUNTED; list it here when it does count."""
    counted = {"prompt", "stop", "max_tokens"}
    assert {one.name for one in fields(GenerateRequest)} == counted | UNCOUNTED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"temperature": 0}, True),
        ({"seed": 0}, True),
        ({"temperature": 0, "seed": None}, True),
        ({"seed": None}, False),
    ],
)
def test_greedy_or_seeded_requests_are_reproducible(
    changes: dict[str, Any], expected: bool
) -> None:
    raw = json.dumps({**CHAT, **changes}).encode()
    assert reproducible(chat.parse(raw, Caller("id")).request) is expected

"""What must and what must not share a key, as clients spell it."""

import json
from typing import Any

import pytest
from msgspec.structs import fields, replace

from rayhost import clock
from rayhost.front.canonical import UNCOUNTED, canonical_key, reproducible
from rayhost.front.request import (
    GenerateRequest,
    PairPrompt,
    Priority,
    Terms,
    TextPrompt,
    TokenPrompt,
)
from rayhost.http import chat, completions
from rayhost.http.answer import Caller
from rayhost.ipc.sampling import Sampling

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi", "seed": 1}


ARGUMENTS = {"city": {"type": "string"}, "unit": {"type": "string"}}


def backwards(mapping: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(mapping.items()))


def tools(properties: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    parameters = {"type": "object", "properties": properties}
    return [{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}]


def schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def named(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema(properties)}}


def called(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]


def of_chat(**changes: Any) -> bytes:
    return canonical_key(
        chat.parse(json.dumps({**CHAT, **changes}).encode(), Caller("id")).requests[0]
    )


def of_text(**changes: Any) -> bytes:
    return canonical_key(
        completions.parse(json.dumps({**TEXT, **changes}).encode(), Caller("id")).requests[0]
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
        {"repeat_last_n": 64},  # of no penalty
        {"typical_p": 1, "logit_bias": {}, "ignore_eos": False},
        {"logit_bias": {"5": 0}},
        {"dry_base": 2, "dry_allowed_length": 3, "dry_sequence_breakers": ["x"]},
        {"dry_multiplier": 0.8, "dry_penalty_last_n": 0},
        {"xtc_threshold": 0.2},
        {"xtc_probability": 0.5, "xtc_threshold": 0.6},
        {"mirostat": 0, "mirostat_tau": 3, "mirostat_eta": 0.2},
        {"logprobs": False, "top_logprobs": 0},
        {"continue_final_message": False, "add_generation_prompt": True},
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
        {"tools": [], "chat_template_kwargs": {}, "response_format": {"type": "text"}},
        {"tools": tools(ARGUMENTS), "tool_choice": "none"},
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
        ({"temperature": 0}, {"temperature": 0, "typical_p": 0.5, "mirostat": 2}),
        ({"temperature": 0}, {"temperature": 0, "xtc_probability": 1}),
        ({"logit_bias": {"1": 2, "3": 4}}, {"logit_bias": {"3": 4.0, "1": 2.0, "9": 0}}),
        (
            {"dry_multiplier": 1},
            {"dry_multiplier": 1, "dry_sequence_breakers": ["*", '"', ":", "\n"]},
        ),
        # Mirostat is instead of these.
        ({"mirostat": 2}, {"mirostat": 2, "top_p": 0.5, "top_k": 9, "xtc_probability": 1}),
        # No seed of the client's: which one was drawn is chance.
        ({"seed": None}, {"seed": None}),
        ({"seed": -1}, {"seed": -1}),
        ({"tools": tools(ARGUMENTS)}, {"tools": [backwards(tools(ARGUMENTS)[0])]}),
        (
            {"tools": tools(ARGUMENTS)},
            {"tools": tools(ARGUMENTS), "tool_choice": "auto", "parallel_tool_calls": True},
        ),
        ({"response_format": named("a", ARGUMENTS)}, {"response_format": named("b", ARGUMENTS)}),
        ({"response_format": named("a", ARGUMENTS)}, {"json_schema": schema(ARGUMENTS)}),
        ({"messages": called('{"a": 1}')}, {"messages": called('{"a":1}')}),
        ({"messages": called("{}")}, {"messages": [backwards(one) for one in called("")]}),
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
    {"repeat_penalty": 1.1, "repeat_last_n": 64},
    {"temperature": 0, "repeat_penalty": 1.1, "repeat_last_n": 64},
    {"typical_p": 0.5},
    {"logit_bias": {"1": 1}},
    {"logit_bias": {"1": 2}},
    {"logit_bias": {"2": 1}},
    {"temperature": 0, "logit_bias": {"1": 1}},
    {"ignore_eos": True},
    {"temperature": 0, "ignore_eos": True},
    {"dry_multiplier": 1},
    {"dry_multiplier": 1, "dry_base": 2},
    {"dry_multiplier": 1, "dry_allowed_length": 3},
    {"dry_multiplier": 1, "dry_penalty_last_n": -1},
    {"dry_multiplier": 1, "dry_sequence_breakers": []},
    {"temperature": 0, "dry_multiplier": 1},
    {"xtc_probability": 0.5},
    {"xtc_probability": 0.5, "xtc_threshold": 0.2},
    {"mirostat": 1},
    {"mirostat": 2},
    {"mirostat": 2, "mirostat_tau": 4},
    {"mirostat": 2, "mirostat_eta": 0.2},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 1},
    {
        "messages": [{"role": "assistant", "content": "hi"}],
        "continue_final_message": True,
    },
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
    # Prompts and grammars have a client's mappings in its order.
    {"tools": tools(ARGUMENTS)},
    {"tools": tools(backwards(ARGUMENTS))},
    {"tools": tools(ARGUMENTS, description="of the weather")},
    {"tools": tools(ARGUMENTS), "tool_choice": "required"},
    {"tools": tools(ARGUMENTS), "parallel_tool_calls": False},
    {"messages": called('{"a": 1, "b": 2}')},
    {"messages": called('{"b": 2, "a": 1}')},
    {"messages": called('{"a": 1, "b": true}')},
    {"json_schema": schema(ARGUMENTS)},
    {"json_schema": schema(backwards(ARGUMENTS))},
    {"json_schema": backwards(schema(ARGUMENTS))},
    {"response_format": {"type": "json_object"}},
    {"guided_choice": ["a", "b"]},
    {"guided_regex": "a|b"},
    {"grammar": 'root ::= "a"'},
    {"chat_template_kwargs": {"a": {"x": 1, "y": 2}}},
    {"chat_template_kwargs": {"a": {"y": 2, "x": 1}}},
    {"chat_template_kwargs": {"a": 1}},
    {"chat_template_kwargs": {"a": True}},
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


def test_a_text_and_its_vector_and_a_pair_do_not_share_a_key() -> None:
    request = GenerateRequest(id="", model="", prompt=TextPrompt("hi"))
    pair, other = PairPrompt("a", "bc"), PairPrompt("ab", "c")
    asked = [request, replace(request, task="embed")]
    asked += [replace(request, prompt=one, task="rank") for one in (pair, other)]
    assert len({canonical_key(one) for one in asked}) == len(asked)


def test_a_prompt_of_no_token_is_not_one_of_no_text() -> None:
    def key(prompt: TextPrompt | TokenPrompt) -> bytes:
        return canonical_key(GenerateRequest(id="", model="", prompt=prompt))

    assert key(TextPrompt("")) != key(TokenPrompt(()))


def test_who_asks_and_on_what_terms_is_not_in_the_key() -> None:
    request = GenerateRequest(id="a", model="m", prompt=TextPrompt("hi"))
    terms = Terms(key="k", weight=3, priority=Priority.HIGH, deadline_ns=5)
    others = [
        replace(request, id="b"),
        replace(request, reuse="never"),
        replace(request, terms=terms),
    ]
    assert {canonical_key(one) for one in others} == {canonical_key(request)}


def test_every_field_of_a_request_was_given_a_thought() -> None:
    """A new field counts until it is listed in UNCOUNTED; list it here when it does count."""
    counted = {"prompt", "stop", "max_tokens", "constraint", "logprobs", "task"}
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
    assert reproducible(chat.parse(raw, Caller("id")).requests[0]) is expected


def test_what_the_answer_goes_on_with_is_in_the_key_by_either_name() -> None:
    said = {"role": "assistant", "content": "hi"}
    by_message = of_chat(messages=[{**said, "prefix": True}])
    assert by_message == of_chat(messages=[said], continue_final_message=True)
    assert by_message != of_chat(messages=[said])


def test_the_text_after_a_gap_is_in_the_key() -> None:
    assert len({of_text(), of_text(suffix="a"), of_text(suffix="b")}) == 3
    assert of_text(suffix="") == of_text()


def test_each_choice_has_a_key_of_its_own_unless_it_is_greedy() -> None:
    def keys(**changes: Any) -> list[bytes]:
        raw = json.dumps({**CHAT, **changes}).encode()
        return [canonical_key(one) for one in chat.parse(raw, Caller("id")).requests]

    assert len(set(keys(n=3))) == 3
    assert keys(n=3)[:2] == keys(n=2)
    assert keys(n=3)[1] == keys(seed=2)[0]
    assert len(set(keys(n=3, temperature=0))) == 1


def test_every_field_of_sampling_was_given_a_thought() -> None:
    """A field that is added must be put into `_choices` first, and then here."""
    assert set(Sampling.__struct_fields__) == {
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "xtc", "mirostat", "seed"),
        *("presence_penalty", "frequency_penalty", "repeat_penalty", "repeat_last_n"),
        *("logit_bias", "ignore_eos", "dry"),
    }


def test_of_a_name_that_comes_twice_the_last_value_is_run_and_counted() -> None:
    def of(text: str) -> GenerateRequest:
        return chat.parse(text.encode(), Caller("id")).requests[0]

    def asking(seed: str, content: str, properties: str) -> str:
        return (
            f'{{"model": "m", {seed}, "messages": [{{"role": "user", {content}}}], "json_schema": '
            f'{{"type": "object", "properties": {{{properties}}}}}}}'
        )

    first, second = '"a": {"type": "null"}', '"a": {"type": "string"}'
    twice = asking('"seed": 1, "seed": 2', '"content": "x", "content": "y"', f"{first}, {second}")
    last = asking('"seed": 2', '"content": "y"', second)
    before = asking('"seed": 1', '"content": "x"', first)
    assert of(twice) == of(last)
    assert canonical_key(of(twice)) == canonical_key(of(last)) != canonical_key(of(before))
    for one in ('"seed": 1, "seed": 2', '"seed": 2, "seed": 1'):
        asked = of(asking(one, '"content": "y"', second))
        assert asked.sampling.seed == int(one[-1])


@pytest.mark.parametrize(
    ("later_s", "same"),
    [(0, True), (86_399, True), (86_400, False)],
    ids=["at once", "before midnight", "at midnight"],
)
def test_a_chat_has_another_key_on_another_day(
    monkeypatch: pytest.MonkeyPatch, later_s: int, same: bool
) -> None:
    now = 20_000 * 86_400.0
    monkeypatch.setattr(clock, "unix_seconds", lambda: now)
    before, text = of_chat(), of_text()
    now += later_s
    assert (of_chat() == before) is same
    assert of_text() == text, "no template sees it"

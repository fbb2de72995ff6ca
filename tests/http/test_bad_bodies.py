"""Bodies that cannot be served: the parameter named, the code, and what would have been valid."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from rayhost.http.app import build_app
from rayhost.http.body import MAX_DEPTH
from tests.http.asgi import CHAT, COMPLETIONS, call, chat_body, completion_body
from tests.http.fake_front import FakeFront

BAD_JSON = [
    (b"", "truncated"),
    (b"{", "truncated"),
    (b'{"model": NaN}', "invalid character (byte 10)"),
    (b'{"temperature": 1e999}', "out of range"),
    (b'{"model": "\xff"}', "not UTF-8"),
    (b'{"model": "\\ud800"}', "truncated"),
    (b'{"model": "a"} x', "trailing characters (byte 16)"),
    (b'{"x": ' + b"[" * 4000, "nested too deeply"),
    (b"model=a&prompt=b", "invalid character (byte 0)"),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("body", "why"), BAD_JSON)
async def test_a_body_that_is_not_json_is_told_where(
    app: ASGIApp, front: FakeFront, path: str, body: bytes, why: str
) -> None:
    reply = await call(app, "POST", path, body=body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert why in reply.error["message"]
    assert not front.requests


def nested(depth: int) -> dict[str, object]:
    """A body of so many levels, itself included."""
    value: object = 1
    for _ in range(depth - 2):  # the body and its metadata are two
        value = [value]
    return chat_body(metadata={"k": value})


async def test_a_body_is_nested_to_a_limit(app: ASGIApp) -> None:
    assert (await call(app, "POST", CHAT, json_body=nested(MAX_DEPTH))).status == 200
    reply = await call(app, "POST", CHAT, json_body=nested(MAX_DEPTH + 1))
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert "nested deeper than 64 levels" in reply.error["message"]


async def test_many_brackets_are_no_depth(app: ASGIApp) -> None:
    many = chat_body(metadata={"k": [{"v": [1]}] * (MAX_DEPTH + 1)})
    assert (await call(app, "POST", CHAT, json_body=many)).status == 200


@pytest.mark.parametrize("body", [[], "x", 1, True, None])
async def test_a_body_that_is_no_object_is_refused(app: ASGIApp, body: object) -> None:
    reply = await call(app, "POST", CHAT, json_body=body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_type")
    assert "object" in reply.error["message"]


def user(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"
# what is changed, code, param, a part of the message
BAD_OF_BOTH: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"model": None}, MISSING, "model", "required"),
    ({"model": 1}, "invalid_type", "model", "expected `str`, got `int`"),
    ({"temperature": "1"}, "invalid_type", "temperature", "expected `float`, got `str`"),
    ({"temperature": True}, "invalid_type", "temperature", "expected `float`, got `bool`"),
    ({"temperature": 2.1}, "invalid_value", "temperature", "between 0 and 2, not 2.1"),
    ({"temperature": -0.1}, "invalid_value", "temperature", "between 0 and 2"),
    ({"top_p": 0}, "invalid_value", "top_p", "greater than 0 and at most 1"),
    ({"top_p": 1.01}, "invalid_value", "top_p", "greater than 0 and at most 1"),
    ({"top_k": -1}, "invalid_value", "top_k", "between 0 and 2147483647"),
    ({"top_k": 10**4000}, "invalid_value", "top_k", "0 and 2147483647, not 1000"),
    ({"top_k": 1.5}, "invalid_type", "top_k", "expected `int`, got `float`"),
    ({"min_p": 1.1}, "invalid_value", "min_p", "between 0 and 1"),
    ({"presence_penalty": 2.5}, "invalid_value", "presence_penalty", "between -2 and 2"),
    ({"frequency_penalty": -3}, "invalid_value", "frequency_penalty", "between -2 and 2"),
    ({"repeat_penalty": 0}, "invalid_value", "repeat_penalty", "between 0.01 and 10"),
    ({"repetition_penalty": 11}, "invalid_value", "repetition_penalty", "between 0.01 and 10"),
    (
        {"repeat_penalty": 1, "repetition_penalty": 2},
        "invalid_value",
        "repeat_penalty",
        "contradicts repetition_penalty",
    ),
    ({"seed": 2**63}, "invalid_value", "seed", "between -9223372036854775808 and"),
    ({"max_tokens": 0}, "invalid_value", "max_tokens", "between 1 and"),
    ({"max_tokens": 2**31}, "invalid_value", "max_tokens", "and 2147483647"),
    ({"stop": ""}, "invalid_value", "stop", "not be empty"),
    ({"stop": ["a", ""]}, "invalid_value", "stop", "not be empty"),
    ({"stop": ["a"] * 17}, "invalid_value", "stop", "at most 16"),
    ({"stop": "a" * 1025}, "invalid_value", "stop", "at most 1024 characters"),
    ({"stop": ["a", 1]}, "invalid_type", "stop[1]", "expected `str`, got `int`"),
    ({"stream": "yes"}, "invalid_type", "stream", "expected `bool`, got `str`"),
    ({"stream_options": {}}, "invalid_value", "stream_options", "stream true"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "invalid_type",
        "stream_options.include_usage",
        "expected `bool",
    ),
    ({"user": 1}, "invalid_type", "user", "expected `str`"),
    ({"n": 2}, UNSUPPORTED, "n", "send 1"),
    ({"n": True}, UNSUPPORTED, "n", "send 1"),
    ({"store": True}, UNSUPPORTED, "store", "send false"),
    ({"logit_bias": {"1": 1}}, UNSUPPORTED, "logit_bias", "send {}"),
]
BAD_CHAT: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"messages": None}, MISSING, "messages", "required"),
    ({"messages": []}, "invalid_value", "messages", "at least one"),
    ({"messages": {}}, "invalid_type", "messages", "expected `array`, got `object`"),
    ({"messages": ["hi"]}, "invalid_type", "messages[0]", "expected `object`, got `str`"),
    ({"messages": [{"content": "x"}]}, MISSING, "messages[0].role", "required"),
    ({"messages": [{"role": 1}]}, "invalid_type", "messages[0].role", "`str`, got `int`"),
    ({"messages": [{"role": "user"}]}, MISSING, "messages[0].content", "required"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "invalid_value",
        "messages[0].role",
        "system, developer, user, assistant, not 'tool'",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        UNSUPPORTED,
        "messages[0].tool_calls",
        "not supported",
    ),
    (user(1), "invalid_type", "messages[0].content", "expected `str | array"),
    (user([{"text": "x"}]), MISSING, "messages[0].content[0].type", "required"),
    (user([{"type": "text"}]), MISSING, "messages[0].content[0].text", "required"),
    (
        user([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}]),
        "invalid_value",
        "messages[0].content[1].type",
        "'image_url'",
    ),
    (
        {"max_tokens": 1, "max_completion_tokens": 2},
        "invalid_value",
        "max_completion_tokens",
        "contradicts max_tokens (2 and 1)",
    ),
    ({"max_completion_tokens": 0}, "invalid_value", "max_completion_tokens", "between 1 and"),
    ({"tools": [{"type": "function"}]}, UNSUPPORTED, "tools", "send []"),
    ({"tool_choice": "auto"}, UNSUPPORTED, "tool_choice", 'send "none"'),
    ({"functions": [{}]}, UNSUPPORTED, "functions", "not supported"),
    ({"response_format": {"type": "json_object"}}, UNSUPPORTED, "response_format", "not supported"),
    ({"logprobs": True}, UNSUPPORTED, "logprobs", "send false"),
    ({"top_logprobs": 1}, UNSUPPORTED, "top_logprobs", "not supported"),
    ({"modalities": ["audio"]}, UNSUPPORTED, "modalities", "not supported"),
    ({"audio": {}}, UNSUPPORTED, "audio", "not supported"),
    ({"prediction": {}}, UNSUPPORTED, "prediction", "not supported"),
    ({"web_search_options": {}}, UNSUPPORTED, "web_search_options", "not supported"),
]
BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"prompt": None}, MISSING, "prompt", "required"),
    ({"prompt": {}}, "invalid_type", "prompt", "got `object`"),
    ({"prompt": []}, "invalid_value", "prompt", "not be empty"),
    ({"prompt": [[]]}, "invalid_value", "prompt[0]", "not be empty"),
    ({"prompt": ["a", "b"]}, "invalid_value", "prompt", "one prompt per request"),
    ({"prompt": [[1], [2]]}, "invalid_value", "prompt", "one prompt per request"),
    ({"prompt": ["a", 1]}, "invalid_type", "prompt", "not both"),
    ({"prompt": [1, True]}, "invalid_type", "prompt[1]", "got `bool`"),
    ({"prompt": [1, -1]}, "invalid_value", "prompt[1]", "between 0 and 2147483647"),
    ({"prompt": [[2**31]]}, "invalid_value", "prompt[0][0]", "between 0 and 2147483647"),
    ({"prompt": [["a"]]}, "invalid_type", "prompt[0][0]", "expected `int`, got `str`"),
    ({"echo": True}, UNSUPPORTED, "echo", "send false"),
    ({"suffix": "x"}, UNSUPPORTED, "suffix", "not supported"),
    ({"best_of": 2}, UNSUPPORTED, "best_of", "send 1"),
    ({"logprobs": 0}, UNSUPPORTED, "logprobs", "not supported"),
]


@pytest.mark.parametrize(
    ("path", "changes", "code", "param", "part"),
    [
        *((CHAT, *case) for case in BAD_OF_BOTH + BAD_CHAT),
        *((COMPLETIONS, *case) for case in BAD_OF_BOTH + BAD_COMPLETIONS),
    ],
)
async def test_a_bad_parameter_is_named_with_what_would_be_valid(
    front: FakeFront, path: str, changes: dict[str, Any], code: str, param: str, part: str
) -> None:
    app = build_app(front, body_bytes=100_000)
    body = chat_body(**changes) if path == CHAT else completion_body(**changes)
    reply = await call(app, "POST", path, json_body=body)
    assert reply.status == 400
    assert (reply.error["code"], reply.error["param"]) == (code, param)
    assert reply.error["type"] == "invalid_request_error"
    assert part in reply.error["message"]
    assert len(reply.error["message"]) < 300
    assert not front.requests


OPTIONAL = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream", "stream_options", "n"),
    *(
        "tools",
        "max_tokens",
        "max_completion_tokens",
        "repeat_penalty",
        "metadata",
        "logprobs",
        "x",
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "tool"]), "content": st.text() | JSON}
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("small"), "messages": MESSAGES, "prompt": st.text() | JSON},
    optional=dict.fromkeys(OPTIONAL, JSON),
)


@settings(deadline=None)
@given(
    path=st.sampled_from([CHAT, COMPLETIONS]),
    body=(JSON | BODIES).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
)
async def test_no_body_gets_a_5xx(path: str, body: bytes) -> None:
    reply = await call(build_app(FakeFront(), body_bytes=100_000), "POST", path, body=body)
    assert reply.status in (200, 400, 404)
    if reply.status != 200:
        assert reply.error["message"]

"""Bodies that cannot be served: the parameter named, the code, and what would have been valid."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from rayhost.http.app import build_app
from rayhost.http.body import MAX_DEPTH, MAX_PARTS
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


@pytest.fixture
def roomy(front: FakeFront) -> ASGIApp:
    return build_app(front, body_bytes=1 << 20)


SAY = {"role": "user", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [SAY] * (MAX_PARTS + 1)}, "messages"),
        (
            {"messages": [{**SAY, "content": [{"type": "text", "text": ""}] * MAX_PARTS}]},
            "messages",
        ),
        ({"tools": [TOOL] * (MAX_PARTS // 2)}, "tools"),
        ({"metadata": {"a": [[]] * (MAX_PARTS - 3)}, "messages": [SAY]}, "metadata"),
    ],
    ids=["messages", "parts", "tools", "anything"],
)
async def test_a_body_has_so_many_parts_and_no_more(
    roomy: ASGIApp, front: FakeFront, fields: dict[str, Any], param: str
) -> None:
    reply = await call(roomy, "POST", CHAT, json_body=chat_body(**fields))
    assert (reply.status, reply.error["code"]) == (400, "too_many_parts")
    assert reply.error["param"] == param
    assert f"at most {MAX_PARTS}" in reply.error["message"]
    assert not front.requests


@pytest.mark.parametrize("body", [b'{"a":[' + b"{}," * MAX_PARTS, b"[" * MAX_PARTS + b'[["'])
async def test_what_has_too_many_parts_need_not_be_read_to_its_end(
    roomy: ASGIApp, body: bytes
) -> None:
    reply = await call(roomy, "POST", CHAT, body=body)
    assert (reply.status, reply.error["code"]) == (400, "too_many_parts")


async def test_a_name_that_comes_twice_hides_no_parts(roomy: ASGIApp) -> None:
    half = b'"metadata": {"a": [' + b",".join([b"{}"] * (MAX_PARTS // 2)) + b"]}"
    reply = await call(roomy, "POST", CHAT, body=b"{" + half + b", " + half + b"}")
    assert (reply.status, reply.error["code"]) == (400, "too_many_parts")


async def test_brackets_in_a_text_are_no_parts(roomy: ASGIApp) -> None:
    body = chat_body(messages=[{**SAY, "content": '\\"[{"\\' * MAX_PARTS}])
    assert (await call(roomy, "POST", CHAT, json_body=body)).status == 200
    most = chat_body(messages=[SAY], metadata={"a": [[]] * (MAX_PARTS - 3)})
    assert (await call(roomy, "POST", CHAT, json_body=most)).status == 400, "the one above"
    most["metadata"]["a"].pop()
    assert (await call(roomy, "POST", CHAT, json_body=most)).status == 200


@pytest.mark.parametrize("number", [str(2**64), str(-(2**63) - 1), "9" * 2000])
async def test_a_number_that_nobody_could_be_told_is_refused(app: ASGIApp, number: str) -> None:
    body = json.dumps(chat_body(metadata={"k": [{"v": "NUMBER"}]})).replace('"NUMBER"', number)
    reply = await call(app, "POST", CHAT, body=body.encode())
    assert (reply.status, reply.error["code"]) == (400, "invalid_value")
    assert reply.error["param"] == "metadata.k[0].v"
    assert "64 bits" in reply.error["message"]


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
async def test_a_number_of_64_bits_is_none_of_them(app: ASGIApp, number: int) -> None:
    body = chat_body(metadata={"k": [{"v": number}]})
    assert (await call(app, "POST", CHAT, json_body=body)).status == 200


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
    ({"n": 0}, "invalid_value", "n", "between 1 and 16, not 0"),
    ({"n": 17}, "invalid_value", "n", "between 1 and 16"),
    ({"n": True}, "invalid_type", "n", "expected `int`, got `bool`"),
    ({"store": True}, UNSUPPORTED, "store", "send false"),
    ({"chat_template": "{{ messages }}"}, UNSUPPORTED, "chat_template", "not supported"),
    ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias", "id of a token, not 'x'"),
    ({"logit_bias": {"-1": 1}}, "invalid_value", "logit_bias", "id of a token, not '-1'"),
    ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias", "between -100 and 100"),
    ({"logit_bias": {"1": "a"}}, "invalid_type", "logit_bias[...]", "expected `float`"),
    (
        {"logit_bias": {str(i): 1 for i in range(1025)}},
        "invalid_value",
        "logit_bias",
        "at most 1024",
    ),
    ({"repeat_last_n": -2}, "invalid_value", "repeat_last_n", "between -1 and"),
    ({"typical_p": 0}, "invalid_value", "typical_p", "greater than 0 and at most 1"),
    ({"dry_multiplier": -1}, "invalid_value", "dry_multiplier", "between 0 and 100"),
    ({"dry_base": 0.5}, "invalid_value", "dry_base", "between 1 and 100"),
    ({"dry_allowed_length": 0}, "invalid_value", "dry_allowed_length", "between 1 and 1024"),
    ({"dry_penalty_last_n": -2}, "invalid_value", "dry_penalty_last_n", "between -1 and"),
    ({"dry_sequence_breakers": "x"}, "invalid_type", "dry_sequence_breakers", "`array`"),
    ({"dry_sequence_breakers": [""]}, "invalid_value", "dry_sequence_breakers", "1 to 40 bytes"),
    (
        {"dry_sequence_breakers": ["é" * 21]},
        "invalid_value",
        "dry_sequence_breakers",
        "1 to 40 bytes",
    ),
    (
        {"dry_sequence_breakers": ["x"] * 17},
        "invalid_value",
        "dry_sequence_breakers",
        "at most 16",
    ),
    ({"xtc_probability": 2}, "invalid_value", "xtc_probability", "between 0 and 1"),
    ({"xtc_threshold": 0}, "invalid_value", "xtc_threshold", "greater than 0"),
    ({"mirostat": 3}, "invalid_value", "mirostat", "between 0 and 2"),
    ({"mirostat_tau": -1}, "invalid_value", "mirostat_tau", "between 0 and 100"),
    ({"mirostat_eta": 1.5}, "invalid_value", "mirostat_eta", "between 0 and 1"),
    ({"ignore_eos": 1}, "invalid_type", "ignore_eos", "expected `bool`"),
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
        {"messages": [{"role": "function", "content": "x"}]},
        "invalid_value",
        "messages[0].role",
        "system, developer, user, assistant, tool, not 'function'",
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
    ({"functions": [{}]}, UNSUPPORTED, "functions", "not supported"),
    ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type", "json_schema"),
    ({"logprobs": 1}, "invalid_type", "logprobs", "expected `bool`"),
    ({"top_logprobs": 1}, "invalid_value", "top_logprobs", "with logprobs true"),
    ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs", "0 and 20"),
    (
        {"continue_final_message": True},
        "invalid_value",
        "continue_final_message",
        "the last one is of 'user'",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "prefix": True}]},
        "invalid_value",
        "messages",
        "only an assistant's message",
    ),
    (
        {
            "messages": [
                {"role": "assistant", "content": "x", "prefix": True},
                {"role": "user", "content": "x"},
            ]
        },
        "invalid_value",
        "messages[0].prefix",
        "only allowed in the last",
    ),
    ({"add_generation_prompt": False}, "invalid_value", "add_generation_prompt", "only allowed"),
    (
        {
            "messages": [{"role": "assistant", "content": "x"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
        "invalid_value",
        "add_generation_prompt",
        "contradicts",
    ),
    (user([{"type": "refusal"}]), MISSING, "messages[0].content[0].refusal", "required"),
    (
        user([{"type": "input_audio", "input_audio": {}}]),
        "invalid_value",
        "messages[0].content[0].type",
        "read text only",
    ),
    ({"modalities": ["audio"]}, UNSUPPORTED, "modalities", "not supported"),
    ({"audio": {}}, UNSUPPORTED, "audio", "not supported"),
    ({"web_search_options": {}}, UNSUPPORTED, "web_search_options", "not supported"),
]
BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"prompt": None}, MISSING, "prompt", "required"),
    ({"prompt": {}}, "invalid_type", "prompt", "got `object`"),
    ({"prompt": []}, "invalid_value", "prompt", "not be empty"),
    ({"prompt": [[]]}, "invalid_value", "prompt[0]", "not be empty"),
    ({"prompt": ["a"] * 65}, "invalid_value", "prompt", "65 prompts of 1 choices"),
    ({"prompt": [[1]] * 33, "n": 2}, "invalid_value", "prompt", "more than the 64 choices"),
    ({"prompt": ["a", 1]}, "invalid_type", "prompt", "not both"),
    ({"prompt": [1, True]}, "invalid_type", "prompt[1]", "got `bool`"),
    ({"prompt": [1, -1]}, "invalid_value", "prompt[1]", "between 0 and 2147483647"),
    ({"prompt": [[2**31]]}, "invalid_value", "prompt[0][0]", "between 0 and 2147483647"),
    ({"prompt": [["a"]]}, "invalid_type", "prompt[0][0]", "expected `int`, got `str`"),
    ({"echo": True, "logprobs": 0}, "invalid_value", "echo", "not allowed with logprobs"),
    ({"echo": True, "prompt": [1]}, "invalid_value", "echo", "a prompt of text"),
    ({"suffix": "x", "prompt": [1]}, "invalid_value", "suffix", "a prompt of text"),
    ({"best_of": 2}, "invalid_value", "best_of", "must be n, which is 1"),
    ({"logprobs": 6}, "invalid_value", "logprobs", "between 0 and 5"),
    ({"logprobs": True}, "invalid_type", "logprobs", "expected `int"),
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

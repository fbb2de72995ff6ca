"""Names that nobody knows are told wherever they are, and null is "not given" wherever it is."""

import json
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp

from rayhost.errors import InvalidRequest
from rayhost.http import chat, embeddings, messages, rerank, responses
from rayhost.http.body import parse_body
from rayhost.ipc.messages import Converted
from tests.http.asgi import CHAT, call, chat_body
from tests.http.fake_front import FakeFront

HI: Any = {"role": "user", "content": "hi"}
Z: Any = {"zork": 1}
FUNCTION: Any = {"name": "f"}
CALL: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def ignored(schema: type[msgspec.Struct], **body: Any) -> tuple[str, ...]:
    _, names = parse_body(json.dumps({"model": "small", **body}).encode(), schema, {})
    return names


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (Z, "zork"),
        ({"messages": [{**HI, **Z}]}, "messages[0].zork"),
        ({"messages": [HI, {**HI, **Z}]}, "messages[1].zork"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", **Z}]}]},
            "messages[0].content[0].zork",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, **Z}]}]},
            "messages[0].tool_calls[0].zork",
        ),
        ({"response_format": {"type": "text", **Z}}, "response_format.zork"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, **Z}}},
            "response_format.json_schema.zork",
        ),
        ({"tools": [{"type": "function", "function": FUNCTION, **Z}]}, "tools[0].zork"),
        (
            {"tools": [{"type": "function", "function": {**FUNCTION, **Z}}]},
            "tools[0].function.zork",
        ),
        ({"stream_options": Z}, "stream_options.zork"),
        ({"tool_choice": {"type": "function", "function": FUNCTION, **Z}}, "tool_choice.zork"),
        (
            {"tool_choice": {"type": "function", "function": {**FUNCTION, **Z}}},
            "tool_choice.function.zork",
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"tools": [{**FUNCTION, **Z}]},
                }
            },
            "tool_choice.allowed_tools.tools[0].zork",
        ),
    ],
)
def test_a_name_that_nobody_knows_is_told_with_its_place(body: dict[str, Any], path: str) -> None:
    assert ignored(chat.ChatBody, **{"messages": [HI], **body}) == (path,)


@pytest.mark.parametrize(
    ("schema", "body", "path"),
    [
        (responses.ResponsesBody, {"text": Z}, "text.zork"),
        (responses.ResponsesBody, {"text": {"format": {"type": "text", **Z}}}, "text.format.zork"),
        (responses.ResponsesBody, {"input": [{**HI, **Z}]}, "input[0].zork"),
        (messages.CountBody, {"output_config": Z}, "output_config.zork"),
        (
            messages.CountBody,
            {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            "system[0].cache_control",
        ),
        (
            messages.CountBody,
            {"messages": [{"role": "user", "content": [{"type": "text", "citations": []}]}]},
            "messages[0].content[0].citations",
        ),
        (
            rerank.RerankBody,
            {"query": "q", "documents": ["a", {"text": "b", **Z}]},
            "documents[1].zork",
        ),
        (embeddings.EmbeddingBody, Z, "zork"),
    ],
)
def test_so_it_is_in_every_shape_of_api(
    schema: type[msgspec.Struct], body: dict[str, Any], path: str
) -> None:
    assert ignored(schema, **{"messages": [HI], "input": "hi", **body})[-1] == path


def test_of_many_in_the_same_place_the_first_is_told() -> None:
    part = {"type": "text", "text": "a", **Z}
    turns = [HI, {**HI, "content": [{**part, "other": 1}, part]}, {**HI, **Z, "content": [part]}]
    assert ignored(chat.ChatBody, messages=turns, last=1) == (
        "last",
        "messages[1].content[0].zork",
        "messages[1].content[0].other",
        "messages[2].zork",
    )


def test_an_answer_of_ours_may_come_back_as_it_was() -> None:
    part = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
    said = {"id": "msg_1", "status": "completed", "type": "message", "role": "assistant"}
    made = {"id": "fc_1", "status": "completed", "type": "function_call", "call_id": "c"}
    items = [{**said, "content": [part]}, {**made, "name": "f", "arguments": "{}"}]
    assert not ignored(responses.ResponsesBody, input=items)
    assert not ignored(
        chat.ChatBody,
        messages=[{"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}],
    )


def test_what_is_the_clients_own_has_no_names_to_know() -> None:
    assert not ignored(
        chat.ChatBody,
        messages=[HI],
        metadata=Z,
        chat_template_kwargs={"zork": None},
        json_schema={"properties": {"a": {"const": None, **Z}}},
        tools=[{"type": "function", "function": {**FUNCTION, "parameters": {"zork": None}}}],
    )


def test_null_is_not_given_where_a_struct_knows_the_name() -> None:
    body, names = parse_body(
        json.dumps(
            {
                "model": "small",
                "messages": [
                    {**HI, "zork": None, "name": None},
                    {"role": "assistant", "tool_calls": [{**CALL, "type": None}]},
                ],
                "stream": None,
                "tools": [{"type": "function", "function": {**FUNCTION, "strict": None}}],
                "json_schema": {"const": None},
            }
        ).encode(),
        chat.ChatBody,
        {},
    )
    assert names == ()
    assert body.messages[1].tool_calls is not None
    assert body.messages[1].tool_calls[0].type == "function"
    assert body.json_schema == {"const": None}, "a schema is the client's own"


def test_a_choice_of_messages_may_have_nulls() -> None:
    choice = {"type": "auto", "name": None, "disable_parallel_tool_use": None}
    body, _ = parse_body(
        json.dumps({"model": "small", "messages": [HI], "tool_choice": choice}).encode(),
        messages.CountBody,
        {},
    )
    assert body.tool_choice == messages.ToolChoice("auto")


def test_null_is_missing_where_a_value_is_needed() -> None:
    with pytest.raises(InvalidRequest, match="required") as refused:
        ignored(chat.ChatBody, messages=[HI, {"role": None, "content": "hi"}])
    assert refused.value.param == "messages[1].role"


async def test_the_header_has_the_place(app: ASGIApp) -> None:
    turns = [{**HI, **Z, 'a"\r\nb': 1}]
    reply = await call(app, "POST", CHAT, json_body=chat_body(messages=turns, x=1))
    assert reply.headers["x-rayhost-ignored"] == "x, messages[0].zork, messages[0].a???b"


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/tokenize", {"content": "hi", **Z}, "zork"),
        ("/detokenize", {"tokens": [1], **Z}, "zork"),
        ("/apply-template", {"messages": [{**HI, **Z}]}, "messages[0].zork"),
        (
            "/v1/messages/count_tokens",
            {"model": "small", "messages": [HI], **Z, "output_config": {"effort": "low"}},
            "zork, output_config.effort",
        ),
    ],
)
async def test_questions_about_text_tell_it_too(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, Any], names: str
) -> None:
    front.reading = Converted(text="x")
    reply = await call(app, "POST", path, json_body=body)
    assert reply.status == 200
    assert reply.headers["x-rayhost-ignored"] == names


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "small", "input": "hi"}),
        ("/v1/messages", {"model": "small", "messages": [HI], "max_tokens": 9}),
    ],
)
async def test_usage_that_comes_anyway_is_none_that_was_asked_for(
    app: ASGIApp, path: str, body: dict[str, Any]
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    reply = await call(app, "POST", path, json_body={**body, **options})
    assert reply.headers["x-rayhost-ignored"] == "stream_options.include_usage"

"""What a body may say of the form of its answer, and what it becomes for the worker."""

import json
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import InvalidRequest
from rayhost.front.request import Terms
from rayhost.http import chat, completions
from rayhost.http.answer import Caller
from rayhost.ipc.messages import Constraint
from tests.http.asgi import call
from tests.http.fake_front import FakeFront

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"enum": ["\u00e9", 1]}}}
COMPACT = json.dumps(SCHEMA, separators=(",", ":"), ensure_ascii=False)
BY_SCHEMA = Constraint("json_schema", COMPACT)
NAMED = {"name": "answer", "schema": SCHEMA, "strict": False, "description": "of it"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}
CALLER = Caller("id", Terms(), "any")


def parsed(fields: dict[str, Any]) -> set[Constraint | None]:
    """What both endpoints make of it."""
    asks = (
        chat.parse(json.dumps({**CHAT, **fields}).encode(), CALLER),
        completions.parse(json.dumps({**COMPLETION, **fields}).encode(), CALLER),
    )
    assert not any(ask.ignored for ask in asks)
    return {ask.request.constraint for ask in asks}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, None),
        ({"response_format": None, "grammar": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object", "")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, BY_SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, BY_SCHEMA),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, BY_SCHEMA),
        ({"json_schema": SCHEMA}, BY_SCHEMA),
        ({"grammar": 'root ::= "a"'}, Constraint("gbnf", 'root ::= "a"')),
        ({"grammar": ""}, None),
        ({"guided_json": SCHEMA}, BY_SCHEMA),
        ({"guided_json": COMPACT}, BY_SCHEMA),
        ({"guided_regex": "a+"}, Constraint("regex", "a+")),
        ({"guided_grammar": 'root ::= "a"'}, Constraint("gbnf", 'root ::= "a"')),
        ({"guided_choice": ["a", 'b"\n', "a"]}, Constraint("lark", 'start: "a" | "b\\"\\n"')),
        ({"structured_outputs": {"json": SCHEMA}}, BY_SCHEMA),
        ({"structured_outputs": {"regex": "a+"}}, Constraint("regex", "a+")),
        ({"structured_outputs": {"choice": ["x"]}}, Constraint("lark", 'start: "x"')),
        ({"structured_outputs": {}}, None),
        (
            {"response_format": {"type": "text"}, "guided_regex": "a+"},
            Constraint("regex", "a+"),
        ),
    ],
)
def test_both_completions_take_every_name_of_it(
    fields: dict[str, Any], constraint: Constraint | None
) -> None:
    assert parsed(fields) == {constraint}


@pytest.mark.parametrize(
    ("fields", "code", "param", "says"),
    [
        (
            {"response_format": {"type": "xml"}},
            "invalid_value",
            "response_format.type",
            "'json_object' or 'json_schema'",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "missing_required_parameter",
            "response_format.json_schema",
            "required",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "missing_required_parameter",
            "response_format.json_schema.schema",
            "required",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a b", "schema": SCHEMA},
                }
            },
            "invalid_value",
            "response_format.json_schema.name",
            "letters",
        ),
        ({"response_format": "json"}, "invalid_type", "response_format", "expected `object"),
        (
            {"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'},
            "invalid_value",
            "grammar",
            "contradicts response_format",
        ),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "invalid_value",
            "structured_outputs.choice",
            "contradicts structured_outputs.regex",
        ),
        ({"guided_choice": []}, "invalid_value", "guided_choice", "1 to 1000"),
        ({"guided_choice": ["a", ""]}, "invalid_value", "guided_choice", "empty"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "invalid_type",
            "structured_outputs",
            "structural_tag",
        ),
    ],
)
def test_what_is_wrong_with_it_is_named(
    fields: dict[str, Any], code: str, param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat.parse(json.dumps({**CHAT, **fields}).encode(), CALLER)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert says in caught.value.message


BY_NAME: list[tuple[str, dict[str, Any], str]] = [
    *(
        (path, fields, param)
        for path in ("/v1/chat/completions", "/v1/completions")
        for fields, param in (
            ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, "response_format"),
            ({"json_schema": SCHEMA}, "json_schema"),
            ({"grammar": 'root ::= "a"'}, "grammar"),
            ({"guided_json": SCHEMA}, "guided_json"),
            ({"guided_regex": "a"}, "guided_regex"),
            ({"guided_choice": ["a"]}, "guided_choice"),
            ({"guided_grammar": 'root ::= "a"'}, "guided_grammar"),
            ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json"),
            ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        )
    ),
    (
        "/v1/responses",
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
        "text.format",
    ),
    (
        "/v1/messages",
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "output_config.format",
    ),
]


@pytest.mark.parametrize(("path", "fields", "param"), BY_NAME)
async def test_what_no_worker_can_follow_is_named_as_the_client_named_it(
    app: ASGIApp, front: FakeFront, path: str, fields: dict[str, Any], param: str
) -> None:
    body = {**CHAT, "model": "small", "max_tokens": 9, **fields}
    body |= {"prompt": "hi"} if path == "/v1/completions" else {"input": "hi"}
    front.submit_error = InvalidRequest("the grammar cannot be used", code="invalid_grammar")
    reply = await call(app, "POST", path, json_body=body)
    error = reply.json["error"]
    assert (reply.status, error["code"], error["param"]) == (400, "invalid_grammar", param)

    front.submit_error = None
    front.run_error = InvalidRequest("it cannot be continued", code="grammar_too_complex")
    assert (await call(app, "POST", path, json_body=body)).json["error"]["param"] == param
    streamed = await call(app, "POST", path, json_body={**body, "stream": True})
    assert f'"param":"{param}"'.encode() in streamed.body


async def test_another_refusal_keeps_the_name_that_it_has(app: ASGIApp, front: FakeFront) -> None:
    body = {**CHAT, "model": "small", "guided_regex": "a"}
    front.submit_error = InvalidRequest("no template", param="messages")
    reply = await call(app, "POST", "/v1/chat/completions", json_body=body)
    assert reply.error["param"] == "messages"

"""What a body of `/v1/responses` means, and each refusal with the place of its cause."""

import json
from array import array
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, Finish, Recalled
from rayhost.http.answer import Ask, Caller
from rayhost.http.responses import parse
from rayhost.ipc.messages import Constraint, Tools
from tests.http.asgi import call
from tests.http.fake_front import FakeFront

RESPONSES = "/v1/responses"
CALLED: Any = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT: Any = {"type": "function_call_output", "call_id": "c1", "output": "done"}
TOOL: Any = {"type": "function", "name": "f"}
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "small", "input": "hi", **changes}


def parsed(**changes: Any) -> Ask:
    return parse(json.dumps(body(**changes)).encode(), Caller("r1"))


def messages(**changes: Any) -> tuple[dict[str, Any], ...]:
    prompt = parsed(**changes).request.prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{"role": "user", "content": "a"}], (said("user", "a"),)),
        ([{"type": "message", "role": "developer", "content": "a"}], (said("system", "a"),)),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "a"},
                        {"type": "input_text", "text": "b"},
                    ],
                }
            ],
            (said("user", "a\nb"),),
        ),
        (
            [
                {
                    "type": "message",
                    "role": "assistant",
                    "status": None,
                    "content": [{"type": "output_text", "text": "a", "annotations": []}],
                }
            ],
            (said("assistant", "a"),),
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
            (said("assistant", "no"),),
        ),
    ],
)
def test_items_become_messages(given: Any, expected: tuple[dict[str, Any], ...]) -> None:
    assert messages(input=given) == expected


def test_calls_belong_to_the_message_before_them() -> None:
    second = {**CALLED, "call_id": "c2", "arguments": '{"a": 1}'}
    parts = [{"type": "input_text", "text": "x"}]
    given = [
        {"role": "assistant", "content": "Let me see."},
        CALLED,
        second,
        RESULT,
        {**RESULT, "call_id": "c2", "output": parts},
    ]
    answer, first, last = messages(input=given)
    assert answer["content"] == "Let me see."
    assert [one["id"] for one in answer["tool_calls"]] == ["c1", "c2"]
    assert answer["tool_calls"][1]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "done"}
    assert last == {"role": "tool", "tool_call_id": "c2", "content": "x"}


def test_a_call_without_a_message_has_one_made() -> None:
    question, answer, _ = messages(input=[{"role": "user", "content": "a"}, CALLED, RESULT])
    assert (answer["role"], answer["content"]) == ("assistant", "")
    assert "tool_calls" not in question


@pytest.mark.parametrize(
    ("changes", "tools"),
    [
        ({}, None),
        ({"tool_choice": "none"}, None),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, None),
        ({"tools": [TOOL], "tool_choice": "none"}, None),
    ],
)
def test_no_tools_are_offered(changes: dict[str, Any], tools: Tools | None) -> None:
    prompt = parsed(**changes).request.prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == tools


@pytest.mark.parametrize(
    ("choice", "mode", "only"),
    [
        ("auto", "auto", ""),
        ("required", "required", ""),
        ({"type": "function", "name": "f"}, "required", "f"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [TOOL]}, "auto", ""),
    ],
)
def test_a_choice_of_tools(choice: Any, mode: str, only: str) -> None:
    prompt = parsed(tools=[TOOL], tool_choice=choice).request.prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools is not None
    assert (prompt.tools.choice, prompt.tools.only) == (mode, only)
    assert [one["name"] for one in prompt.tools.functions] == ["f"]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json_object"),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "json_schema"),
    ],
)
def test_a_form_of_the_text_is_a_constraint(given: Any, kind: str | None) -> None:
    constraint = parsed(text={"format": given}).request.constraint
    assert (None if constraint is None else constraint.kind) == kind
    if kind == "json_schema":
        assert isinstance(constraint, Constraint)
        assert json.loads(constraint.source) == SCHEMA


@pytest.mark.parametrize(
    ("changes", "logprobs"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, 2),
        ({"include": ["reasoning.encrypted_content"]}, None),
    ],
)
def test_log_probabilities(changes: dict[str, Any], logprobs: int | None) -> None:
    assert parsed(**changes).request.logprobs == logprobs


def test_what_has_no_effect_is_named() -> None:
    ask = parsed(
        reasoning={"effort": "low"}, store=True, text={"verbosity": "low"}, truncation="disabled"
    )
    assert set(ask.ignored) == {"reasoning", "store", "text.verbosity"}
    assert parsed(store=False, background=False).ignored == ()


BAD = [
    ({"input": [{**CALLED, "name": "a b"}]}, "input[0].name"),
    ({"chat_template": "x"}, "chat_template"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ({"input": [{"content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
    ),
    ({"input": [RESULT]}, "input[0].call_id"),
    ({"input": [CALLED, {**RESULT, "call_id": "other"}]}, "input[1].call_id"),
    ({"input": [CALLED, {**RESULT, "output": None}]}, "input[1].output"),
    ({"input": [{**CALLED, "call_id": None}]}, "input[0].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "no good"}]}, "tools[0].name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"include": ["everything"]}, "include[0]"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"background": True}, "background"),
    ({"conversation": "c1"}, "conversation"),
    ({"prompt": {"id": "p1"}}, "prompt"),
    ({"truncation": "auto"}, "truncation"),
    ({"n": 2}, "n"),
]


@pytest.mark.parametrize(("changes", "param"), BAD)
def test_a_refusal_names_its_cause(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**changes)
    assert refused.value.param == param


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_known_is_the_same(
    app: ASGIApp, front: FakeFront, stream: bool
) -> None:
    text = 'I look. <tool_call>{"name": "f", "arguments": {}}</tool_call>'
    ends = array("I", [10, 20, len(text)])
    front.recalled = Recalled("smollm2-135m", text, ends, Finish("stop", 7, 3), 1, "hermes")
    reply = await call(app, "POST", RESPONSES, json_body=body(stream=stream, tools=[TOOL]))
    whole = json.loads(reply.body.decode().rstrip().rpartition("data: ")[2])
    if stream:
        assert whole["type"] == "response.completed"
        whole = whole["response"]
    assert [item["type"] for item in whole["output"]] == ["message", "function_call"]
    assert whole["output"][1]["arguments"] == "{}"

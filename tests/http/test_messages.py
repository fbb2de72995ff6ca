"""What a body of `/v1/messages` means, and each refusal with the place of its cause."""

import json
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, Finish, Standing
from rayhost.http.answer import Ask, Caller
from rayhost.http.messages import parse, parse_count
from rayhost.http.messages_answer import MessagesAnswer
from rayhost.http.patience import commented
from tests.http.asgi import Reply, call
from tests.http.fake_front import FakeFront, FakeRun
from tests.support.waiting import soon

TOOL: Any = {"name": "f", "input_schema": {"type": "object"}}
USE: Any = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT: Any = {"type": "tool_result", "tool_use_id": "t1", "content": "done"}
HELLO: Any = {"role": "user", "content": "hi"}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "small", "max_tokens": 20, "messages": [HELLO], **changes}


def parsed(**changes: Any) -> Ask:
    return parse(json.dumps(body(**changes)).encode(), Caller("r1"))


def prompt(*turns: Any, **changes: Any) -> ChatPrompt:
    made = parsed(messages=turns, **changes).request.prompt
    assert isinstance(made, ChatPrompt)
    return made


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def test_blocks_of_text_are_lines() -> None:
    made = prompt({"role": "user", "content": [text("a"), text("b")]}, system=[text("c")])
    assert made.messages == (
        {"role": "system", "content": "c"},
        {"role": "user", "content": "a\nb"},
    )


def test_turns_of_one_role_are_one_turn() -> None:
    made = prompt(
        HELLO,
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "yes"},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [RESULT]},
        {"role": "user", "content": "and?"},
    )
    assert [message["role"] for message in made.messages] == ["user", "assistant", "tool", "user"]
    assert made.messages[0]["content"] == "hi\nthere"
    assert made.messages[1]["content"] == "yes"
    assert [one["id"] for one in made.messages[1]["tool_calls"]] == ["t1"]


def test_what_came_of_several_tools_is_a_message_each() -> None:
    made = prompt(
        HELLO,
        {"role": "assistant", "content": [USE, {**USE, "id": "t2"}]},
        {
            "role": "user",
            "content": [RESULT, {**RESULT, "tool_use_id": "t2", "content": [text("x")]}],
        },
    )
    assert made.messages[2:] == (
        {"role": "tool", "tool_call_id": "t1", "content": "done"},
        {"role": "tool", "tool_call_id": "t2", "content": "x"},
    )
    assert not made.continue_final


@pytest.mark.parametrize(
    ("choice", "mode", "only", "parallel"),
    [
        (None, "auto", "", True),
        ({"type": "auto"}, "auto", "", True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", "", False),
        ({"type": "any"}, "required", "", True),
        ({"type": "tool", "name": "f"}, "required", "f", False),
    ],
)
def test_a_choice_of_tools(choice: Any, mode: str, only: str, parallel: bool) -> None:
    tools = prompt(HELLO, tools=[TOOL], tool_choice=choice).tools
    assert tools is not None
    assert (tools.choice, tools.only, tools.parallel) == (mode, only, parallel)


def test_no_tool_is_offered_where_none_may_be_called() -> None:
    assert prompt(HELLO, tools=[TOOL], tool_choice={"type": "none"}).tools is None


def test_what_has_no_effect_is_named() -> None:
    ask = parsed(
        thinking={"type": "adaptive"},
        stop="x",
        output_config={"effort": "low"},
        metadata={"user_id": "u"},
    )
    assert set(ask.ignored) == {"thinking", "output_config.effort", "stop"}
    assert parsed(thinking={"type": "disabled"}).ignored == ()


def test_where_it_stops_is_said_by_anthropics_name_alone() -> None:
    ask = parsed(stop_sequences=["a", "b"], stop=["c", ""])
    assert ask.request.stop == ("a", "b")
    assert ask.ignored == ("stop",)
    assert parsed(stop=7).request.stop == ()


def test_a_call_with_numbers_of_any_size_is_shown_as_text() -> None:
    for given in ({"a": 2**64}, {"a": [{"b": -(2**80)}]}):
        made = prompt(
            HELLO,
            {"role": "assistant", "content": [{**USE, "input": given}]},
            {"role": "user", "content": [RESULT]},
        )
        (sent,) = made.messages[1]["tool_calls"]
        assert sent["function"]["arguments"] == json.dumps(given)
    with pytest.raises(InvalidRequest) as refused:
        parsed(tools=[{**TOOL, "input_schema": {"type": "object", "maximum": 2**64}}])
    assert refused.value.param == "tools[0].input_schema.maximum"


async def test_our_own_calls_can_be_sent_back(app: ASGIApp, front: FakeFront) -> None:
    front.tool_syntax = "hermes"
    number = 123456789 * 10**40
    front.pieces = (f'<tool_call>\n{{"name": "f", "arguments": {{"a": {number}}}}}\n</tool_call>',)
    first = await call(app, "POST", "/v1/messages", json_body=body(tools=[TOOL]))
    content = first.json["content"]
    assert content[0]["input"] == {"a": number}
    result = {**RESULT, "tool_use_id": content[0]["id"]}
    turns = [
        HELLO,
        {"role": "assistant", "content": content},
        {"role": "user", "content": [result]},
    ]
    again = await call(app, "POST", "/v1/messages", json_body=body(tools=[TOOL], messages=turns))
    assert again.status == 200
    sent = front.requests[-1].prompt
    assert isinstance(sent, ChatPrompt)
    assert str(number) in sent.messages[1]["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"content": "no such city", "is_error": True}, "Error: no such city"),
        ({"content": [text("no"), text("net")], "is_error": True}, "Error: no\nnet"),
        ({"content": None, "is_error": True}, "Error"),
        ({"content": "sun", "is_error": False}, "sun"),
        ({"content": "sun", "is_error": None}, "sun"),
    ],
)
def test_a_result_that_is_an_error_says_so(result: Any, told: str) -> None:
    turn = {"role": "user", "content": [{**RESULT, **result}]}
    made = prompt(HELLO, {"role": "assistant", "content": [USE]}, turn)
    assert made.messages[-1]["content"] == told


def test_what_is_counted_is_what_would_be_run() -> None:
    raw = json.dumps({"model": "small", "messages": [HELLO], "tools": [TOOL]}).encode()
    model, question, _ = parse_count(raw)
    made = prompt(HELLO, tools=[TOOL])
    assert model == "small"
    assert (question.messages, question.tools) == (made.messages, made.tools)


BAD = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.1}, "temperature"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    ({"messages": [{"role": "user", "content": [USE]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "assistant", "content": [RESULT]}]}, "messages[0].content[0].type"),
    ({"messages": [HELLO, {"role": "assistant", "content": [USE]}]}, "messages"),
    (
        {"messages": [HELLO, {"role": "assistant", "content": [{**USE, "id": None}]}]},
        "messages[1].content[0].id",
    ),
    (
        {"messages": [{"role": "user", "content": [{**RESULT, "tool_use_id": None}]}]},
        "messages[0].content[0].tool_use_id",
    ),
    (
        {
            "messages": [
                {"role": "assistant", "content": [USE]},
                {"role": "user", "content": [{**RESULT, "content": [{"type": "image"}]}]},
            ]
        },
        "messages[1].content[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].tool_use_id"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"container": "c1"}, "container"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ({"thinking": {}}, "thinking.type"),
    ({"chat_template": "{{ messages }}"}, "chat_template"),
    ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses"}]}}, "context_management"),
    (
        {"messages": [HELLO, {"role": "assistant", "content": [{**USE, "name": "a b"}]}]},
        "messages[1].content[0].name",
    ),
]


@pytest.mark.parametrize(("changes", "param"), BAD)
def test_a_refusal_names_its_cause(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**changes)
    assert refused.value.param == param


@pytest.mark.parametrize("changes", [{"temperature": 2}, {"thinking": {"type": "enabled"}}])
async def test_a_refusal_is_in_anthropics_shape(
    app: ASGIApp, front: FakeFront, changes: dict[str, Any]
) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        reply = await call(app, "POST", path, json_body=body(**changes))
        if path.endswith("tokens") and "temperature" in changes:
            continue  # it draws nothing
        assert reply.status == 400
        assert reply.json["error"]["type"] == "invalid_request_error"
        assert reply.json["error"]["param"] == next(iter(changes))
    assert front.requests == []


async def test_a_stream_that_waits_gets_pings_besides_the_comments() -> None:
    run = FakeRun((), Finish("stop", 7, 0), None, hold=False)
    run.places = [Standing(3, 1.5)]
    answer = MessagesAnswer(parsed(stream=True), run)
    reply = Reply()
    async with commented(run, reply.send, every_s=0, alive=answer.alive):
        await soon(lambda: reply.messages, "the first sign of life")
    body: bytes = reply.messages[0]["body"]
    assert body.startswith(b": queued position=3")
    assert body.endswith(b'event: ping\ndata: {"type":"ping"}\n\n')

"""Tools over HTTP: what is asked of the front, and calls in answers, whole and streamed."""

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from starlette.types import ASGIApp

from rayhost.front.request import ChatPrompt, Finish, Piece, Recalled
from rayhost.http.tool_calls import Call
from rayhost.ipc.messages import TokenLogprob, Tools
from tests.http.asgi import CHAT, Reply, call, chat_body
from tests.http.fake_front import FakeFront
from tests.http.test_tool_calls import PARIS, ROME, SYNTAXES, written
from tests.support.http_server import serving

FUNCTION = {
    "name": "get_weather",
    "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOL = {"type": "function", "function": FUNCTION}
FLAT = {"type": "function", **FUNCTION}  # of Responses
OF_MESSAGES = {"name": "get_weather", "input_schema": FUNCTION["parameters"]}
MADE = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
CALLING = {"role": "assistant", "content": None, "tool_calls": [MADE]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
USER = {"role": "user", "content": "Where does it rain?"}


async def asked(app: ASGIApp, front: FakeFront, **changes: Any) -> ChatPrompt:
    reply = await call(app, "POST", CHAT, json_body=chat_body(**changes))
    assert reply.status == 200, reply.json
    prompt = front.request.prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


async def test_tools_reach_the_front(app: ASGIApp, front: FakeFront) -> None:
    prompt = await asked(app, front, tools=[TOOL], tool_choice="required")
    assert prompt.tools == Tools((FUNCTION,), "required")


@pytest.mark.parametrize(
    "nothing",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": []},
        {"tools": None, "tool_choice": None, "parallel_tool_calls": None},
        {"tool_choice": "none"},
        {"functions": [], "function_call": "none"},
    ],
)
async def test_no_tools_are_no_tools(
    app: ASGIApp, front: FakeFront, nothing: dict[str, Any]
) -> None:
    assert (await asked(app, front, **nothing)).tools is None


async def test_calls_and_results_reach_the_template(app: ASGIApp, front: FakeFront) -> None:
    prompt = await asked(app, front, messages=[USER, CALLING, RESULT])
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert prompt.messages == (
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        RESULT,
    )


async def test_template_options_reach_the_template(app: ASGIApp, front: FakeFront) -> None:
    prompt = await asked(app, front, chat_template_kwargs={"enable_thinking": False})
    assert prompt.options == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL], "tool_choice": "never"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 7}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"functions": [FUNCTION]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"messages": [RESULT]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [CALLING, {**RESULT, "content": None}]}, "messages[1].content"),
        ({"messages": [{**USER, "tool_call_id": "call_1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**USER, "tool_calls": [MADE]}]}, "messages[0].tool_calls"),
        ({"messages": [{**CALLING, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{**CALLING, "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        (
            {"messages": [{**CALLING, "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {f"a{n}": 1 for n in range(33)}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 17_000}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
async def test_a_refusal_names_the_path(
    front: FakeFront, changes: dict[str, Any], param: str
) -> None:
    from rayhost.http.app import build_app

    app = build_app(front, body_bytes=100_000)
    reply = await call(app, "POST", CHAT, json_body=chat_body(**changes))
    assert (reply.status, reply.error["param"]) == (400, param)
    assert param in reply.error["message"]
    assert not front.requests


def spoken(front: FakeFront, syntax: str, text: str, size: int = 3) -> None:
    """Make the next run write a text, in pieces."""
    front.tool_syntax = syntax
    front.pieces = [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_calls_in_a_whole_answer(app: ASGIApp, front: FakeFront, syntax: str) -> None:
    spoken(front, syntax, written(syntax, PARIS, ROME))
    reply = await call(app, "POST", CHAT, json_body=chat_body(tools=[TOOL]))
    (choice,) = reply.json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    own_id = reply.json["id"].removeprefix("chatcmpl-")
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {
                "id": f"call_{own_id}_0_{i}",
                "type": "function",
                "function": {"name": one.name, "arguments": one.arguments},
            }
            for i, one in enumerate((PARIS, ROME))
        ],
    }


@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [
        (CHAT, chat_body(tools=[TOOL], n=2), "call_trace-1-"),
        ("/v1/responses", {"model": "small", "input": "hi", "tools": [FLAT]}, "call_trace-1-"),
        ("/v1/messages", chat_body(max_tokens=9, tools=[OF_MESSAGES]), "toolu_trace-1-"),
    ],
)
async def test_calls_are_told_apart_though_their_requests_have_one_id(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, Any], prefix: str
) -> None:
    spoken(front, "hermes", written("hermes", PARIS, ROME))
    headers = [("x-request-id", "trace-1")]
    replies = [await call(app, "POST", path, json_body=body, headers=headers) for _ in range(2)]
    assert replies[0].json["id"] != replies[1].json["id"]
    ids = [
        one
        for reply in replies
        for one in re.findall(r'"((?:call|toolu)_trace[^"]*)', reply.body.decode())
    ]
    assert len(ids) == len(set(ids)) == 4 * body.get("n", 1)
    assert all(one.startswith(prefix) for one in ids)


async def test_text_without_a_call_is_an_answer(app: ASGIApp, front: FakeFront) -> None:
    spoken(front, "hermes", "I <b>cannot</b> say. ")
    reply = await call(app, "POST", CHAT, json_body=chat_body(tools=[TOOL]))
    (choice,) = reply.json["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == (
        "stop",
        "I <b>cannot</b> say. ",
    )
    assert "tool_calls" not in choice["message"]


async def test_text_that_looks_like_a_call_is_text_where_no_tools_were_offered(
    app: ASGIApp, front: FakeFront
) -> None:
    text = written("hermes", PARIS)
    spoken(front, "", text)
    reply = await call(app, "POST", CHAT, json_body=chat_body())
    assert reply.json["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (written("hermes", PARIS)[:60], "stop"),
        (written("hermes", PARIS, ROME).partition("Rome")[0], "stop"),
        (written("hermes", PARIS).partition("}}")[0] + "}", "tool_calls"),
        (written("hermes", PARIS) + '\n<tool_call>\n{"na', "tool_calls"),
    ],
)
async def test_a_stop_string_in_a_call_is_no_end_with_calls(
    app: ASGIApp, front: FakeFront, text: str, reason: str, streamed: bool
) -> None:
    spoken(front, "hermes", text)
    body = chat_body(tools=[TOOL], stream=streamed)
    reply = await call(app, "POST", CHAT, json_body=body)
    last = reply.events[-2] if streamed else reply.json
    assert last["choices"][0]["finish_reason"] == reason


async def test_a_call_that_was_cut_off_ends_with_length(app: ASGIApp, front: FakeFront) -> None:
    spoken(front, "hermes", written("hermes", PARIS)[:60])
    front.ending = Finish("length", 7, 3)
    reply = await call(app, "POST", CHAT, json_body=chat_body(tools=[TOOL]))
    (choice,) = reply.json["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "P'


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body(tools=[TOOL], tool_choice="required")),
        (
            CHAT,
            chat_body(
                tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_weather"}}
            ),
        ),
        (
            "/v1/responses",
            {"model": "small", "input": "hi", "tools": [FLAT], "tool_choice": "required"},
        ),
        ("/v1/messages", chat_body(max_tokens=9, tools=[OF_MESSAGES], tool_choice={"type": "any"})),
    ],
)
async def test_nothing_of_a_call_that_had_to_come_is_text(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, Any], streamed: bool
) -> None:
    spoken(front, "hermes", "<tool_c")
    front.ending = Finish("length", 7, 3)
    reply = await call(app, "POST", path, json_body={**body, "stream": streamed})
    assert reply.status == 200
    assert b"<tool" not in reply.body


def deltas(reply: Reply) -> list[dict[str, Any]]:
    *chunks, done = reply.events
    assert done == "[DONE]"
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


async def test_calls_are_streamed_as_deltas(app: ASGIApp, front: FakeFront) -> None:
    spoken(front, "hermes", f"I look.\n{written('hermes', PARIS)}", 9)
    reply = await call(app, "POST", CHAT, json_body=chat_body(tools=[TOOL], stream=True))
    first, text, begun, *rest, last = deltas(reply)
    assert first == {"role": "assistant", "content": None, "refusal": None}
    assert text == {"content": "I look."}
    own_id = reply.events[0]["id"].removeprefix("chatcmpl-")
    assert begun == {
        "tool_calls": [
            {
                "index": 0,
                "id": f"call_{own_id}_0_0",
                "type": "function",
                "function": {"name": "get_weather", "arguments": ""},
            }
        ]
    }
    pieces = [one["tool_calls"][0] for one in rest]
    assert len(pieces) > 1
    assert all(one.keys() == {"index", "function"} for one in pieces)
    assert "".join(one["function"]["arguments"] for one in pieces) == PARIS.arguments
    assert last == {}
    assert reply.events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_each_choice_has_its_own_calls(app: ASGIApp, front: FakeFront) -> None:
    front.tool_syntax = "hermes"
    front.scripts = [[written("hermes", PARIS)], ["No."]]
    reply = await call(app, "POST", CHAT, json_body=chat_body(tools=[TOOL], n=2, stream=True))
    *chunks, _ = reply.events
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    reasons = {one["index"]: one["finish_reason"] for one in choices if one["finish_reason"]}
    assert reasons == {0: "tool_calls", 1: "stop"}
    assert [one["index"] for one in choices if "tool_calls" in one["delta"]] == [0, 0]


async def test_an_answer_that_was_known_has_the_same_calls(app: ASGIApp, front: FakeFront) -> None:
    text = written("hermes", PARIS)
    front.recalled = Recalled(
        "smollm2-135m", text, [5, len(text)], Finish("stop", 7, 3), 1, "hermes"
    )
    for stream in (False, True):
        body = chat_body(tools=[TOOL], stream=stream)
        reply = await call(app, "POST", CHAT, json_body=body)
        if stream:
            assert any("tool_calls" in delta for delta in deltas(reply))
        else:
            assert reply.json["choices"][0]["finish_reason"] == "tool_calls"


async def test_no_log_probability_is_lost_behind_a_call(app: ASGIApp, front: FakeFront) -> None:
    text = f"So.\n{written('hermes', PARIS)}"
    front.tool_syntax = "hermes"
    front.pieces = [
        Piece(one, (TokenLogprob(i, one.encode(), -1.0),)) for i, one in enumerate(text)
    ]
    body = chat_body(tools=[TOOL], logprobs=True, stream=True)
    reply = await call(app, "POST", CHAT, json_body=body)
    *chunks, _ = reply.events
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    told = [one for choice in choices for one in (choice["logprobs"] or {"content": []})["content"]]
    assert "".join(one["token"] for one in told) == text


@pytest.fixture
def client(app: ASGIApp) -> Iterator[openai.OpenAI]:
    with (
        serving(app) as base,
        openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_official_clients_stream_puts_calls_together(
    client: openai.OpenAI, front: FakeFront, syntax: str
) -> None:
    spoken(front, syntax, written(syntax, PARIS, ROME))
    with client.chat.completions.stream(
        model="small", messages=[{"role": "user", "content": "hi"}], tools=[openai_tool()]
    ) as stream:
        done = [one for one in stream if one.type == "tool_calls.function.arguments.done"]
        answer = stream.get_final_completion().choices[0]
    assert [(one.name, one.arguments) for one in done] == [PARIS, ROME]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    calls = answer.message.tool_calls or []
    assert [(one.function.name, one.function.arguments) for one in calls] == [PARIS, ROME]
    assert len({one.id for one in calls}) == 2


@pytest.mark.parametrize(
    "text",
    [
        written("hermes", PARIS),
        written("hermes", PARIS)[:60],
        written("hermes", Call("get_weather", f'{{"n": {10**25}}}')),
        written("hermes", Call("get_weather", '{"n": "\\ud800"}')),
        written("hermes", Call("get_weather", f'{{"n": {"[" * 100}{"]" * 100}}}')),
    ],
    ids=["whole", "cut", "huge", "surrogate", "deep"],
)
def test_a_message_with_calls_can_be_sent_back_as_it_came(
    client: openai.OpenAI, front: FakeFront, text: str
) -> None:
    spoken(front, "hermes", text)
    first = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}], tools=[openai_tool()]
    )
    message = first.choices[0].message
    (made,) = message.tool_calls or []
    assert isinstance(made, ChatCompletionMessageFunctionToolCall)
    client.post(
        "/chat/completions",
        body={
            "model": "small",
            "messages": [
                USER,
                message.model_dump(),
                {"role": "tool", "tool_call_id": made.id, "content": "rain"},
            ],
        },
        cast_to=object,
    )
    assert len(front.requests) == 2


def openai_tool() -> Any:
    return {"type": "function", "function": {**FUNCTION, "strict": False}}

"""Anthropic's official client, over a real server: messages, streams, tools, exceptions."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pydantic
import pytest
from anthropic.types import Message, RawMessageStreamEvent, TextBlock, ToolUseBlock
from starlette.types import ASGIApp

from rayhost.errors import (
    ApiError,
    DeadlineExceeded,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    QueueFull,
    Unauthorized,
    WorkerLost,
)
from rayhost.front.request import ChatPrompt, Finish
from rayhost.ipc.messages import Prepare, Prepared, Tools, pack_tokens
from tests.http.fake_front import FakeFront
from tests.support.http_server import serving

HELLO: Any = [{"role": "user", "content": "hi"}]
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}
OFFERED = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture
def url(app: ASGIApp) -> Iterator[str]:
    with serving(app) as base:
        yield base


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def ask(client: anthropic.Anthropic, **more: Any) -> Message:
    given: dict[str, Any] = {"model": "small", "max_tokens": 20, "messages": HELLO, **more}
    reply: Message = client.messages.create(**given)
    return reply


def streamed(client: anthropic.Anthropic, **more: Any) -> list[RawMessageStreamEvent]:
    given: dict[str, Any] = {"model": "small", "max_tokens": 20, "messages": HELLO, **more}
    with client.messages.create(stream=True, **given) as stream:
        return list(stream)


def rebuilt(client: anthropic.Anthropic, **more: Any) -> Message:
    """Return what the client's own accumulator makes of a stream."""
    given: dict[str, Any] = {"model": "small", "max_tokens": 20, "messages": HELLO, **more}
    with client.messages.stream(**given) as stream:
        return stream.get_final_message()


def calling(front: FakeFront) -> None:
    """Let the model call a tool, in pieces."""
    front.tool_syntax = "hermes"
    front.pieces = ["I look. ", CALL[:30], CALL[30:55], CALL[55:]]


def test_the_client_does_not_repeat_what_cannot_be_answered(url: str, front: FakeFront) -> None:
    front.submit_error = ModelFailed("no such file")
    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=2) as client,
        pytest.raises(anthropic.InternalServerError),
    ):
        ask(client)
    assert len(front.requests) == 1


def test_a_whole_answer(client: anthropic.Anthropic, front: FakeFront) -> None:
    reply = ask(
        client,
        system="Be brief.",
        stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_k": 5},
    )
    (block,) = reply.content
    assert isinstance(block, TextBlock)
    assert block.text == "Paris is nice"
    assert (reply.role, reply.type, reply.model) == ("assistant", "message", "smollm2-135m")
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 5, 3)
    request = front.request
    assert request.prompt == ChatPrompt(
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"})
    )
    assert (request.max_tokens, request.stop) == (20, ("END",))
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 5)


def test_the_events_come_in_anthropics_order(client: anthropic.Anthropic, front: FakeFront) -> None:
    events = streamed(client)
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(front.pieces),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    first = events[0]
    assert first.type == "message_start"
    assert first.message.usage.input_tokens == 7


def test_every_event_has_what_the_clients_types_require(
    client: anthropic.Anthropic, front: FakeFront
) -> None:
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(RawMessageStreamEvent)
    for prepare in (lambda _: None, calling):
        prepare(front)
        for event in streamed(client, tools=[WEATHER]):
            adapter.validate_python(event.to_dict())
        Message.model_validate(ask(client, tools=[WEATHER]).to_dict())


def test_a_stream_is_rebuilt_to_the_whole_answer(
    client: anthropic.Anthropic, front: FakeFront
) -> None:
    for prepare in (lambda _: None, calling):
        prepare(front)
        streaming: dict[str, Any] = rebuilt(client, tools=[WEATHER]).to_dict()
        whole: dict[str, Any] = ask(client, tools=[WEATHER]).to_dict()
        for message in (streaming, whole):
            del message["id"]
            for block in message["content"]:
                block.pop("id", None)
        assert streaming == whole


def test_a_call_of_a_tool_is_a_block(client: anthropic.Anthropic, front: FakeFront) -> None:
    calling(front)
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    reply = ask(client, tools=[WEATHER], tool_choice=choice)
    text, call = reply.content
    assert isinstance(text, TextBlock)
    assert text.text == "I look."
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input) == ("weather", {"city": "Rome"})
    assert call.id == reply.id.replace("msg", "toolu") + "_0"
    assert reply.stop_reason == "tool_use"
    prompt = front.request.prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == Tools((OFFERED,), choice="required", parallel=False)


def test_an_answer_sent_back_with_what_came_of_its_call_is_valid(
    client: anthropic.Anthropic, front: FakeFront
) -> None:
    calling(front)
    first = ask(client, tools=[WEATHER])
    call = first.content[1]
    assert isinstance(call, ToolUseBlock)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    thanks = {"type": "text", "text": "Thanks."}
    messages = [*HELLO, first.to_param(), {"role": "user", "content": [result, thanks]}]
    ask(client, tools=[WEATHER], messages=messages)
    prompt = front.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    made = {
        "id": call.id,
        "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Rome"}},
    }
    assert prompt.messages == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look.", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        {"role": "user", "content": "Thanks."},
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("ending", "reason", "sequence"),
    [
        (Finish("stop", 7, 3), "end_turn", None),
        (Finish("length", 7, 20), "max_tokens", None),
        (Finish("length", 7, 19), "model_context_window_exceeded", None),
        (Finish("stop", 7, 3, stop_sequence="END"), "stop_sequence", "END"),
    ],
)
def test_the_stop_reason(
    client: anthropic.Anthropic,
    front: FakeFront,
    stream: bool,
    ending: Finish,
    reason: str,
    sequence: str | None,
) -> None:
    front.ending = ending
    reply = (rebuilt if stream else ask)(client)
    assert (reply.stop_reason, reply.stop_sequence) == (reason, sequence)
    assert reply.usage.output_tokens == ending.completion_tokens


def test_a_call_that_was_cut_has_no_input(client: anthropic.Anthropic, front: FakeFront) -> None:
    calling(front)
    front.pieces = ["<tool_call>", '{"name": "weather", "arguments": {"ci']
    front.ending = Finish("length", 7, 20)
    reply = ask(client, tools=[WEATHER])
    (call,) = reply.content
    assert isinstance(call, ToolUseBlock)
    assert (call.input, reply.stop_reason) == ({}, "max_tokens")


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_beyond_64_bits_are_told_as_they_were_written(
    client: anthropic.Anthropic, front: FakeFront, stream: bool
) -> None:
    calling(front)
    huge = f'{{"name": "weather", "arguments": {{"city": {"9" * 30}}}}}'
    front.pieces = [f"<tool_call>{huge}</tool_call>"]
    (call,) = (rebuilt if stream else ask)(client, tools=[WEATHER]).content
    assert isinstance(call, ToolUseBlock)
    assert call.input == {"city": 10**30 - 1}


def test_an_answer_that_has_begun_is_gone_on_with(
    client: anthropic.Anthropic, front: FakeFront
) -> None:
    ask(client, messages=[*HELLO, {"role": "assistant", "content": "The answer is"}])
    prompt = front.request.prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continue_final
    assert prompt.messages[-1] == {"role": "assistant", "content": "The answer is"}


def test_structured_output_is_parsed(client: anthropic.Anthropic, front: FakeFront) -> None:
    class Place(pydantic.BaseModel):
        name: str

    front.pieces = ['{"name": ', '"Paris"}']
    reply = client.messages.parse(model="small", max_tokens=20, messages=HELLO, output_format=Place)
    assert reply.parsed_output == Place(name="Paris")
    assert front.request.constraint is not None
    assert front.request.constraint.kind == "json_schema"


def test_tokens_are_counted_without_a_run(client: anthropic.Anthropic, front: FakeFront) -> None:
    front.reading = Prepared(pack_tokens([1, 2, 3]))
    count = client.messages.count_tokens(
        model="small", messages=HELLO, system="Be brief.", tools=[WEATHER]
    )
    assert count.input_tokens == 3
    ((model, question, _),) = front.questions
    assert model == "small"
    said = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"})
    assert question == Prepare(said, None, tools=Tools((OFFERED,)))
    assert front.requests == []


@pytest.mark.parametrize(
    ("error", "exception", "kind"),
    [
        (Unauthorized("no"), anthropic.AuthenticationError, "authentication_error"),
        (ModelNotFound("no"), anthropic.NotFoundError, "not_found_error"),
        (QueueFull("no"), anthropic.RateLimitError, "rate_limit_error"),
        (Overloaded("no"), anthropic.InternalServerError, "overloaded_error"),
        (DeadlineExceeded("no"), anthropic.InternalServerError, "timeout_error"),
        (WorkerLost("no"), anthropic.InternalServerError, "api_error"),
    ],
)
def test_each_refusal_is_its_own_exception(
    client: anthropic.Anthropic,
    front: FakeFront,
    error: ApiError,
    exception: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    front.submit_error = error
    with pytest.raises(exception) as refused:
        ask(client)
    assert refused.value.type == kind
    assert refused.value.status_code == error.status
    assert refused.value.request_id == front.request.id


def test_what_is_wrong_with_a_body_is_named(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as bad:
        ask(client, extra_body={"temperature": 1.5})
    assert "temperature" in str(bad.value.api_message)
    with pytest.raises(anthropic.ContentTooLargeError):
        ask(client, system="x" * 100_000)


def test_a_failure_under_a_stream_is_an_exception_after_what_came(
    client: anthropic.Anthropic, front: FakeFront
) -> None:
    front.run_error = WorkerLost("the worker died")
    given: Any = {"model": "small", "max_tokens": 20, "messages": HELLO}
    with client.messages.create(stream=True, **given) as stream:
        seen = [next(stream).type for _ in range(2 + len(front.pieces))]
        with pytest.raises(anthropic.APIStatusError, match="the worker died") as failure:
            next(stream)
    assert failure.value.type == "api_error"
    assert seen[-1] == "content_block_delta"


def test_the_version_header_may_be_left_out(url: str) -> None:
    body = {"model": "small", "max_tokens": 20, "messages": HELLO}
    reply = httpx.post(f"{url}/v1/messages", json=body)
    assert (reply.status_code, reply.json()["type"]) == (200, "message")

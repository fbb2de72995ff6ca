"""The official client's `responses`, over a real server: objects, streams, tools, exceptions."""

from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import (
    Response,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseStreamEvent,
)
from starlette.types import ASGIApp

from rayhost.errors import QueueFull, WorkerLost
from rayhost.front.request import ChatPrompt, Finish, Piece
from rayhost.ipc.messages import Likely, TokenLogprob, Tools
from tests.http.fake_front import FakeFront
from tests.support.http_server import serving

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture
def client(app: ASGIApp) -> Iterator[openai.OpenAI]:
    with (
        serving(app) as base,
        openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def calling(front: FakeFront) -> None:
    """Let the model call a tool, in pieces."""
    front.tool_syntax = "hermes"
    front.pieces = ["I look. ", CALL[:30], CALL[30:55], CALL[55:]]


def streamed(client: openai.OpenAI, **more: Any) -> list[ResponseStreamEvent]:
    with client.responses.create(model="small", input="hi", stream=True, **more) as stream:
        return list(stream)


def rebuilt(client: openai.OpenAI, **more: Any) -> Response:
    """Return what the client's own accumulator makes of a stream."""
    with client.responses.stream(model="small", input="hi", **more) as stream:
        return stream.get_final_response()


def test_a_whole_answer(client: openai.OpenAI, front: FakeFront) -> None:
    reply = client.responses.create(
        model="small", input="hi", instructions="Be brief.", metadata={"a": "b"}, temperature=0.5
    )
    assert reply.output_text == "Paris is nice"
    assert reply.id.startswith("resp_")
    assert (reply.status, reply.object, reply.model) == ("completed", "response", "smollm2-135m")
    assert (reply.instructions, reply.metadata) == ("Be brief.", {"a": "b"})
    assert (reply.temperature, reply.error, reply.incomplete_details) == (0.5, None, None)
    (item,) = reply.output
    assert isinstance(item, ResponseOutputMessage)
    assert (item.role, item.status, len(item.content)) == ("assistant", "completed", 1)
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 3)
    assert reply.usage.total_tokens == 10
    assert reply.usage.input_tokens_details.cached_tokens == 5
    assert reply.usage.output_tokens_details.reasoning_tokens == 0
    assert front.request.prompt == ChatPrompt(
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"})
    )


def test_nothing_is_stored_and_the_answer_says_so(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model="small", input="hi", store=True)
    assert raw.headers["x-rayhost-ignored"] == "store"
    reply = raw.parse()
    assert reply.model_extra is not None
    assert reply.model_extra["store"] is False
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="small", input="and?", previous_response_id=reply.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_the_events_of_a_text_come_in_openais_order(
    client: openai.OpenAI, front: FakeFront
) -> None:
    events = streamed(client)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(front.pieces),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == list(front.pieces)


def test_every_event_and_answer_has_what_the_clients_types_require(
    client: openai.OpenAI, front: FakeFront
) -> None:
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
    for prepare in (lambda _: None, calling):
        prepare(front)
        for event in streamed(client, tools=[WEATHER]):
            adapter.validate_python(event.to_dict())
        reply = client.responses.create(model="small", input="hi", tools=[WEATHER])
        Response.model_validate(reply.to_dict())


def test_a_stream_is_rebuilt_to_the_whole_answer(client: openai.OpenAI, front: FakeFront) -> None:
    for prepare in (lambda _: None, calling):
        prepare(front)
        streaming = rebuilt(client, tools=[WEATHER])
        whole = client.responses.create(model="small", input="hi", tools=[WEATHER])
        assert streaming.output_text == whole.output_text
        assert [item.type for item in streaming.output] == [item.type for item in whole.output]
        assert streaming.usage == whole.usage
        assert streaming.status == whole.status == "completed"


def test_calls_of_tools_are_items(client: openai.OpenAI, front: FakeFront) -> None:
    calling(front)
    events = streamed(client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    kinds = [event.type for event in events]
    start = kinds.index("response.output_item.done") + 1
    assert kinds[start] == "response.output_item.added"
    assert set(kinds[start + 1 : -3]) == {"response.function_call_arguments.delta"}
    assert kinds[-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    text, call = last.response.output
    assert isinstance(text, ResponseOutputMessage)
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')
    assert (call.call_id, call.status) == (
        last.response.id.replace("resp", "call") + "_0",
        "completed",
    )
    assert last.response.output_text == "I look."
    prompt = front.request.prompt
    assert isinstance(prompt, ChatPrompt)
    parameters = WEATHER["parameters"]
    offered = {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": parameters,
        "strict": False,
    }
    assert prompt.tools == Tools((offered,), choice="required", parallel=False)


def test_an_answer_sent_back_with_what_came_of_its_call_is_valid(
    client: openai.OpenAI, front: FakeFront
) -> None:
    calling(front)
    reply = client.responses.create(model="small", input="hi", tools=[WEATHER])
    back: Any = [
        {"role": "user", "content": "hi"},
        *(item.model_dump() for item in reply.output),
        {
            "type": "function_call_output",
            "call_id": reply.id.replace("resp", "call") + "_0",
            "output": "sunny",
        },
    ]
    client.responses.create(model="small", input=back, tools=[WEATHER])
    prompt = front.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    _, said, result = prompt.messages
    assert said["content"] == "I look."
    (call,) = said["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert result == {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_is_incomplete(
    client: openai.OpenAI, front: FakeFront, stream: bool
) -> None:
    front.ending = Finish("length", 7, 3)
    if stream:
        last = streamed(client, max_output_tokens=3)[-1]
        assert last.type == "response.incomplete"
        reply = last.response
    else:
        reply = client.responses.create(model="small", input="hi", max_output_tokens=3)
    assert front.request.max_tokens == 3
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    (item,) = reply.output
    assert isinstance(item, ResponseOutputMessage)
    assert item.status == "incomplete"


def test_an_answer_of_no_text_is_an_empty_message(client: openai.OpenAI, front: FakeFront) -> None:
    front.pieces = ()
    assert client.responses.create(model="small", input="hi").output_text == ""
    assert rebuilt(client).output_text == ""


def test_structured_output_is_parsed(client: openai.OpenAI, front: FakeFront) -> None:
    class Place(pydantic.BaseModel):
        name: str

    front.pieces = ['{"name": ', '"Paris"}']
    reply = client.responses.parse(model="small", input="hi", text_format=Place)
    assert reply.output_parsed == Place(name="Paris")
    constraint = front.request.constraint
    assert constraint is not None
    assert constraint.kind == "json_schema"
    assert '"name"' in constraint.source


def test_log_probabilities_come_where_they_are_included(
    client: openai.OpenAI, front: FakeFront
) -> None:
    told = TokenLogprob(5, b"Paris", -0.5, (Likely(5, b"Paris", -0.5),))
    front.pieces = [Piece("Paris", (told,))]
    reply = client.responses.create(
        model="small", input="hi", include=["message.output_text.logprobs"], top_logprobs=1
    )
    assert front.request.logprobs == 1
    (item,) = reply.output
    assert isinstance(item, ResponseOutputMessage)
    (part,) = item.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert [(one.token, one.logprob) for one in part.logprobs] == [("Paris", -0.5)]
    assert part.logprobs[0].top_logprobs[0].bytes == list(b"Paris")


def test_each_refusal_is_its_own_exception(client: openai.OpenAI, front: FakeFront) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-5", input="hi")
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(model="small", input="hi", tools=[{"type": "web_search"}])
    assert bad.value.param == "tools[0].type"
    assert "web_search" in bad.value.message
    front.submit_error = QueueFull("full", retry_after=2)
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="small", input="hi", stream=True)


def test_a_failure_under_a_stream_is_an_event_and_then_an_exception(
    client: openai.OpenAI, front: FakeFront
) -> None:
    front.run_error = WorkerLost("the worker died")
    with client.responses.create(model="small", input="hi", stream=True) as stream:
        # created, in progress, an item, its part, the text, and that it failed
        *_, last = [next(stream) for _ in range(5 + len(front.pieces))]
        with pytest.raises(openai.APIError, match="the worker died") as failure:
            next(stream)
    assert failure.value.code == "worker_lost"
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.output_text == "Paris is nice"

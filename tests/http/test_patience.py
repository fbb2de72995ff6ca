"""What a stream says while its run waits."""

import asyncio
import json
from typing import Any, Literal

import pytest
from starlette.types import ASGIApp, Message

from rayhost.errors import QueueFull
from rayhost.front.request import Finish, GenerateRequest, Run, Standing, TextPrompt
from rayhost.http.patience import admitted, commented
from tests.http.asgi import (
    CHAT,
    COMPLETIONS,
    Reply,
    body_messages,
    call,
    chat_body,
    http_scope,
    scripted,
)
from tests.http.fake_front import FakeFront, FakeRun, card
from tests.support.waiting import soon


def waiting(*places: Standing | None) -> FakeRun:
    run = FakeRun((), Finish("stop", 1, 1), None, hold=False)
    run.places = list(places)
    return run


async def test_a_stream_that_says_nothing_tells_why() -> None:
    run = waiting(Standing(3, 4.23), Standing(2, None), None, Standing(0, None))
    reply = Reply()
    async with commented(run, reply.send, every_s=0):
        await soon(lambda: len(reply.messages) >= 4, "every place was told")
    assert [message["body"] for message in reply.messages[:4]] == [
        b": queued position=3 estimate_s=4.2\n\n",
        b": queued position=2\n\n",
        b": keep-alive\n\n",
        b": prefilling\n\n",
    ]
    assert all(message["more_body"] for message in reply.messages)


async def test_while_a_reader_is_too_slow_nothing_is_added() -> None:
    reply, taken = Reply(), asyncio.Event()
    run = waiting(*[Standing(1, None)] * 100)

    async def slow(message: Message) -> None:
        await taken.wait()
        await reply.send(message)

    async with commented(run, slow, every_s=1e-9) as send:
        sending = asyncio.ensure_future(send({"body": b"text"}))
        for _ in range(20):
            await asyncio.sleep(0)
        taken.set()
        await sending
    assert reply.messages[0] == {"body": b"text"}
    assert len(run.places) >= 98, "one comment at most was begun before the text"


async def test_who_is_told_something_gets_no_comment_for_a_while() -> None:
    run, reply = waiting(), Reply()
    async with commented(run, reply.send, every_s=3600) as send:
        for _ in range(20):
            await send({"body": b"text"})
            await asyncio.sleep(0)
    assert reply.messages == [{"body": b"text"}] * 20


async def test_after_the_stream_nothing_more_is_said(no_task_leaks: None) -> None:
    run = waiting(*[Standing(1, None)] * 1000)
    reply = Reply()
    async with commented(run, reply.send, every_s=0):
        await soon(lambda: reply.messages, "the first comment")
    said = len(reply.messages)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(reply.messages) == said


Body = dict[str, Any]
OTHERS: list[tuple[str, Body]] = [
    (CHAT, chat_body(stream=True)),
    (COMPLETIONS, {"model": "small", "prompt": "hi", "stream": True}),
    ("/v1/responses", {"model": "small", "input": "hi", "stream": True}),
    ("/v1/messages", chat_body(stream=True, max_tokens=5)),
]


class Held:
    """A stream whose request finds its place only when the test lets it."""

    def __init__(
        self, app: ASGIApp, front: FakeFront, monkeypatch: pytest.MonkeyPatch, path: str, body: Body
    ) -> None:
        self.released = asyncio.Event()
        self.reply = Reply()
        submit = front.submit

        async def held(request: GenerateRequest) -> Run:
            await self.released.wait()
            return await submit(request)

        monkeypatch.setattr(front, "submit", held)
        monkeypatch.setattr("rayhost.http.patience.EVERY_S", 0.0)
        receive = scripted(*body_messages(json.dumps(body).encode()))
        self.asking = asyncio.ensure_future(app(http_scope("POST", path), receive, self.reply.send))

    async def end(self) -> bytes:
        """Let it go on once it was told why it waits; return the stream."""
        await soon(lambda: len(self.reply.messages) >= 3, "two comments")
        self.released.set()
        await self.asking
        return self.reply.body


@pytest.mark.parametrize(("state", "told"), [("ready", b"reading"), ("loading", b"loading")])
@pytest.mark.parametrize(("path", "body"), OTHERS)
async def test_a_stream_that_waits_for_a_place_is_begun_and_told_why(
    app: ASGIApp,
    front: FakeFront,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: Body,
    state: Literal["ready", "loading"],
    told: bytes,
) -> None:
    front.models = [card("smollm2-135m", "small", state=state)]
    held = Held(app, front, monkeypatch, path, body)
    stream = await held.end()
    assert (held.reply.status, held.reply.headers.get("x-rayhost-cache")) == (200, None)
    assert stream.startswith(b": " + told + b"\n\n: " + told + b"\n\n")
    assert b"Paris" in stream
    starts = [one for one in held.reply.messages if one["type"] == "http.response.start"]
    assert len(starts) == 1
    assert front.run.closed


@pytest.mark.parametrize(("path", "body"), OTHERS)
async def test_a_refusal_after_that_is_the_streams_last_event(
    app: ASGIApp, front: FakeFront, monkeypatch: pytest.MonkeyPatch, path: str, body: Body
) -> None:
    front.submit_error = QueueFull("no place", retry_after=3)
    held = Held(app, front, monkeypatch, path, body)
    stream = await held.end()
    assert held.reply.status == 200
    last = stream.decode().rstrip("\n").rpartition("\n\n")[2]
    told = json.loads(last.rpartition("data: ")[2])
    assert told["error"]["message"] == "no place"
    assert not held.reply.messages[-1].get("more_body", False)


async def test_who_leaves_while_waiting_for_a_place_leaves_nothing(
    no_task_leaks: None, front: FakeFront
) -> None:
    reply = Reply()
    front.hold_submit = True
    request = GenerateRequest("r", "small", TextPrompt("hi"))

    async def submitting() -> None:
        await front.submit(request)

    async def begin() -> None:
        await reply.send({"type": "http.response.start", "status": 200})

    waiting = asyncio.ensure_future(admitted(submitting(), begin, lambda: "x", reply.send, 0))
    await soon(lambda: len(reply.messages) >= 3, "two comments")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert front.submit_cancelled


async def test_a_short_stream_has_no_comments(app: ASGIApp, front: FakeFront) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert b"\n:" not in reply.body
    assert reply.events[-1] == "[DONE]"

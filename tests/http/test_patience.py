"""What a stream says while its run waits."""

import asyncio

from starlette.types import ASGIApp, Message

from rayhost.front.request import Finish, Standing
from rayhost.http.patience import commented
from tests.http.asgi import CHAT, Reply, call, chat_body
from tests.http.fake_front import FakeFront, FakeRun
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


async def test_a_short_stream_has_no_comments(app: ASGIApp, front: FakeFront) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert b"\n:" not in reply.body
    assert reply.events[-1] == "[DONE]"

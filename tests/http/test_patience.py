"""What a stream says while its run waits."""

import asyncio

from starlette.types import ASGIApp

from rayhost.front.request import Finish, Standing
from rayhost.http.patience import commented
from tests.http.asgi import CHAT, Reply, call, chat_body
from tests.http.fake_front import FakeFront, FakeRun
from tests.support.waiting import soon


def waiting(*places: Standing | None) -> FakeRun:
    run = FakeRun((), Finish("stop", 1, 1), None, hold=False)
    run.places = list(places)
    return run


async def test_a_run_that_waits_is_told_of_and_one_that_is_answered_is_not() -> None:
    run = waiting(Standing(3, 4.23), Standing(2, None), None, Standing(0, None))
    reply = Reply()
    async with commented(run, reply.send, every_s=0):
        await soon(lambda: not run.places, "every place was asked for")
    assert [message["body"] for message in reply.messages] == [
        b": queued position=3 estimate_s=4.2\n\n",
        b": queued position=2\n\n",
        b": prefilling\n\n",
    ]
    assert all(message["more_body"] for message in reply.messages)


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

"""A client that goes, in every phase, and one that is slow: nothing runs on for nobody."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import ASGIApp, Message
from structlog.testing import capture_logs

from rayhost.http.connection import while_connected
from tests.http.asgi import (
    CHAT,
    COMPLETIONS,
    Reply,
    body_messages,
    chat_body,
    completion_body,
    http_scope,
)
from tests.http.fake_front import FakeFront, Flag
from tests.support.http_server import serving

pytestmark = pytest.mark.usefixtures("no_task_leaks")
GONE: Message = {"type": "http.disconnect"}
EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Client:
    """Sends a body, awaits `on_read` for each message it reads, goes once `leaves` is set."""

    def __init__(
        self, leaves: Flag, on_read: Callable[[Message], Awaitable[None]] | None = None
    ) -> None:
        self.reply = Reply()
        self._leaves = leaves
        self._on_read = on_read
        self._waiting: list[Message] = []

    async def run(self, app: ASGIApp, path: str, body: object) -> None:
        self._waiting = body_messages(json.dumps(body).encode())
        await app(http_scope("POST", path), self._receive, self._send)

    async def _receive(self) -> Message:
        if self._waiting:
            return self._waiting.pop()
        await self._leaves.seen()
        return GONE

    async def _send(self, message: Message) -> None:
        await self.reply.send(message)
        if self._on_read is not None:
            await self._on_read(message)


async def test_a_client_that_goes_while_it_sends_its_body_is_not_answered(
    app: ASGIApp, front: FakeFront
) -> None:
    messages = [*body_messages(b'{"mod', b"")[:1], GONE]

    async def receive() -> Message:
        return messages.pop(0)

    reply = Reply()
    with capture_logs() as logs:
        await app(http_scope("POST", CHAT), receive, reply.send)
    assert not reply.messages
    assert not front.requests
    assert [(entry["event"], entry["status"]) for entry in logs] == [("refused", 499)]


@EITHER_WAY
async def test_a_client_that_goes_while_submit_waits_cancels_it(
    app: ASGIApp, front: FakeFront, stream: bool
) -> None:
    front.hold_submit = True
    client = Client(leaves=front.submitting)
    with capture_logs() as logs:
        await client.run(app, CHAT, chat_body(stream=stream))
    assert front.submit_cancelled
    assert not client.reply.messages
    assert not logs  # the front's to log


@EITHER_WAY
@pytest.mark.parametrize("pieces", [(), ("Paris",)], ids=["no text yet", "some text"])
async def test_a_client_that_goes_while_the_run_goes_on_closes_it(
    app: ASGIApp, front: FakeFront, stream: bool, pieces: tuple[str, ...]
) -> None:
    front.pieces, front.hold_run = pieces, True
    leaves = Flag()
    client = Client(leaves)
    task = asyncio.create_task(client.run(app, COMPLETIONS, completion_body(stream=stream)))
    await front.started.seen()
    await front.run.held.seen()
    assert not front.run.closed
    leaves.set()
    await task
    assert front.run.closed
    assert all(message.get("more_body", True) for message in client.reply.messages)


async def test_a_client_that_goes_without_reading_closes_its_run(
    app: ASGIApp, front: FakeFront
) -> None:
    blocked = Flag()

    async def never(message: Message) -> None:
        blocked.set()
        await asyncio.get_running_loop().create_future()

    leaves = Flag()
    task = asyncio.create_task(Client(leaves, never).run(app, CHAT, chat_body(stream=True)))
    await blocked.seen()
    assert not front.run.closed
    leaves.set()
    await task
    assert front.run.closed


async def test_nothing_is_pulled_from_the_run_for_a_client_that_does_not_read(
    app: ASGIApp, front: FakeFront
) -> None:
    front.pieces = ("x",) * 1000
    read: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
    client = Client(Flag(), read.put)
    task = asyncio.create_task(client.run(app, CHAT, chat_body(stream=True)))
    for _ in range(10):
        await read.get()
    for _ in range(100):  # turns in which an app that runs ahead would do so
        await asyncio.sleep(0)
    # Ten messages are the start, the role and 8 pieces; one more waits, one more is being sent.
    assert front.run.pulled == 10
    for _ in range(1 + 1 + 1000 + 1 - 10):
        await read.get()
    await task
    assert client.reply.events[-1] == "[DONE]"


async def test_a_server_that_stops_closes_the_run(app: ASGIApp, front: FakeFront) -> None:
    front.hold_run = True
    task = asyncio.create_task(Client(leaves=Flag()).run(app, CHAT, chat_body(stream=True)))
    await front.started.seen()
    await front.run.held.seen()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert front.run.closed


async def test_a_client_that_goes_after_its_answer_changes_nothing(
    app: ASGIApp, front: FakeFront
) -> None:
    leaves = Flag()

    async def leave_at_the_end(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            leaves.set()  # as uvicorn does: a disconnect follows every response

    client = Client(leaves, leave_at_the_end)
    with capture_logs() as logs:
        await client.run(app, CHAT, chat_body(stream=True))
    assert client.reply.events[-1] == "[DONE]"
    assert not logs


async def test_a_future_cancelled_inside_the_work_is_a_failure_not_a_disconnect() -> None:
    async def receive() -> Message:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(RuntimeError, match="from within"):
        await while_connected(receive, work())


async def test_a_receive_that_fails_ends_the_work_and_says_so() -> None:
    cancelled = Flag()

    async def receive() -> Message:
        raise OSError("broken")

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    with pytest.raises(OSError, match="broken"):
        await while_connected(receive, work())
    assert cancelled


def request_bytes(body: object) -> bytes:
    raw = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


def test_a_socket_that_closes_mid_stream_closes_the_run(app: ASGIApp, front: FakeFront) -> None:
    front.hold_run = True
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(request_bytes(chat_body(stream=True)))
            seen = b""
            while b"nice" not in seen:
                seen += client.recv(65536)
            assert not front.run.closed
        assert front.run.closed.wait()


def test_a_socket_that_closes_while_submit_waits_cancels_it(app: ASGIApp, front: FakeFront) -> None:
    front.hold_submit = True
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(request_bytes(chat_body()))
            assert front.submitting.wait()
        assert front.submit_cancelled.wait()

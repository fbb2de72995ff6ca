"""Sends traffic to a server and notes what came back and when; the I/O of `bench.load`.

A connection for each call: llama-server closes it after a stream, though it announces keep-alive.
All that is done while a server works is to parse and to stamp; figures are made of it elsewhere.
"""

import asyncio
import itertools
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

from bench.stream import Reply
from bench.traffic import Call, Lane


class Outcome(msgspec.Struct, frozen=True):
    """One call. Times in seconds; those of an answer that failed stand for nothing."""

    start_s: float  # since the run began
    latency_s: float
    ttft_s: float | None = None  # None: no text came
    gaps_s: tuple[float, ...] = ()  # between events with text
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, as the server says
    generated_tokens: int = 0
    error: str = ""  # empty: a whole answer
    detail: str = ""
    retry_after_s: int = 0  # of a refusal; 0: it does not say


class Lost(Exception):
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """One call on a connection of its own."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self.reply = Reply()
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Stamp, then parse."""
        now = time.perf_counter()
        try:
            self.reply.feed(data, now)
        except httptools.HttpParserError as error:
            self._end(Lost(f"not HTTP: {error}"))
        if self.reply.done:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits will get no more."""
        self._end(Lost(str(exc or "closed by the server")))

    def close(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Lost | None) -> None:
        if self.whole.done():
            return
        if error is None:
            self.whole.set_result(None)
        else:
            self.whole.set_exception(error)


class Client:
    """Everything one run sends to the server at `url`."""

    def __init__(self, url: str, model: str, limit_s: float) -> None:
        """After `limit_s` a client hangs up on its call, which counts as `late`."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._model = model
        self._limit_s = limit_s
        self._began = 0.0

    async def run(self, lanes: tuple[Lane, ...]) -> list[Outcome]:
        """Run the lanes together; return the outcomes, lane after lane."""
        # Encoded before the clock starts: nothing but sending is left to do.
        requests = [[self.request(call) for call in lane.calls] for lane in lanes]
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            started = [
                tasks.create_task(self._lane(lane.start_s, calls))
                for lane, calls in zip(lanes, requests, strict=True)
            ]
        return [outcome for task in started for outcome in task.result()]

    def request(self, call: Call) -> bytes:
        """Return the bytes of a call."""
        formatted = (
            {"response_format": msgspec.Raw(call.response_format.encode())}
            if call.response_format
            else {}
        )
        body = msgspec.json.encode(
            {
                "model": self._model,
                "messages": call.messages,
                "max_tokens": call.max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **formatted,
            }
        )
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in call.headers)
            + "\r\n"
        )
        return head.encode() + body

    async def _lane(self, start_s: float, requests: list[bytes]) -> list[Outcome]:
        if start_s:
            await asyncio.sleep(self._began + start_s - time.perf_counter())
        return [await self._call(request) for request in requests]

    async def _call(self, request: bytes) -> Outcome:
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        connection = Connection(request)
        reply = connection.reply
        error, detail = "", ""
        try:
            async with asyncio.timeout(self._limit_s):
                await loop.create_connection(lambda: connection, self._host, self._port)
                await connection.whole
            error, detail = reply.error, reply.detail
        except TimeoutError:
            error = "late"
        except Lost as lost:
            error, detail = "connection lost", str(lost)
        except OSError as refused:
            error, detail = "no connection", str(refused)
        finally:
            connection.close()
        ended = time.perf_counter()
        times = reply.text_times
        return Outcome(
            start_s=began - self._began,
            latency_s=ended - began,
            ttft_s=times[0] - began if times else None,
            gaps_s=tuple(after - before for before, after in itertools.pairwise(times)),
            prompt_tokens=reply.prompt_tokens,
            cached_tokens=reply.cached_tokens,
            generated_tokens=reply.generated_tokens,
            error=error,
            detail=detail,
            retry_after_s=reply.retry_after_s,
        )

"""The endpoint behind both kinds of completion: body in, run, answer out.

Invariants: nothing is sent before `submit` returned, so a refusal is a proper status; every run is
closed, at once when its client goes; nothing is buffered, a slow reader slows its own run only.
An answer that is known already needs no run, and no watch over its client.
"""

import re
from typing import Protocol

from starlette.types import Receive, Scope, Send

from rayhost.front.request import Front, Recalled, Reuse, Run
from rayhost.http import sse
from rayhost.http.answer import Answer, Ask, Caller, Parse
from rayhost.http.connection import Bodies, while_connected
from rayhost.http.edge import Exchange, Headers, exchange_of
from rayhost.http.patience import commented

_MAX_IGNORED = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_REPLAY_BYTES = 64 << 10  # of a stream that is known already, sent at once


class MakeAnswer(Protocol):
    """An `Answer` class."""

    def __call__(self, ask: Ask, model: str) -> Answer:
        """Return the writer of one reply; `model` is the canonical name."""
        ...


class Generate:
    """ASGI endpoint."""

    def __init__(self, front: Front, bodies: Bodies, parse: Parse, make_answer: MakeAnswer) -> None:
        self._front = front
        self._bodies = bodies
        self._parse = parse
        self._make_answer = make_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ApiError and ClientGone for `Edge` to deal with."""
        exchange = exchange_of(scope)
        raw = await self._bodies.read(scope, receive)
        caller = Caller(exchange.request_id, exchange.visit.terms, _reuse(scope))
        ask = self._parse(raw, caller)
        recalled = self._front.recall(ask.request)
        if recalled is None:
            await while_connected(receive, self._answer(ask, exchange, send))
            return
        exchange.submitted = True
        answer = self._make_answer(ask, recalled.model)
        headers = [
            (b"x-rayhost-cache", b"hit"),
            (b"age", b"%d" % recalled.age_s),
            *_ignored_header(ask),
        ]
        if ask.stream:
            await _replay(recalled, answer, headers, send)
        else:
            await _send_whole(answer.whole(recalled.text, recalled.finish), headers, send)

    async def _answer(self, ask: Ask, exchange: Exchange, send: Send) -> None:
        exchange.submitted = True
        run = await self._front.submit(ask.request)
        try:
            answer = self._make_answer(ask, run.model)
            headers = [(b"x-rayhost-cache", run.cache.encode("ascii")), *_ignored_header(ask)]
            if ask.stream:
                await _stream(run, answer, headers, send)
            else:
                text = "".join([piece async for piece in run])
                await _send_whole(answer.whole(text, run.finish), headers, send)
        finally:
            run.close()


async def _stream(run: Run, answer: Answer, headers: Headers, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, *headers]})
    await send({"type": "http.response.body", "body": answer.opening(), "more_body": True})
    async with commented(run, send):
        async for text in run:
            piece = answer.piece(text)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": answer.closing(run.finish)})


async def _replay(recalled: Recalled, answer: Answer, headers: Headers, send: Send) -> None:
    """Send the events of a stream as they were, many at a time."""
    await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, *headers]})
    events = answer.opening()
    for text in recalled.pieces():
        events += answer.piece(text)
        if len(events) >= _REPLAY_BYTES:
            await send({"type": "http.response.body", "body": events, "more_body": True})
            events = b""
    events += answer.closing(recalled.finish)
    await send({"type": "http.response.body", "body": events})


async def _send_whole(body: bytes, headers: Headers, send: Send) -> None:
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


def _reuse(scope: Scope) -> Reuse:
    """Return what the request's Cache-Control asks for."""
    reuse: Reuse = "any"
    for name, value in scope["headers"]:
        if name == b"cache-control":
            directives = {one.strip().lower() for one in value.split(b",")}
            if b"no-store" in directives:
                return "never"
            if b"no-cache" in directives:
                reuse = "refresh"
    return reuse


def _ignored_header(ask: Ask) -> Headers:
    """Return the header that names ignored parameters: the client's own words, so made harmless."""
    if not ask.ignored:
        return []
    names = [_UNSAFE.sub("?", name[:64]) for name in ask.ignored[:_MAX_IGNORED]]
    if len(ask.ignored) > _MAX_IGNORED:
        names.append("...")
    return [(b"x-rayhost-ignored", ", ".join(names).encode("ascii"))]

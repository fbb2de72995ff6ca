"""The endpoint behind every kind of completion: body in, runs, answer out.

Invariants: nothing is sent before `submit` returned, so a refusal is a proper status, but to a
stream that waited for seconds by then; every run is closed, at once when its client goes; nothing
is buffered, a slow reader slows its own run only.
An answer that is known already needs no run, and no watch over its client.
"""

import re
from collections.abc import Sequence
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from rayhost.errors import InvalidRequest
from rayhost.front.request import Finish, Front, Piece, Recalled, Reuse
from rayhost.http import sse
from rayhost.http.answer import Answer, Ask, Caller, MakeAnswer, Outcome, Parse
from rayhost.http.connection import Bodies, while_connected
from rayhost.http.edge import Exchange, Headers, exchange_of
from rayhost.http.parsed import Parsed
from rayhost.http.patience import admitted, commented
from rayhost.http.sources import Sources

# How a worker refuses what an answer has to match.
GRAMMAR_CODES = frozenset(
    {"invalid_json_schema", "invalid_grammar", "invalid_regex", "grammar_too_complex"}
)
_MAX_IGNORED = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_REPLAY_BYTES = 64 << 10  # of a stream that is known already, sent at once


class Generate:
    """ASGI endpoint."""

    def __init__(
        self,
        front: Front,
        bodies: Bodies,
        parsed: Parsed,
        parse: Parse,
        make_answer: MakeAnswer,
    ) -> None:
        self._front = front
        self._bodies = bodies
        self._parsed = parsed
        self._parse = parse
        self._make_answer = make_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ApiError and ClientGone for `Edge` to deal with."""
        exchange = exchange_of(scope)
        raw = await self._bodies.read(scope, receive)
        caller = Caller(exchange.request_id, exchange.visit.terms, reuse_of(scope))
        ask = self._parsed.read(self._parse, raw, caller)
        known = [self._front.recall(request) for request in ask.requests]
        recalled = [one for one in known if one is not None]
        if len(recalled) < len(known):
            await while_connected(receive, self._answer(ask, known, exchange, send))
            return
        self._parsed.keep(self._parse, raw, ask)
        exchange.submitted = True
        answer = self._make_answer(ask, recalled[0])
        exchange.failed = answer.failed
        headers = [
            (b"x-rayhost-cache", b"hit"),
            (b"age", b"%d" % max(one.age_s for one in recalled)),
            *ignored_header(ask.ignored),
        ]
        if ask.stream:
            await _replay(recalled, answer, headers, send)
        else:
            outcomes = [Outcome(Piece(one.text), one.finish) for one in recalled]
            await send_whole(answer.whole(outcomes), headers, send)

    async def _answer(
        self, ask: Ask, known: Sequence[Recalled | None], exchange: Exchange, send: Send
    ) -> None:
        exchange.submitted = True
        sources = Sources(self._front, ask.requests, known)
        begun = False
        try:
            if ask.stream:
                begun = await self._admitted(ask, sources, exchange, send)
            else:
                await sources.submit()
            answer = self._make_answer(ask, sources.first)
            exchange.failed = answer.failed
            cache = sources.first_run.cache.encode("ascii")
            headers = [(b"x-rayhost-cache", cache), *ignored_header(ask.ignored)]
            if ask.stream:
                if not begun:
                    await _begin(headers, send)
                await _stream(sources, answer, send)
            else:
                await send_whole(answer.whole(await _gather(sources)), headers, send)
        except InvalidRequest as error:
            if error.code not in GRAMMAR_CODES:
                raise
            # No worker knows which parameter it came in.
            param = ask.form or error.param
            raise InvalidRequest(error.message, code=error.code, param=param) from error
        finally:
            sources.close()

    async def _admitted(self, ask: Ask, sources: Sources, exchange: Exchange, send: Send) -> bool:
        """Have the runs of a stream queued; return whether it had to be begun before they were."""

        async def begin() -> None:
            # What fails from now on is told in the stream, as the answer's kind does.
            nothing = Recalled(ask.request.model, "", (), Finish("stop", 0, 0), 0)
            exchange.failed = self._make_answer(ask, nothing).failed
            await _begin(ignored_header(ask.ignored), send)

        def told() -> str:
            states = {
                card.state
                for card in self._front.cards()
                if ask.request.model in (card.name, *card.aliases)
            }
            return "reading" if states == {"ready"} else "loading"

        return await admitted(sources.submit(), begin, told, send)


async def _gather(sources: Sources) -> list[Outcome]:
    pieces: dict[int, list[Piece]] = {}
    finishes: dict[int, Finish] = {}
    async with aclosing(sources.news()) as news:
        async for index, new in news:
            if isinstance(new, Finish):
                finishes[index] = new
            else:
                pieces.setdefault(index, []).append(new)
    return [
        Outcome(_joined(pieces.get(index, [])), finish)
        for index, finish in sorted(finishes.items())
    ]


def _joined(pieces: Sequence[Piece]) -> Piece:
    return Piece(
        "".join([piece.text for piece in pieces]),
        tuple([logprob for piece in pieces for logprob in piece.logprobs]),
    )


async def _begin(headers: Headers, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, *headers]})


async def _stream(sources: Sources, answer: Answer, send: Send) -> None:
    await send({"type": "http.response.body", "body": answer.opening(), "more_body": True})
    finishes: dict[int, Finish] = {}
    async with (
        commented(sources, send, alive=answer.alive) as sending,
        aclosing(sources.news()) as news,
    ):
        async for index, new in news:
            if isinstance(new, Finish):
                finishes[index] = new
                body = answer.ended(new, index)
            else:
                body = answer.piece(new, index)
            if body:
                await sending({"type": "http.response.body", "body": body, "more_body": True})
    last = answer.closing([finish for _, finish in sorted(finishes.items())])
    await send({"type": "http.response.body", "body": last})


async def _replay(
    recalled: Sequence[Recalled], answer: Answer, headers: Headers, send: Send
) -> None:
    """Send the events of a stream as they were, many at a time, one choice after another."""
    await _begin(headers, send)
    events = answer.opening()
    for index, one in enumerate(recalled):
        for event in answer.replayed(one, index):
            events += event
            if len(events) >= _REPLAY_BYTES:
                await send({"type": "http.response.body", "body": events, "more_body": True})
                events = b""
        events += answer.ended(one.finish, index)
    events += answer.closing([one.finish for one in recalled])
    await send({"type": "http.response.body", "body": events})


async def send_whole(body: bytes, headers: Headers, send: Send) -> None:
    """Send a reply that is known whole."""
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


def reuse_of(scope: Scope) -> Reuse:
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


def ignored_header(ignored: Sequence[str]) -> Headers:
    """Return the header that names ignored parameters: the client's own words, so made harmless."""
    if not ignored:
        return []
    names = [_UNSAFE.sub("?", name[:64]) for name in ignored[:_MAX_IGNORED]]
    if len(ignored) > _MAX_IGNORED:
        names.append("...")
    return [(b"x-rayhost-ignored", ", ".join(names).encode("ascii"))]

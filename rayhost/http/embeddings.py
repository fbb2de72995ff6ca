"""`POST /v1/embeddings`: texts or token ids in, one vector for each out.

A request may have 2,048 inputs; each is a run of its own, so those of many requests are computed
together. Vectors travel as the worker's float32 until they are written.
"""

import asyncio
import base64
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.types import Send

from rayhost.errors import InvalidRequest
from rayhost.front.request import Prompt, TextPrompt, TokenPrompt
from rayhost.http.answer import Caller
from rayhost.http.body import parse_body
from rayhost.http.edge import Headers
from rayhost.http.generate import send_whole
from rayhost.http.json import encode
from rayhost.http.vectors import (
    MOST,
    Ask,
    Endpoint,
    Made,
    Vectors,
    headers_of,
    requests_of,
    usage_of,
)

INT32_MAX = 2**31 - 1
_AT_ONCE = 64  # vectors that are written before others of the event loop have their turn

Token = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Item = str | Token | list[Token]
Format = Literal["float", "base64"]


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body."""

    model: str
    input: str | list[Item]
    encoding_format: Format = "float"
    dimensions: Annotated[int, Meta(ge=1, le=INT32_MAX)] | None = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingAsk(Ask):
    """A validated body. `dimensions` None: all that the vectors have; `path`: of the i-th input."""

    path: str
    format: Format
    dimensions: int | None


def _prompts(given: str | list[Item]) -> list[Prompt]:
    """Return the inputs, in any of the four forms that OpenAI documents."""
    if isinstance(given, str):
        return [_text(given, "input")]
    if not given:
        raise InvalidRequest("input: must not be empty", param="input")
    if _is_one(given):
        return [TokenPrompt(tuple(item for item in given if isinstance(item, int)))]
    if len(given) > MOST:
        raise InvalidRequest(
            f"input: at most {MOST} inputs are allowed, not {len(given)}", param="input"
        )
    return [_prompt(item, f"input[{index}]") for index, item in enumerate(given)]


def _is_one(given: str | list[Item]) -> bool:
    """Return whether the whole is one input: a text, or a list of token ids."""
    return isinstance(given, str) or all(isinstance(item, int) for item in given)


def _prompt(item: Item, where: str) -> Prompt:
    match item:
        case str():
            return _text(item, where)
        case int():
            raise InvalidRequest(
                "input: a list holds token ids or inputs, not both",
                code="invalid_type",
                param="input",
            )
        case _ if not item:
            raise InvalidRequest(f"{where}: must not be empty", param=where)
    return TokenPrompt(tuple(item))


def _text(text: str, where: str) -> TextPrompt:
    if not text:
        raise InvalidRequest(f"{where}: must not be empty", param=where)
    return TextPrompt(text)


class Embeddings(Endpoint[EmbeddingAsk]):
    """The endpoint."""

    def parse(self, raw: bytes, caller: Caller) -> EmbeddingAsk:
        """Return what a body asks for. Raises InvalidRequest."""
        body, ignored = parse_body(raw, EmbeddingBody, {})
        requests = requests_of(_prompts(body.input), "embed", body.model, caller)
        path = "input" if _is_one(body.input) else "input[{}]"
        return EmbeddingAsk(requests, ignored, path, body.encoding_format, body.dimensions)

    async def answer(self, ask: EmbeddingAsk, send: Send) -> None:
        """Send the vectors, those of a long list in several parts."""

        def check(made: Made) -> None:
            length = len(made.finish.vector) // 4
            if ask.dimensions is not None and ask.dimensions > length:
                raise InvalidRequest(
                    f"dimensions: the model's vectors have {length}, not {ask.dimensions}",
                    param="dimensions",
                )

        made = await Vectors(self._front, ask.requests, ask.path).made(check)
        headers = headers_of(ask, made)
        if len(made) <= _AT_ONCE:
            await send_whole(b"".join(_pieces(made, ask)), headers, send)
        else:
            await _send_long(made, ask, headers, send)


def _pieces(made: Sequence[Made], ask: EmbeddingAsk) -> Iterator[bytes]:
    """Yield the reply's bytes, the vectors some at a time."""
    yield b'{"object":"list","data":['
    for start in range(0, len(made), _AT_ONCE):
        entries = [
            encode({"object": "embedding", "index": index, "embedding": _written(one, ask)})
            for index, one in enumerate(made[start : start + _AT_ONCE], start)
        ]
        yield (b"," if start else b"") + b",".join(entries)
    yield b'],"model":%b,"usage":%b}' % (encode(made[0].model), encode(usage_of(made)))


async def _send_long(made: Sequence[Made], ask: EmbeddingAsk, headers: Headers, send: Send) -> None:
    """Send a reply of megabytes, which would keep other clients waiting if written at once."""
    own = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
    for piece in _pieces(made, ask):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


def _written(made: Made, ask: EmbeddingAsk) -> str | list[float]:
    """Return a vector as the client wants it."""
    vector = made.finish.vector
    if ask.dimensions is not None:
        vector = shortened(vector, ask.dimensions)
    if ask.format == "base64":
        return base64.b64encode(vector).decode("ascii")
    return array("f", vector).tolist()


def shortened(vector: bytes, dimensions: int) -> bytes:
    """Return the first numbers of a vector, made as long as a vector is: 1."""
    kept = array("f", vector[: 4 * dimensions])
    length = math.hypot(*kept)
    return array("f", [one / length for one in kept]).tobytes() if length else kept.tobytes()

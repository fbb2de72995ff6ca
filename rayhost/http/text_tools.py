"""`/tokenize`, `/detokenize`, `/apply-template`, as llama-server has them, and the counting of
tokens as Anthropic has it: questions to a model's text thread. Nothing is queued or run.

The shapes are llama-server's; `model` may be left out where one model is served.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rayhost.errors import InvalidRequest
from rayhost.front.request import Front, Question, Reading
from rayhost.http import chat, messages
from rayhost.http.answer import Asked
from rayhost.http.body import missing, parse_body
from rayhost.http.connection import Bodies, while_connected
from rayhost.http.edge import exchange_of
from rayhost.http.generate import ignored_header, send_whole
from rayhost.http.json import encode
from rayhost.http.schema import INT32_MAX, shown
from rayhost.ipc.messages import Convert, Converted, pack_tokens, unpack_tokens

MAX_TOKENS = 1 << 17  # of a list that is to become text: 0.2 to 0.5 s of the text thread

Parse = Callable[[bytes], Asked]
Shape = Callable[[Question, Reading], dict[str, Any]]


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `/tokenize`; `prompt` is another name for `content`."""

    content: str | None = None
    prompt: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    model: str = ""


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `/detokenize`."""

    tokens: list[int]
    model: str = ""


class TokenPiece(msgspec.Struct, frozen=True):
    """A token and what it spells: text, or bytes where they are part of a character."""

    id: int
    piece: str | tuple[int, ...]


class TokenizeReply(msgspec.Struct, frozen=True):
    """The tokens of a text."""

    tokens: tuple[int | TokenPiece, ...]


class DetokenizeReply(msgspec.Struct, frozen=True):
    """The text of tokens."""

    content: str


class TemplateReply(msgspec.Struct, frozen=True):
    """What the chat template makes of a conversation."""

    prompt: str


class CountReply(msgspec.Struct, frozen=True):
    """How many tokens a conversation has."""

    input_tokens: int


class TemplateBody(chat.ChatBody, frozen=True, kw_only=True):
    """The body of `/apply-template`: that of a chat, of which only the prompt is made."""

    model: str = ""


class TextTool:
    """ASGI endpoint of one question."""

    def __init__(self, front: Front, bodies: Bodies, parse: Parse, shape: Shape) -> None:
        self._front = front
        self._bodies = bodies
        self._parse = parse
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ApiError and ClientGone for `Edge` to deal with."""
        terms = exchange_of(scope).visit.terms
        raw = await self._bodies.read(scope, receive)
        asked = self._parse(raw)

        async def answer() -> None:
            reading = await self._front.ask(asked.model or self._only(), asked.question, terms)
            reply = encode(self._shape(asked.question, reading))
            await send_whole(reply, ignored_header(asked.ignored), send)

        await while_connected(receive, answer())

    def _only(self) -> str:
        """Return the name of the one model. Raises InvalidRequest where there are several."""
        names = [card.name for card in self._front.cards()]
        if len(names) == 1:
            return names[0]
        raise InvalidRequest(
            f"model: required, as there are several: {', '.join(names)}",
            code="missing_required_parameter",
            param="model",
        )


def routes(front: Front, bodies: Bodies) -> list[Route]:
    """Return the routes of every question."""
    endpoints: dict[str, tuple[Parse, Shape]] = {
        "/tokenize": (parse_tokenize, tokens),
        "/detokenize": (parse_detokenize, content),
        "/apply-template": (parse_template, prompt),
        "/v1/messages/count_tokens": (messages.parse_count, input_tokens),
    }
    return [
        Route(path, TextTool(front, bodies, *how), methods=["POST"], name=path.rpartition("/")[2])
        for path, how in endpoints.items()
    ]


def parse_tokenize(raw: bytes) -> Asked:
    """Return what a body of `/tokenize` asks. Raises InvalidRequest."""
    body, ignored = parse_body(raw, TokenizeBody, {})
    text = body.prompt if body.content is None else body.content
    if text is None:
        raise missing("content")
    question = Convert(
        "tokens",
        text=text,
        add_special=body.add_special,
        parse_special=body.parse_special,
        pieces=body.with_pieces,
    )
    return Asked(body.model, question, ignored)


def tokens(question: Question, reading: Reading) -> dict[str, Any]:
    """Return the reply of `/tokenize`."""
    ids = unpack_tokens(reading.tokens)
    if not isinstance(question, Convert) or not question.pieces:
        return {"tokens": ids}
    pieces = _converted(reading).pieces
    pairs = zip(ids, pieces, strict=True)
    return {"tokens": [{"id": token, "piece": _spelled(piece)} for token, piece in pairs]}


def parse_detokenize(raw: bytes) -> Asked:
    """Return what a body of `/detokenize` asks. Raises InvalidRequest."""
    body, ignored = parse_body(raw, DetokenizeBody, {})
    if len(body.tokens) > MAX_TOKENS:
        raise InvalidRequest(
            f"tokens: at most {MAX_TOKENS} are allowed, not {len(body.tokens)}", param="tokens"
        )
    for i, token in enumerate(body.tokens):
        if not 0 <= token <= INT32_MAX:
            raise InvalidRequest(
                f"tokens[{i}]: a token id is between 0 and {INT32_MAX}, not {shown(token)}",
                param=f"tokens[{i}]",
            )
    return Asked(body.model, Convert("text", tokens=pack_tokens(body.tokens)), ignored)


def content(_question: Question, reading: Reading) -> dict[str, Any]:
    """Return the reply of `/detokenize`."""
    return {"content": _converted(reading).text}


def parse_template(raw: bytes) -> Asked:
    """Return what a body of `/apply-template` asks. Raises InvalidRequest."""
    body, ignored = parse_body(raw, TemplateBody, {})
    prompt = chat.prompt_of(body)
    question = Convert(
        "prompt",
        messages=prompt.messages,
        tools=prompt.tools,
        continue_final=prompt.continue_final,
        options=prompt.options,
    )
    return Asked(body.model, question, ignored)


def prompt(_question: Question, reading: Reading) -> dict[str, Any]:
    """Return the reply of `/apply-template`."""
    return {"prompt": _converted(reading).text}


def input_tokens(_question: Question, reading: Reading) -> dict[str, Any]:
    """Return the reply of `/v1/messages/count_tokens`."""
    return {"input_tokens": len(unpack_tokens(reading.tokens))}


def _converted(reading: Reading) -> Converted:
    if not isinstance(reading, Converted):
        raise TypeError(f"a Convert was answered with {type(reading).__name__}")
    return reading


def _spelled(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)

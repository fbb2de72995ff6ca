"""The form of a chat's answer: a message, or chunks of it, with the calls of tools taken out.

Pure, as every `Answer`. Where the run's text can have calls (`tool_syntax`), each choice is read by
a `ToolStream`; else text passes as it is.
"""

from collections.abc import Iterator
from typing import Any

from rayhost.front.request import Finish, Piece, Recalled, Run
from rayhost.http.answer import Answer, Ask
from rayhost.http.choices import ChoicesAnswer
from rayhost.http.tool_calls import (
    CallBegin,
    CallDelta,
    ContentDelta,
    Event,
    ToolStream,
    collected,
)
from rayhost.ipc.messages import TokenLogprob

Logprobs = tuple[TokenLogprob, ...]


class ChatAnswer(ChoicesAnswer):
    """A `chat.completion`, or its chunks."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, ask: Ask, run: Run | Recalled) -> None:
        super().__init__(ask, run)
        self._syntax = run.tool_syntax
        self._required = ask.calls_only
        self._streams = [self._stream() for _ in ask.requests] if self._syntax else []
        self._called: set[int] = set()  # the choices with a call
        self._untold: dict[int, Logprobs] = {}  # of tokens whose text has not come yet

    def opening(self) -> bytes:
        """Return the chunks that say whose turn it is."""
        content = None if self._syntax else ""  # there may be none
        delta = {"role": "assistant", "content": content, "refusal": None}
        return b"".join(
            [self._event([_choice(i, {"delta": delta}, None)]) for i in range(self._count)]
        )

    def piece(self, piece: Piece, index: int) -> bytes:
        """Return the events of a part of a choice."""
        if not self._syntax:
            return super().piece(piece, index)
        self._untold[index] = self._untold.get(index, ()) + piece.logprobs
        return self._events(self._streams[index].push(piece.text), index)

    def replayed(self, recalled: Recalled, index: int) -> Iterator[bytes]:
        """Yield the events of a choice that is known, but for its end."""
        if self._syntax:
            return Answer.replayed(self, recalled, index)
        return super().replayed(recalled, index)

    def ended(self, finish: Finish, index: int) -> bytes:
        """Return the events at the end of a choice, the last of which says why."""
        if not self._syntax:
            return super().ended(finish, index)
        rest = self._events(self._streams[index].close(), index)
        whole = index in self._called and not self._streams[index].in_arguments
        reason = _reason(finish.reason, called=whole)
        late = self._untold.pop(index, ())
        return rest + self._event([_choice(index, {"delta": {}}, reason, late or None)])

    def _events(self, parsed: list[Event], index: int) -> bytes:
        return b"".join([self._event([self._parsed(one, index)]) for one in parsed])

    def _parsed(self, event: Event, index: int) -> dict[str, Any]:
        match event:
            case ContentDelta(text):
                delta: dict[str, Any] = {"content": text}
            case CallBegin(call, name):
                self._called.add(index)
                delta = {"tool_calls": [{"index": call, **self._call(index, call, name, "")}]}
            case CallDelta(call, arguments):
                delta = {"tool_calls": [{"index": call, "function": {"arguments": arguments}}]}
        return _choice(index, {"delta": delta}, None, self._untold.pop(index, ()) or None)

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        return _choice(index, {"delta": {"content": piece.text}}, None, piece.logprobs or None)

    def _last(self, index: int, finish_reason: str) -> dict[str, Any]:
        return _choice(index, {"delta": {}}, finish_reason)

    def _whole(self, index: int, piece: Piece, finish_reason: str) -> dict[str, Any]:
        stream = self._stream()
        content, calls = collected([*stream.push(piece.text), *stream.close()])
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = [
                self._call(index, i, name, arguments) for i, (name, arguments) in enumerate(calls)
            ]
        reason = _reason(finish_reason, called=bool(calls) and not stream.in_arguments)
        told = piece.logprobs if self._logprobs else None
        return _choice(index, {"message": message}, reason, told)

    def _stream(self) -> ToolStream:
        return ToolStream(self._syntax, required=self._required)

    def _call(self, index: int, call: int, name: str, arguments: str) -> dict[str, Any]:
        return {
            "id": f"call_{self._own_id}_{index}_{call}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }


def _reason(finish_reason: str, *, called: bool) -> str:
    # Of a call that a stop string cut nobody could read the arguments.
    return "tool_calls" if called and finish_reason == "stop" else finish_reason


def _choice(
    index: int,
    content: dict[str, Any],
    finish_reason: str | None,
    logprobs: Logprobs | None = None,
) -> dict[str, Any]:
    told = None
    if logprobs is not None:
        told = {"content": [_told(one) for one in logprobs], "refusal": None}
    return {"index": index, **content, "logprobs": told, "finish_reason": finish_reason}


def _told(one: TokenLogprob) -> dict[str, Any]:
    top = [_token(like.piece, like.logprob) for like in one.top]
    return {**_token(one.piece, one.logprob), "top_logprobs": top}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {
        "token": piece.decode(errors="replace"),
        "logprob": logprob,
        "bytes": list(piece),
    }

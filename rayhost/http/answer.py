"""The form of an answer: what both endpoints' replies share, whole or streamed.

Pure: text and counts in, bytes out. One `Answer` per request; `generate` drives it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from rayhost.clock import unix_seconds
from rayhost.front.request import Finish, GenerateRequest, Reuse, Terms
from rayhost.http import sse
from rayhost.http.json import encode

_MARK = "\0"


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated body: what to generate, how to answer, which parameters were ignored."""

    request: GenerateRequest
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]


class Answer(ABC):
    """Writes one reply. A stream is `opening`, a `piece` per text, `closing`; else `whole`."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, ask: Ask, model: str) -> None:
        self._id = f"{self.id_prefix}-{ask.request.id}"
        self._created = int(unix_seconds())
        self._model = model
        self._include_usage = ask.include_usage

    @abstractmethod
    def opening(self) -> bytes:
        """Return the events before the first text."""

    @abstractmethod
    def _choice(self, text: str | None, finish_reason: str | None) -> dict[str, Any]:
        """Return the one choice of a chunk."""

    @abstractmethod
    def _whole_choice(self, text: str, finish_reason: str) -> dict[str, Any]:
        """Return the one choice of a whole reply."""

    def piece(self, text: str) -> bytes:
        """Return the event of some text."""
        # All but the text is encoded once: a quarter of the time, for answers that are known whole.
        before, after = self._around
        return before + encode(text) + after

    @cached_property
    def _around(self) -> tuple[bytes, bytes]:
        """What an event has before and after its text."""
        # The mark cannot be in any other value: there, its quotes would be escaped.
        before, after = self._event([self._choice(_MARK, None)]).split(encode(_MARK))
        return before, after

    def closing(self, finish: Finish) -> bytes:
        """Return the events after the last text."""
        last = self._event([self._choice(None, finish.reason)])
        if self._include_usage:
            last += self._event([], _usage(finish))
        return last + sse.DONE

    def whole(self, text: str, finish: Finish) -> bytes:
        """Return the body of a reply that is not streamed."""
        choices = [self._whole_choice(text, finish.reason)]
        return encode({**self._head(self.whole_object, choices), "usage": _usage(finish)})

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk = self._head(self.chunk_object, choices)
        if self._include_usage:  # then null, everywhere but in its own chunk
            chunk["usage"] = usage
        return sse.event(chunk)

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a request before its body is read."""

    request_id: str
    terms: Terms = field(default_factory=Terms)
    reuse: Reuse = "any"


Parse = Callable[[bytes, Caller], Ask]


def _usage(finish: Finish) -> dict[str, Any]:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.reused_tokens},
    }

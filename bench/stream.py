"""One HTTP answer with server-sent events, read as it arrives and stamped with the time.

Pure: bytes and the time they came go in, in pieces of any size; `Reply` says what was in them.
"""

from typing import Any

import httptools
import msgspec


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details = _Details()


class _Chunk(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class EventReader:
    """Splits a body into the payloads of its `data:` lines. Both servers write one per event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class Reply:
    """An answer to one call, complete once `done`."""

    def __init__(self) -> None:
        self.status = 0
        self.retry_after_s = 0
        self.text_times: list[float] = []  # when each event with text came
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.done = False
        self._now = 0.0
        self._body = b""  # of an answer that is no stream
        self._failure = ""
        self._ended = False  # the stream said so
        self._usage_seen = False
        self._events = EventReader()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, now: float) -> None:
        """Take what came at `now`, in seconds. Raises httptools.HttpParserError."""
        self._now = now
        self._parser.feed_data(data)

    @property
    def error(self) -> str:
        """What is wrong with a done answer, in a few words; empty for a good one."""
        if self.status != 200:
            return f"http {self.status}"
        if self._failure:
            return self._failure
        if not self._ended:
            return "cut off"
        return "" if self._usage_seen else "no usage"

    @property
    def detail(self) -> str:
        """The start of the body of an answer that is no stream."""
        return self._body[:300].decode(errors="replace")

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note when to come back."""
        if name.lower() == b"retry-after":
            self.retry_after_s = int(value)

    def on_headers_complete(self) -> None:
        """Note the status."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, the transfer coding removed."""
        if self.status != 200:
            self._body += body
            return
        for payload in self._events.feed(body):
            self._event(payload)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.done = True

    def _event(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self._ended = True
            return
        try:
            chunk = _decoder.decode(payload)
        except msgspec.DecodeError:
            self._failure = "bad event"
            return
        if chunk.error is not None:
            self._failure = "error event"
        if any(choice.delta.content for choice in chunk.choices):
            self.text_times.append(self._now)
        if chunk.usage is not None:
            self._usage_seen = True
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens
            self.generated_tokens = chunk.usage.completion_tokens

"""The form of OpenAI's two completions: an object with `choices`, or chunks of it.

Pure, as every `Answer`. What chat and text completions have in common; each has a subclass.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from rayhost.clock import unix_seconds
from rayhost.front.request import Finish, GenerateRequest, Piece, Recalled, Run
from rayhost.http import sse
from rayhost.http.answer import Answer, Ask, Outcome, own_id, usage_of
from rayhost.http.json import encode

_MARK = "\0"


def forked(request: GenerateRequest, n: int, first: int = 0) -> tuple[GenerateRequest, ...]:
    """Return the requests of the `n` choices of a prompt, which differ in their seeds.

    `first` is the index of the first one, whose id tells it apart in the log.
    """
    if n == 1 and not first:
        return (request,)
    sampling = request.sampling
    return tuple(
        replace(
            request,
            id=f"{request.id}.{first + i}" if first + i else request.id,
            sampling=replace(sampling, seed=(sampling.seed + i) % 2**64),
            choice=i,
        )
        for i in range(n)
    )


class ChoicesAnswer(Answer):
    """A reply with choices, told apart by their index."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, ask: Ask, run: Run | Recalled) -> None:
        self._own_id = own_id(ask.request.id)
        self._id = f"{self.id_prefix}-{self._own_id}"
        self._created = int(unix_seconds())
        self._model = run.model
        self._fingerprint = run.fingerprint
        self._include_usage = ask.include_usage
        self._n = ask.n
        self._logprobs = ask.request.logprobs is not None
        self._count = len(ask.requests)
        self._around: dict[int, tuple[bytes, bytes]] = {}

    @abstractmethod
    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        """Return a choice of a chunk that has some text."""

    @abstractmethod
    def _last(self, index: int, finish_reason: str) -> dict[str, Any]:
        """Return a choice of the chunk that ends it."""

    @abstractmethod
    def _whole(self, index: int, piece: Piece, finish_reason: str) -> dict[str, Any]:
        """Return a choice of a whole reply."""

    def opening(self) -> bytes:
        """Return nothing: text has no role to announce."""
        return b""

    def piece(self, piece: Piece, index: int) -> bytes:
        """Return the event of a part of a choice."""
        if piece.logprobs:
            return self._event([self._delta(index, piece)])
        # All but the text is encoded once: a quarter of the time, for answers that are known whole.
        before, after = self._around.get(index) or self._surround(index)
        return before + encode(piece.text) + after

    def replayed(self, recalled: Recalled, index: int) -> Iterator[bytes]:
        """Yield the events of a choice that is known, but for its end."""
        before, after = self._surround(index)
        for text in recalled.texts():
            yield before + encode(text) + after

    def _surround(self, index: int) -> tuple[bytes, bytes]:
        """Return what an event has before and after its text."""
        # The mark cannot be in any other value: there, its quotes would be escaped.
        event = self._event([self._delta(index, Piece(_MARK))])
        before, after = event.split(encode(_MARK))
        self._around[index] = before, after
        return before, after

    def ended(self, finish: Finish, index: int) -> bytes:
        """Return the event that says why a choice ended."""
        return self._event([self._last(index, finish.reason)])

    def closing(self, finishes: Sequence[Finish]) -> bytes:
        """Return the events after the end of every choice."""
        if self._include_usage:
            return self._event([], self._usage(finishes)) + sse.DONE
        return sse.DONE

    def whole(self, outcomes: Sequence[Outcome]) -> bytes:
        """Return the body of a reply that is not streamed."""
        choices = [
            self._whole(index, piece, finish.reason)
            for index, (piece, finish) in enumerate(outcomes)
        ]
        usage = self._usage([finish for _, finish in outcomes])
        return encode({**self._head(self.whole_object, choices), "usage": usage})

    def _usage(self, finishes: Sequence[Finish]) -> dict[str, Any]:
        usage = usage_of(finishes, self._n)
        return {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        }

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
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
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

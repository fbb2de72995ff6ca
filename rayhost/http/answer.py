"""What an answer is to `generate`: what is asked, and who writes the reply, whole or streamed.

Pure: pieces and counts in, bytes out. One `Answer` per HTTP request, however many choices it has.
"""

import itertools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from rayhost.errors import ApiError
from rayhost.front.request import (
    ChatPrompt,
    Finish,
    GenerateRequest,
    Piece,
    Question,
    Recalled,
    Reuse,
    Run,
    Terms,
)
from rayhost.http import sse
from rayhost.http.envelope import envelope


class Ask(msgspec.Struct, frozen=True):
    """A validated body: what to generate, how to answer, which parameters were ignored.

    A request is a choice of the answer; those of one prompt are neighbours, `n` for each.
    """

    requests: tuple[GenerateRequest, ...]
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]
    n: int = 1
    # What the answer repeats of the body.
    echo: Mapping[str, Any] = msgspec.field(default_factory=dict)
    form: str = ""  # the parameter that says what the answer has to match; empty: none does

    @property
    def request(self) -> GenerateRequest:
        """The first choice, whose id is the whole answer's."""
        return self.requests[0]

    @property
    def calls_only(self) -> bool:
        """Whether the answer is to be calls of tools and nothing else."""
        prompt = self.request.prompt
        tools = prompt.tools if isinstance(prompt, ChatPrompt) else None
        return tools is not None and tools.choice == "required"


class Asked(NamedTuple):
    """A validated body of a question to a model's text thread; no model's name: the only one's."""

    model: str
    question: Question
    ignored: tuple[str, ...]


class Outcome(NamedTuple):
    """A choice that is whole."""

    piece: Piece
    finish: Finish


# A random number for each answer would be a call of the kernel for each (1.5 µs).
_PROCESS = secrets.token_hex(4)
_NUMBERS = itertools.count(1)


def own_id(request_id: str) -> str:
    """Return what the ids of an answer and of its calls are made of, different each time.

    A request's id is its client's to choose, and may come twice; calls are told apart by theirs.
    """
    return f"{request_id}-{_PROCESS}{next(_NUMBERS):x}"


class Answer(ABC):
    """Writes one reply.

    A stream is `opening`; of each choice, by its index, a `piece` for each part and `ended`; and
    `closing`. Else `whole`. All but the last may return nothing.
    """

    @abstractmethod
    def opening(self) -> bytes:
        """Return the events before the first text."""

    @abstractmethod
    def piece(self, piece: Piece, index: int) -> bytes:
        """Return the events of a part of a choice."""

    @abstractmethod
    def ended(self, finish: Finish, index: int) -> bytes:
        """Return the events at the end of a choice."""

    @abstractmethod
    def closing(self, finishes: Sequence[Finish]) -> bytes:
        """Return the events after the end of every choice."""

    def replayed(self, recalled: Recalled, index: int) -> Iterator[bytes]:
        """Yield the events of a choice that is known, but for its end."""
        for piece in recalled.pieces():
            yield self.piece(piece, index)

    def alive(self, comment: bytes) -> bytes:
        """Return what a stream gets while nothing comes; `comment` is one that clients skip."""
        return comment

    def failed(self, error: ApiError) -> bytes:
        """Return the events that end a stream which cannot be carried on."""
        return sse.event(envelope(error))

    @abstractmethod
    def whole(self, outcomes: Sequence[Outcome]) -> bytes:
        """Return the body of a reply that is not streamed."""


# Makes the `Answer` to what was asked, knowing the run, or the known answer, of its first choice.
MakeAnswer = Callable[[Ask, Run | Recalled], Answer]


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a request before its body is read."""

    request_id: str
    terms: Terms = field(default_factory=Terms)
    reuse: Reuse = "any"


Parse = Callable[[bytes, Caller], Ask]


class Usage(NamedTuple):
    """What an answer cost, in tokens. A prompt counts once, whatever the choices made of it."""

    prompt: int
    completion: int
    cached: int  # of the prompt, not computed for this answer


def usage_of(finishes: Sequence[Finish], n: int) -> Usage:
    """Return the cost of the choices together, `n` for each prompt."""
    if len(finishes) == 1:
        (only,) = finishes
        return Usage(only.prompt_tokens, only.completion_tokens, only.reused_tokens)
    prompts = [finishes[start : start + n] for start in range(0, len(finishes), n)]
    return Usage(
        prompt=sum(choices[0].prompt_tokens for choices in prompts),
        completion=sum(finish.completion_tokens for finish in finishes),
        cached=sum(min(one.reused_tokens for one in choices) for choices in prompts),
    )

"""The request: the truth that outlives any worker, and the contract between `http` and `front`.

`http` turns a body into a `GenerateRequest`, calls `Front.submit`, and iterates the `Run`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

from rayhost.ipc.messages import Sampling


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the model's chat template, each with at least `role` and a text `content`."""

    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, tokenized with the model's own leading special tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, run as they are."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Priority(IntEnum):
    """Who is served first: a lower number goes before a higher one."""

    HIGH = 0
    NORMAL = 1
    LOW = 2
    BATCH = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a request is served. They change when its answer comes, never the answer."""

    key: str = ""  # id of the API key; empty without keys
    weight: float = 1.0  # share of this key beside others of the same priority
    priority: Priority = Priority.NORMAL
    timeout_ms: int | None = None  # from arrival to the last token; None: as long as it takes


# Which earlier work may answer a request: any; none, but keep the answer for others
# (Cache-Control: no-cache); none, and keep nothing of it (no-store).
Reuse = Literal["any", "refresh", "never"]

# How a request met the result cache: answered from it, computed, given the run of an identical one,
# or not looked up.
CacheOutcome = Literal["hit", "miss", "joined", "bypass"]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation, as validated by `http`. `max_tokens` None means up to the context's end."""

    id: str
    model: str
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    terms: Terms = Terms()
    seeded: bool = False  # the client chose the seed; else it was drawn
    reuse: Reuse = "any"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run that has no text yet stands."""

    position: int  # requests that start before it; 0 once it is started
    estimate_s: float | None  # until it starts, as far as measured speeds tell


@dataclass(frozen=True, slots=True)
class Times:
    """How far a run came, and when: CLOCK_MONOTONIC nanoseconds, 0 for what did not come."""

    arrived_ns: int
    started_ns: int  # first step that computed any of it; known once it ended
    first_token_ns: int


@dataclass(frozen=True, slots=True)
class Finish:
    """How a run ended and what it cost, in tokens."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int = 0  # of the prompt, not computed for this run


@dataclass(frozen=True, slots=True)
class Recalled:
    """A whole answer that was computed before. `ends` has the end of each piece in `text`."""

    model: str
    text: str
    ends: Sequence[int]
    finish: Finish
    age_s: int

    def pieces(self) -> Iterator[str]:
        """Yield the text as it was streamed the first time."""
        start = 0
        for end in self.ends:
            yield self.text[start:end]
            start = end


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `GET /v1/models` and `/ready` say of a model. `state` is the worker's, `reason` why."""

    name: str
    aliases: tuple[str, ...]
    state: Literal["starting", "loading", "ready", "restarting", "failed", "stopped"]
    reason: str
    created: int  # unix seconds: when this front started
    context: int  # tokens a request may use, prompt and answer together


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """What `/health` says of one worker. `ok` is False for a dead or wedged worker."""

    model: str
    ok: bool
    state: str
    reason: str
    pid: int | None
    step: int
    beat_age_ms: float | None  # since the step loop last showed life


class Run(Protocol):
    """An admitted request. Iterating yields text as it becomes final, or raises ApiError."""

    model: str  # canonical name, whatever alias was asked for

    def __aiter__(self) -> AsyncIterator[str]:
        """Yield non-empty pieces of text until the run ends."""
        ...

    @property
    def finish(self) -> Finish:
        """How it ended; only after the iteration ended normally."""
        ...

    @property
    def cache(self) -> CacheOutcome:
        """How the request met the result cache; never "hit", which is no run."""
        ...

    def standing(self) -> Standing | None:
        """Return where it waits; None once it is being answered."""
        ...

    @property
    def times(self) -> Times:
        """How far it came, and when."""
        ...

    def close(self) -> None:
        """Stop caring: frees the sequence within one engine step. Harmless after the end."""
        ...


class Front(Protocol):
    """What the HTTP layer sees of everything behind it."""

    def cards(self) -> Sequence[ModelCard]:
        """Every model of the profile, in its order."""
        ...

    def health(self) -> Sequence[WorkerHealth]:
        """Every worker, read from its status page without asking it."""
        ...

    def draining(self) -> bool:
        """True once SIGTERM came: `/ready` is 503 and `submit` raises Unavailable."""
        ...

    def recall(self, request: GenerateRequest) -> Recalled | None:
        """Return the answer if it is known already, which ends the request; else submit it."""
        ...

    async def submit(self, request: GenerateRequest) -> Run:
        """Tokenize, check and queue a request.

        Returns once it is queued. Raises ModelNotFound, ContextLengthExceeded, InvalidRequest,
        QueueFull or Unavailable. Cancelling the call leaves nothing behind.
        """
        ...

"""The request: the truth that outlives any worker, and the contract between `http` and `front`.

`http` turns a body into a `GenerateRequest`, calls `Front.submit`, and iterates the `Run`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from rayhost.ipc.messages import (
    Constraint,
    Convert,
    Converted,
    Prepare,
    Prepared,
    Task,
    TokenLogprob,
    Tools,
)
from rayhost.ipc.sampling import Sampling


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the model's chat template, each with at least `role` and a text `content`."""

    messages: tuple[dict[str, Any], ...]
    tools: Tools | None = None
    continue_final: bool = False  # the last message is the assistant's, and goes on
    options: dict[str, Any] = field(default_factory=dict)  # further variables of the template


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, tokenized with the model's own leading special tokens.

    With a `suffix` the answer is what stands between the two.
    """

    text: str
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, run as they are."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairPrompt:
    """A question and a text that may answer it, in the form that the ranking model wants."""

    query: str
    document: str


Prompt = ChatPrompt | TextPrompt | TokenPrompt | PairPrompt


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
    deadline_ns: int | None = None  # of the last token, by the clock; None: as long as it takes


# Which earlier work may answer a request: any; none, but keep the answer for others
# (Cache-Control: no-cache); none, and keep nothing of it (no-store).
Reuse = Literal["any", "refresh", "never"]

# How a request met the result cache: answered from it, computed, given the run of an identical one,
# or not looked up.
CacheOutcome = Literal["hit", "miss", "joined", "bypass"]


class GenerateRequest(msgspec.Struct, frozen=True):
    """One generation, as validated by `http`. `max_tokens` None means up to the context's end.

    A struct, since each request that is known already is made of the one before it: 0.3 µs where a
    dataclass takes 8.
    """

    id: str
    model: str
    prompt: Prompt
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    terms: Terms = Terms()
    seeded: bool = False  # the client chose the seed; else it was drawn
    choice: int = 0  # which of the answers to its prompt, that are to differ
    reuse: Reuse = "any"
    constraint: Constraint | None = None
    logprobs: int | None = None  # the likeliest tokens told with each one; None: none of it
    task: Task = "generate"

    @property
    def constrained(self) -> bool:
        """Whether the answer is to follow a grammar: one that was sent, or one made of tools."""
        tools = self.prompt.tools if isinstance(self.prompt, ChatPrompt) else None
        return follows_grammar(self.constraint, tools)


def follows_grammar(constraint: Constraint | None, tools: Tools | None) -> bool:
    """Tell whether a worker compiles a grammar for these."""
    return constraint is not None or (tools is not None and tools.choice != "none")


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
    vector: bytes = b""  # of a run that embeds or ranks: float32 little-endian
    stop_sequence: str | None = None  # the stop string that ended it


class Piece(NamedTuple):
    """A part of an answer: text that is final, and of the tokens that begin in it what was asked.

    The text may be empty where there are log-probabilities of tokens that have none.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Recalled:
    """A whole answer that was computed before. `ends` has the end of each piece in `text`."""

    model: str
    text: str
    ends: Sequence[int]
    finish: Finish
    age_s: int
    tool_syntax: str = ""  # how the text writes calls of tools; empty: it has none
    fingerprint: str = ""  # of the model that computed it

    def pieces(self) -> Iterator[Piece]:
        """Yield the answer as it was streamed the first time."""
        return map(Piece, self.texts())

    def texts(self) -> Iterator[str]:
        """Yield the text of each piece."""
        start = 0
        for end in self.ends:
            yield self.text[start:end]
            start = end


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do, and what its file says it is; told by its worker. Sizes in tokens."""

    chat: bool
    completion: bool
    embedding: bool
    rerank: bool
    tools: Literal["native", "generic", False]  # known to its template, or described to it
    json_schema: bool
    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    train_context: int
    vocabulary: int
    sliding_window: int | None  # None: every layer sees the whole context
    dimensions: int | None  # numbers of a vector; None: it makes none


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `GET /v1/models` and `/ready` say of a model. `state` is the worker's, `reason` why."""

    name: str
    aliases: tuple[str, ...]
    state: Literal["starting", "loading", "ready", "restarting", "failed", "stopped", "unloaded"]
    reason: str
    created: int  # unix seconds: when this front started
    context: int  # tokens a request may use, prompt and answer together
    concurrency: int = 1  # requests computed together
    capabilities: Capabilities | None = None  # None until a worker was ready


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


# What the worker's text thread is asked by those who want to know, not to have something run.
Question = Prepare | Convert
Reading = Prepared | Converted


class Run(Protocol):
    """An admitted request. Iterating yields its answer as it becomes final, or raises ApiError."""

    model: str  # canonical name, whatever alias was asked for

    @property
    def fingerprint(self) -> str:
        """What the answer depends on besides the request: equal for the same file and settings."""
        ...

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield pieces, none of them empty, until the run ends."""
        ...

    @property
    def finish(self) -> Finish:
        """How it ended; only after the iteration ended normally."""
        ...

    @property
    def tool_syntax(self) -> str:
        """How the answer writes calls of tools; empty: it has none."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt is."""
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

    async def ask(self, model: str, question: Question, terms: Terms) -> Reading:
        """Return what the text thread of a model makes of a question; nothing is queued or run.

        A Prepare is answered with Prepared, a Convert with Converted. Raises ModelNotFound,
        InvalidRequest, QueueFull, DeadlineExceeded or Unavailable.
        """
        ...

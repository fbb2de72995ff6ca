"""The shapes of the answers, for the OpenAPI document only: nothing encodes or decodes with them.

Answers are written by hand where that is faster; the end-to-end tests hold every answer against
the schemas that come from here. A field with UNSET may be missing.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class Reply(msgspec.Struct, frozen=True):
    """Base of every shape."""


class ErrorDetail(Reply, frozen=True):
    """What went wrong: `code` for programs, `message` for people, `param` the field at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(Reply, frozen=True):
    """OpenAI's envelope of an error."""

    error: ErrorDetail


class Generated(Reply, frozen=True):
    """What completions and their chunks begin with.

    `system_fingerprint` stays the same as long as the model's file and how it is loaded do.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str


class PromptTokensDetails(Reply, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(Reply, frozen=True):
    """The cost in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class LikelyToken(Reply, frozen=True):
    """A token that could have come, and how likely it was; `bytes` is its UTF-8."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None


class ChosenToken(LikelyToken, frozen=True):
    """The token that came."""

    top_logprobs: tuple[LikelyToken, ...]


class ChatLogprobs(Reply, frozen=True):
    """Log-probabilities of an answer's tokens."""

    content: tuple[ChosenToken, ...] | None
    refusal: UnsetType | None = UNSET


class CalledFunction(Reply, frozen=True):
    """The function and its arguments, which are JSON in a string."""

    name: str
    arguments: str


class ToolCall(Reply, frozen=True):
    """A function that the model wants called."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Reply, frozen=True):
    """The answer; `content` is null where it is nothing but calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(Reply, frozen=True):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatReply(Generated, frozen=True):
    """A chat completion."""

    object: Literal["chat.completion"]
    choices: tuple[ChatChoice, ...]
    usage: Usage


class CalledFunctionDelta(Reply, frozen=True):
    """The name comes with a call's first piece, the arguments over all of them."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(Reply, frozen=True):
    """A piece of a call."""

    index: int
    function: CalledFunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(Reply, frozen=True):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: UnsetType | None = UNSET
    tool_calls: tuple[ToolCallDelta, ...] | UnsetType = UNSET


class ChatChunkChoice(Reply, frozen=True):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Generated, frozen=True):
    """A piece of a streamed chat completion. `usage` only with stream_options.include_usage."""

    object: Literal["chat.completion.chunk"]
    choices: tuple[ChatChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class CompletionLogprobs(Reply, frozen=True):
    """Log-probabilities of a text's tokens; the lists are equally long."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[str, float] | None, ...] | None
    text_offset: tuple[int, ...]


class CompletionChoice(Reply, frozen=True):
    """One of the texts, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionReply(Generated, frozen=True):
    """A text completion."""

    object: Literal["text_completion"]
    choices: tuple[CompletionChoice, ...]
    usage: Usage


class CompletionChunk(Generated, frozen=True):
    """A piece of a streamed one. `usage` only with stream_options.include_usage."""

    object: Literal["text_completion"]
    choices: tuple[CompletionChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class InputUsage(Reply, frozen=True):
    """The cost in tokens of an answer that is no text."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(Reply, frozen=True):
    """A vector; a string has its float32 numbers, little-endian, in base64."""

    object: Literal["embedding"]
    index: int
    embedding: tuple[float, ...] | str


class EmbeddingsReply(Reply, frozen=True):
    """A vector for each input, in their order."""

    object: Literal["list"]
    data: tuple[EmbeddingReply, ...]
    model: str
    usage: InputUsage


class RankedText(Reply, frozen=True):
    """A document as it was sent."""

    text: str


class RankedReply(Reply, frozen=True):
    """How well a document answers; `index` is its place in the request."""

    index: int
    relevance_score: float
    document: RankedText | UnsetType = UNSET


class RerankReply(Reply, frozen=True):
    """The documents, the best first."""

    object: Literal["list"]
    model: str
    results: tuple[RankedReply, ...]
    usage: InputUsage


class ModelCapabilities(Reply, frozen=True):
    """What a model can be asked for.

    `tools` is false, or says who tells the model of them: "native" its own chat template, "generic"
    the host, in a system message.
    """

    chat: bool
    completion: bool
    embedding: bool
    rerank: bool
    tools: Literal["native", "generic"] | bool
    json_schema: bool


class ModelReply(Reply, frozen=True):
    """A model that is served here. What its file says comes once a worker has read it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    aliases: tuple[str, ...]
    context: int
    state: str
    capabilities: ModelCapabilities | UnsetType = UNSET
    architecture: str | UnsetType = UNSET
    quantization: str | UnsetType = UNSET
    parameters: int | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET
    train_context: int | UnsetType = UNSET
    vocabulary: int | UnsetType = UNSET
    sliding_window: int | UnsetType | None = UNSET
    dimensions: int | UnsetType | None = UNSET


class ModelsReply(Reply, frozen=True):
    """Every model of the profile, in its order."""

    object: Literal["list"]
    data: tuple[ModelReply, ...]


class WorkerReply(Reply, frozen=True):
    """One model's worker."""

    model: str
    ok: bool
    state: str
    reason: str
    pid: int | None
    step: int
    beat_age_ms: float | None


class HealthReply(Reply, frozen=True):
    """Whether every worker shows life."""

    status: Literal["ok", "failing"]
    reasons: tuple[str, ...]
    workers: tuple[WorkerReply, ...]


class ModelReadiness(Reply, frozen=True):
    """Whether a model takes requests."""

    model: str
    state: str
    reason: str


class ReadyReply(Reply, frozen=True):
    """Whether every model takes requests."""

    status: Literal["ready", "not_ready"]
    reasons: tuple[str, ...]
    models: tuple[ModelReadiness, ...]
    degraded: tuple[str, ...]  # given up at the moment for want of memory


class OpenApiReply(Reply, frozen=True):
    """This document."""

    openapi: str
    info: dict[str, Any]
    servers: list[dict[str, Any]]
    tags: list[dict[str, Any]]
    security: list[dict[str, Any]]
    paths: dict[str, Any]
    components: dict[str, Any]

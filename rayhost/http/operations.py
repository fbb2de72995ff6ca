"""Every operation of the API, one entry each: what the OpenAPI document says of a route.

Invariant: a route of the app has an entry here and an entry has a route; a test compares them.
Read by `openapi` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal

import msgspec

from rayhost.errors import (
    ApiError,
    BodyTooLarge,
    ContextLengthExceeded,
    DeadlineExceeded,
    Forbidden,
    HeadTooLarge,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    QueueFull,
    RateLimited,
    RequestTimeout,
    Unauthorized,
    Unavailable,
    WorkerLost,
)
from rayhost.http import (
    chat,
    completions,
    messages,
    messages_input,
    replies,
    replies_messages,
    replies_responses,
    responses,
    responses_input,
    text_tools,
)
from rayhost.http.body import Unsupported
from rayhost.http.chat import ROLES, ChatBody, ChatMessage, Part
from rayhost.http.completions import CompletionBody
from rayhost.http.embeddings import EmbeddingBody
from rayhost.http.rerank import RerankBody
from rayhost.http.schema import INT32_MAX, MAX_STOP_CHARACTERS, MAX_STOPS, RANGES, Range
from rayhost.http.vectors import MOST

Errors = tuple[type[ApiError], ...]
Shape = type[msgspec.Struct]
Events = Shape | UnionType

# Any request may end so: the server itself is full, slow to be sent to, or at fault.
ALWAYS: Errors = (InvalidRequest, RequestTimeout, HeadTooLarge, Unavailable, ApiError)
COSTS_WORK: Errors = (
    InvalidRequest,
    ModelNotFound,
    BodyTooLarge,
    RateLimited,
    QueueFull,
    Unavailable,
    Overloaded,
    DeadlineExceeded,
    WorkerLost,
)
GENERATES: Errors = (ContextLengthExceeded, *COSTS_WORK)

_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}

_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": INT32_MAX},
}


def _or_null(*names: str) -> dict[str, Any]:
    return {"anyOf": [{"enum": list(names)}, {"type": "null"}]}


# What is checked by code and not by a type or a range, in JSON Schema's words.
REFINED: Mapping[tuple[Shape, str], dict[str, Any]] = {
    (ChatBody, "messages"): {"minItems": 1},
    (ChatMessage, "role"): {"enum": list(ROLES)},
    (Part, "type"): {"enum": ["text", "refusal"]},
    (messages.CountBody, "messages"): {"minItems": 1},
    (messages.MessagesBody, "messages"): {"minItems": 1},
    (text_tools.TemplateBody, "messages"): {"minItems": 1},
    (text_tools.DetokenizeBody, "tokens"): {**_TOKENS, "maxItems": text_tools.MAX_TOKENS},
    (messages.Thinking, "type"): {"enum": list(messages.THINKING)},
    (messages_input.Turn, "role"): {"enum": list(messages_input.ROLES)},
    (messages_input.ContentBlock, "type"): {"enum": ["text", "tool_use", "tool_result"]},
    (messages_input.InnerBlock, "type"): {"enum": ["text"]},
    (responses.FunctionTool, "type"): {"enum": ["function"]},
    (responses_input.Item, "role"): _or_null(*responses_input.ROLES),
    (responses_input.Item, "type"): _or_null("message", "function_call", "function_call_output"),
    (responses_input.Part, "type"): {"enum": ["input_text", "output_text", "text", "refusal"]},
    (EmbeddingBody, "input"): {
        "anyOf": [
            _TEXT,
            {"type": "array", "minItems": 1, "maxItems": MOST, "items": _TEXT},
            {**_TOKENS, "minItems": 1},
            {
                "type": "array",
                "minItems": 1,
                "maxItems": MOST,
                "items": {**_TOKENS, "minItems": 1},
            },
        ]
    },
    (RerankBody, "query"): _TEXT,
    (RerankBody, "documents"): {"minItems": 1, "maxItems": MOST},
    **{
        (body, "stop"): {"anyOf": [_STOP, {"type": "array", "maxItems": MAX_STOPS, "items": _STOP}]}
        for body in (ChatBody, CompletionBody)
    },
}

MODEL_QUERY = {"model": "Only of the model with this name or alias."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    `body` is the struct that parses the body, `answer` the shape of a 200, or the media types of
    one that is not JSON, `events` the shape of each event of a streamed one. `also` has the shapes
    of other statuses that are no errors' envelopes. `query` and `path_words` describe parameters,
    `unsupported` those of the body that are refused; `headers` are a 200's own.
    """

    path: str
    method: Literal["get", "post"]
    name: str
    summary: str
    tag: str
    body: Shape | None = None
    answer: Shape | tuple[str, ...]
    events: Events | None = None
    errors: Errors = ()
    envelope: Shape = replies.ErrorReply
    also: Mapping[int, Shape] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=lambda: RANGES)
    unsupported: Unsupported = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    path_words: Mapping[str, str] = field(default_factory=dict)
    free: bool = False  # answers without an API key

    @property
    def every_error(self) -> Errors:
        """What the operation may be refused or fail with."""
        return (*self.errors, *ALWAYS, *(() if self.free else (Unauthorized, Forbidden)))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        path="/v1/chat/completions",
        method="post",
        name="chat",
        summary="Answer a conversation",
        tag="generate",
        body=ChatBody,
        answer=replies.ChatReply,
        events=replies.ChatChunk,
        errors=GENERATES,
        unsupported=chat.REFUSED,
        headers=("Age", "X-Rayhost-Cache"),
    ),
    Operation(
        path="/v1/completions",
        method="post",
        name="completion",
        summary="Continue a text",
        tag="generate",
        body=CompletionBody,
        answer=replies.CompletionReply,
        events=replies.CompletionChunk,
        errors=GENERATES,
        unsupported=completions.REFUSED,
        headers=("Age", "X-Rayhost-Cache"),
    ),
    Operation(
        path="/v1/embeddings",
        method="post",
        name="embeddings",
        summary="Turn texts into vectors",
        tag="generate",
        body=EmbeddingBody,
        answer=replies.EmbeddingsReply,
        errors=GENERATES,
        headers=("X-Rayhost-Cache",),
    ),
    Operation(
        path="/v1/rerank",
        method="post",
        name="rerank",
        summary="Order documents by how well they answer a question",
        tag="generate",
        body=RerankBody,
        answer=replies.RerankReply,
        errors=GENERATES,
        headers=("X-Rayhost-Cache",),
    ),
    Operation(
        path="/v1/responses",
        method="post",
        name="response",
        summary="Answer a conversation, as OpenAI's Responses do",
        tag="generate",
        body=responses.ResponsesBody,
        answer=replies_responses.ResponseReply,
        events=replies_responses.ResponseEvent,
        errors=GENERATES,
        unsupported=responses.REFUSED,
        headers=("Age", "X-Rayhost-Cache"),
    ),
    Operation(
        path="/v1/messages",
        method="post",
        name="message",
        summary="Answer a conversation, as Anthropic's Messages do",
        tag="generate",
        body=messages.MessagesBody,
        answer=replies_messages.MessageReply,
        events=replies_messages.MessageEvent,
        errors=GENERATES,
        unsupported=messages.REFUSED,
        headers=("Age", "X-Rayhost-Cache"),
        envelope=replies_messages.MessagesError,
        ranges={**RANGES, "temperature": messages.TEMPERATURE},
    ),
    Operation(
        path="/v1/messages/count_tokens",
        method="post",
        name="countTokens",
        summary="Count the tokens of a conversation",
        tag="text",
        body=messages.CountBody,
        answer=text_tools.CountReply,
        errors=COSTS_WORK,
        unsupported=messages.REFUSED,
        envelope=replies_messages.MessagesError,
        ranges={},
    ),
    Operation(
        path="/tokenize",
        method="post",
        name="tokenize",
        summary="Turn a text into tokens",
        tag="text",
        body=text_tools.TokenizeBody,
        answer=text_tools.TokenizeReply,
        errors=COSTS_WORK,
    ),
    Operation(
        path="/detokenize",
        method="post",
        name="detokenize",
        summary="Turn tokens into a text",
        tag="text",
        body=text_tools.DetokenizeBody,
        answer=text_tools.DetokenizeReply,
        errors=COSTS_WORK,
    ),
    Operation(
        path="/apply-template",
        method="post",
        name="applyTemplate",
        summary="Show what the chat template makes of a conversation",
        tag="text",
        body=text_tools.TemplateBody,
        answer=text_tools.TemplateReply,
        errors=COSTS_WORK,
        ranges={},
    ),
    Operation(
        path="/v1/models",
        method="get",
        name="listModels",
        summary="List the models",
        tag="models",
        answer=replies.ModelsReply,
    ),
    Operation(
        path="/v1/models/{model}",
        method="get",
        name="showModel",
        summary="Show one model",
        tag="models",
        answer=replies.ModelReply,
        errors=(ModelNotFound,),
        path_words={"model": "Its name or an alias; slashes may stay as they are."},
    ),
    Operation(
        path="/health",
        method="get",
        name="health",
        summary="Tell whether every worker shows life",
        tag="operate",
        answer=replies.HealthReply,
        also={503: replies.HealthReply},
        free=True,
    ),
    Operation(
        path="/ready",
        method="get",
        name="ready",
        summary="Tell whether the models take requests",
        tag="operate",
        answer=replies.ReadyReply,
        also={503: replies.ReadyReply},
        errors=(ModelNotFound,),
        query=MODEL_QUERY,
        free=True,
    ),
    Operation(
        path="/metrics",
        method="get",
        name="metrics",
        summary="Show the metrics, for Prometheus or as OpenMetrics",
        tag="operate",
        answer=("text/plain", "application/openmetrics-text"),
    ),
    Operation(
        path="/openapi.json",
        method="get",
        name="openapi",
        summary="Show this document",
        tag="operate",
        answer=replies.OpenApiReply,
        free=True,
    ),
    Operation(
        path="/docs",
        method="get",
        name="docs",
        summary="Show this document as a page",
        tag="operate",
        answer=("text/html",),
        free=True,
    ),
)

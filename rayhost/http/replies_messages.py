"""The shapes of what `/v1/messages` answers, for the OpenAPI document only, as `replies`.

Blocks and events are told apart by their `type`, which is a struct's tag here.
"""

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from rayhost.http.replies import Reply


class TextBlock(Reply, frozen=True, tag_field="type", tag="text"):
    """A text."""

    text: str


class ToolUseBlock(Reply, frozen=True, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(Reply, frozen=True):
    """The cost in tokens; what was cached is not part of `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class MessageReply(Reply, frozen=True):
    """A message of the model."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: tuple[TextBlock | ToolUseBlock, ...]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    stop_details: UnsetType | None = UNSET


class MessagesErrorDetail(Reply, frozen=True):
    """What went wrong: `type` as Anthropic names it, `code` and `param` as OpenAI does."""

    type: str
    message: str
    code: str
    param: str | None


class MessagesError(Reply, frozen=True, tag_field="type", tag="error"):
    """Anthropic's envelope of an error."""

    error: MessagesErrorDetail
    request_id: str


class MessageStart(Reply, frozen=True, tag_field="type", tag="message_start"):
    """The message, still empty."""

    message: MessageReply


class Ping(Reply, frozen=True, tag_field="type", tag="ping"):
    """A sign of life."""


class BlockStart(Reply, frozen=True, tag_field="type", tag="content_block_start"):
    """A block begins."""

    index: int
    content_block: TextBlock | ToolUseBlock


class TextDelta(Reply, frozen=True, tag_field="type", tag="text_delta"):
    """A piece of text."""

    text: str


class InputDelta(Reply, frozen=True, tag_field="type", tag="input_json_delta"):
    """A piece of a call's arguments."""

    partial_json: str


class BlockDelta(Reply, frozen=True, tag_field="type", tag="content_block_delta"):
    """A block grows."""

    index: int
    delta: TextDelta | InputDelta


class BlockStop(Reply, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block is whole."""

    index: int


class StopDelta(Reply, frozen=True):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: None


class MessageDelta(Reply, frozen=True, tag_field="type", tag="message_delta"):
    """How the message ended, and its cost."""

    delta: StopDelta
    usage: MessageUsage


class MessageStop(Reply, frozen=True, tag_field="type", tag="message_stop"):
    """The last event."""


MessageEvent = (
    MessageStart
    | Ping
    | BlockStart
    | BlockDelta
    | BlockStop
    | MessageDelta
    | MessageStop
    | MessagesError
)

"""The shapes of answers that are a row of blocks, as `replies`: `/v1/responses`, `/v1/messages`.

Items and events are told apart by their `type`, which is a struct's tag here.
"""

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from rayhost.http.replies import ChosenToken, ErrorDetail, Reply

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Reply, frozen=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str
    annotations: tuple[Any, ...]
    logprobs: tuple[ChosenToken, ...]


class OutputMessage(Reply, frozen=True, tag_field="type", tag="message"):
    """A message of the model."""

    id: str
    status: Status
    role: Literal["assistant"]
    content: tuple[OutputText, ...]


class OutputCall(Reply, frozen=True, tag_field="type", tag="function_call"):
    """A call of a function."""

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputCall


class ResponseError(Reply, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(Reply, frozen=True):
    """Why a response is cut."""

    reason: Literal["max_output_tokens"]


class InputTokensDetails(Reply, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Reply, frozen=True):
    """What the answer's tokens were for."""

    reasoning_tokens: int


class ResponseUsage(Reply, frozen=True):
    """The cost in tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseReply(Reply, frozen=True):
    """A response, with what it repeats of the request. Nothing is stored."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: Literal[False]
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: tuple[OutputItem, ...]
    previous_response_id: None
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    prompt_cache_key: str | None
    safety_identifier: str | None
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: tuple[dict[str, Any], ...]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None


class Event(Reply, frozen=True, tag_field="type"):
    """Base of the events of `/v1/responses`."""

    sequence_number: int


class ResponseCreated(Event, frozen=True, tag="response.created"):
    """The request is taken."""

    response: ResponseReply


class ResponseInProgress(Event, frozen=True, tag="response.in_progress"):
    """It is being answered."""

    response: ResponseReply


class ResponseCompleted(Event, frozen=True, tag="response.completed"):
    """It is answered."""

    response: ResponseReply


class ResponseIncomplete(Event, frozen=True, tag="response.incomplete"):
    """Its answer is cut."""

    response: ResponseReply


class ResponseFailed(Event, frozen=True, tag="response.failed"):
    """Its answer cannot be carried on; an event of type `error` follows."""

    response: ResponseReply


class OutputItemAdded(Event, frozen=True, tag="response.output_item.added"):
    """An item begins."""

    output_index: int
    item: OutputItem


class OutputItemDone(Event, frozen=True, tag="response.output_item.done"):
    """An item is whole."""

    output_index: int
    item: OutputItem


class ContentPartAdded(Event, frozen=True, tag="response.content_part.added"):
    """A part of a message begins."""

    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class ContentPartDone(Event, frozen=True, tag="response.content_part.done"):
    """A part of a message is whole."""

    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class OutputTextDelta(Event, frozen=True, tag="response.output_text.delta"):
    """A piece of text."""

    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: tuple[ChosenToken, ...]


class OutputTextDone(Event, frozen=True, tag="response.output_text.done"):
    """A whole text."""

    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: tuple[ChosenToken, ...]


class ArgumentsDelta(Event, frozen=True, tag="response.function_call_arguments.delta"):
    """A piece of a call's arguments."""

    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event, frozen=True, tag="response.function_call_arguments.done"):
    """A call's whole arguments."""

    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(Event, frozen=True, tag="error"):
    """What went wrong."""

    code: str
    message: str
    param: str | None
    error: ErrorDetail


ResponseEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | ArgumentsDelta
    | ArgumentsDone
    | ErrorEvent
)


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

"""The shapes of what `/v1/responses` answers, for the OpenAPI document only, as `replies`.

Items and events are told apart by their `type`, which is a struct's tag here.
"""

from typing import Any, Literal

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


class EventWithResponse(Event, frozen=True):
    """Base of those that tell where the response is."""

    response: ResponseReply


class ResponseCreated(EventWithResponse, frozen=True, tag="response.created"):
    """The request is taken."""


class ResponseInProgress(EventWithResponse, frozen=True, tag="response.in_progress"):
    """It is being answered."""


class ResponseCompleted(EventWithResponse, frozen=True, tag="response.completed"):
    """It is answered."""


class ResponseIncomplete(EventWithResponse, frozen=True, tag="response.incomplete"):
    """Its answer is cut."""


class ResponseFailed(EventWithResponse, frozen=True, tag="response.failed"):
    """Its answer cannot be carried on; an event of type `error` follows."""


class EventWithItem(Event, frozen=True):
    """Base of those that have an item as it is now."""

    output_index: int
    item: OutputItem


class OutputItemAdded(EventWithItem, frozen=True, tag="response.output_item.added"):
    """An item begins."""


class OutputItemDone(EventWithItem, frozen=True, tag="response.output_item.done"):
    """An item is whole."""


class EventOfItem(Event, frozen=True):
    """Base of those inside of an item."""

    item_id: str
    output_index: int


class EventOfPart(EventOfItem, frozen=True):
    """Base of those inside of a part of a message."""

    content_index: int


class EventWithPart(EventOfPart, frozen=True):
    """Base of those that have a part as it is now."""

    part: OutputText


class ContentPartAdded(EventWithPart, frozen=True, tag="response.content_part.added"):
    """A part of a message begins."""


class ContentPartDone(EventWithPart, frozen=True, tag="response.content_part.done"):
    """A part of a message is whole."""


class OutputTextDelta(EventOfPart, frozen=True, tag="response.output_text.delta"):
    """A piece of text."""

    delta: str
    logprobs: tuple[ChosenToken, ...]


class OutputTextDone(EventOfPart, frozen=True, tag="response.output_text.done"):
    """A whole text."""

    text: str
    logprobs: tuple[ChosenToken, ...]


class ArgumentsDelta(EventOfItem, frozen=True, tag="response.function_call_arguments.delta"):
    """A piece of a call's arguments."""

    delta: str


class ArgumentsDone(EventOfItem, frozen=True, tag="response.function_call_arguments.done"):
    """A call's whole arguments."""

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

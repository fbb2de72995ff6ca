"""`POST /v1/responses`: what a body of OpenAI's Responses API asks for. Pure; used by `app`.

Nothing is stored: `store` is false in every answer, and what refers to something stored is refused.
"""

from typing import Any

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, GenerateRequest
from rayhost.http.answer import Ask, Caller
from rayhost.http.body import missing, parse_body
from rayhost.http.constrained import ResponseFormat, of_format
from rayhost.http.effects import unused
from rayhost.http.responses_input import Input, messages_of
from rayhost.http.sampling import sampling_of
from rayhost.http.schema import (
    UNSUPPORTED,
    StoppedBody,
    check_values,
    one_of_aliases,
    shown,
    stops_of,
)
from rayhost.http.tool_choice import FunctionSpec, ToolChoice, tools_of
from rayhost.ipc.messages import Constraint, Tools

_FORMAT = "text.format"
_LOGPROBS = "message.output_text.logprobs"
# The others are parts of items that never are in an answer from here.
_INCLUDABLE = (
    _LOGPROBS,
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
)
REFUSED: dict[str, tuple[object, ...]] = {
    **{name: harmless for name, harmless in UNSUPPORTED.items() if name != "store"},
    "background": (False,),
    "conversation": (),
    "context_management": ([],),
    "moderation": (),
    "prompt": (),
    "truncation": ("disabled",),
}


class Format(msgspec.Struct, frozen=True):
    """The form that the text must have."""

    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """How the text is written."""

    format: Format | None = None
    verbosity: str | None = None


class FunctionTool(msgspec.Struct, frozen=True):
    """A tool. There is one type of it."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesBody(StoppedBody, frozen=True, kw_only=True):
    """The body."""

    input: Input
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: TextOptions = TextOptions()
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: str | ToolChoice = "auto"
    parallel_tool_calls: bool = True
    include: tuple[str, ...] = ()
    top_logprobs: int | None = None
    store: bool = False
    previous_response_id: str | None = None


def parse(raw: bytes, caller: Caller) -> Ask:
    """Return what a Responses body asks for. Raises InvalidRequest."""
    body, ignored = parse_body(raw, ResponsesBody, REFUSED)
    check_values(body)
    if body.previous_response_id is not None:
        raise InvalidRequest(
            f"Previous response with id {shown(body.previous_response_id)!r} not found: "
            "this server stores no responses.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    request = GenerateRequest(
        id=caller.request_id,
        model=body.model,
        prompt=ChatPrompt(messages_of(body.input, body.instructions), tools=_tools(body)),
        sampling=sampling_of(body),
        max_tokens=one_of_aliases(body, "max_output_tokens", "max_tokens"),
        stop=stops_of(body),
        terms=caller.terms,
        seeded=body.seed is not None,
        reuse=caller.reuse,
        constraint=_constraint(body.text.format),
        logprobs=_logprobs(body),
    )
    return Ask(
        (request,),
        body.stream,
        False,
        (*ignored, *_without_effect(body)),
        echo=_echo(body),
        form=_FORMAT if body.text.format else "",
    )


def _tools(body: ResponsesBody) -> Tools | None:
    if not body.tools and body.tool_choice in ("auto", "none"):
        return None
    functions = []
    for i, tool in enumerate(body.tools):
        if tool.type != "function":
            raise InvalidRequest(
                f"tools[{i}].type: only 'function' is supported, not {shown(tool.type)!r}",
                param=f"tools[{i}].type",
            )
        if tool.name is None:
            raise missing(f"tools[{i}].name")
        functions.append(FunctionSpec(tool.name, tool.description, tool.parameters, tool.strict))
    choice = msgspec.to_builtins(body.tool_choice)
    return tools_of(functions, choice, body.parallel_tool_calls, path="tools[{}]")


def _constraint(given: Format | None) -> Constraint | None:
    if given is None:
        return None
    if given.type == "json_schema" and given.schema is None:
        raise missing("text.format.schema")
    return of_format(ResponseFormat(given.type, schema=given.schema), _FORMAT)


def _logprobs(body: ResponsesBody) -> int | None:
    for i, one in enumerate(body.include):
        if one not in _INCLUDABLE:
            raise InvalidRequest(
                f"include[{i}]: must be one of {', '.join(_INCLUDABLE)}, not {shown(one)!r}",
                param=f"include[{i}]",
            )
    if _LOGPROBS in body.include:
        return body.top_logprobs or 0
    return body.top_logprobs or None


def _without_effect(body: ResponsesBody) -> list[str]:
    """Return the names of parameters that are known, and without effect here."""
    names = list(unused(body))
    if body.include_usage:  # each stream tells it anyway
        names.append("stream_options.include_usage")
    if body.store:
        names.append("store")
    if body.text.verbosity is not None:
        names.append("text.verbosity")
    return names


def _echo(body: ResponsesBody) -> dict[str, Any]:
    """Return what an answer repeats of the body."""
    text = body.text.format or Format("text")
    return {
        "instructions": body.instructions,
        "max_output_tokens": one_of_aliases(body, "max_output_tokens", "max_tokens"),
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "prompt_cache_key": body.prompt_cache_key or None,
        "safety_identifier": body.safety_identifier or None,
        "store": False,
        "temperature": body.temperature,
        "text": {"format": _given(text)},
        "tool_choice": msgspec.to_builtins(body.tool_choice),
        "tools": [_given(tool) for tool in body.tools],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "user": body.user or None,
    }


def _given(value: msgspec.Struct) -> dict[str, Any]:
    """Return a struct as JSON has it, without what was not given."""
    fields = msgspec.to_builtins(value)
    return {name: field for name, field in fields.items() if field is not None}

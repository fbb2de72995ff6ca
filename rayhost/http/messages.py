"""`POST /v1/messages`: what a body of Anthropic's Messages API asks for. Pure; used by `app`."""

from typing import Any, TypeVar

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, GenerateRequest
from rayhost.http.answer import Ask, Asked, Caller
from rayhost.http.body import missing, parse_body, refuse_unsupported
from rayhost.http.constrained import ResponseFormat, of_format
from rayhost.http.effects import unused
from rayhost.http.messages_input import Text, Turn, conversation
from rayhost.http.sampling import sampling_of
from rayhost.http.schema import (
    UNSUPPORTED,
    GenerationBody,
    Range,
    check_values,
    checked_stops,
    shown,
)
from rayhost.http.tool_choice import FunctionSpec, tools_of
from rayhost.ipc.messages import Constraint, Prepare, Tools

TEMPERATURE = Range(0, 1)

REFUSED: dict[str, tuple[object, ...]] = {
    **UNSUPPORTED,
    "chat_template_kwargs": ({},),
    "container": (),
    "context_management": ({"edits": []},),
    "mcp_servers": ([],),
}
THINKING = ("disabled", "adaptive")  # what a model that never thinks can be asked for
_FORMAT = "output_config.format"
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool of the client's. Those of Anthropic's servers have another type."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether a tool must be called, and which."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool = False


class OutputFormat(msgspec.Struct, frozen=True):
    """The form that the text must have."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct, frozen=True):
    """How the answer is written."""

    format: OutputFormat | None = None
    effort: str | None = None


class Thinking(msgspec.Struct, frozen=True):
    """Whether the model is to think before it answers, which none here can be made to."""

    type: str


class CountBody(GenerationBody, frozen=True, kw_only=True):
    """The body of a question for the number of tokens, and what it has in common with the other."""

    messages: tuple[Turn, ...]
    system: Text = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig = OutputConfig()
    thinking: Thinking | None = None


class MessagesBody(CountBody, frozen=True, kw_only=True):
    """The body."""

    max_tokens: int
    stop_sequences: tuple[str, ...] = ()


def parse(raw: bytes, caller: Caller) -> Ask:
    """Return what a Messages body asks for. Raises InvalidRequest."""
    body, ignored = _body(raw, MessagesBody)
    check_values(body)
    if not TEMPERATURE.allows(body.temperature):
        raise InvalidRequest(
            f"temperature: must be {TEMPERATURE}, not {shown(body.temperature)}",
            param="temperature",
        )
    request = GenerateRequest(
        id=caller.request_id,
        model=body.model,
        prompt=prompt_of(body),
        sampling=sampling_of(body),
        max_tokens=body.max_tokens,
        stop=checked_stops(body.stop_sequences, "stop_sequences"),
        terms=caller.terms,
        seeded=body.seed is not None,
        reuse=caller.reuse,
        constraint=_constraint(body.output_config.format),
    )
    return Ask(
        (request,),
        body.stream,
        False,
        (*ignored, *unused(body), *_without_effect(body)),
        form=_FORMAT if body.output_config.format else "",
    )


def parse_count(raw: bytes) -> Asked:
    """Return the prompt whose tokens are to be counted. Raises InvalidRequest."""
    body, ignored = _body(raw, CountBody)
    prompt = prompt_of(body)
    question = Prepare(
        prompt.messages, None, tools=prompt.tools, continue_final=prompt.continue_final
    )
    return Asked(body.model, question, (*ignored, *_without_effect(body)))


Body = TypeVar("Body", bound=CountBody)


def _body(raw: bytes, schema: type[Body]) -> tuple[Body, tuple[str, ...]]:
    """Return a body and the names of what nobody here knows. Raises InvalidRequest."""
    # Calls that a model made are in the messages, with numbers as it likes them.
    body, ignored = parse_body(raw, schema, REFUSED, any_size="messages")
    if body.thinking is not None and body.thinking.type not in THINKING:
        refuse_unsupported(body.thinking, "thinking", ({"type": "disabled"},))
    return body, ignored


def _without_effect(body: CountBody) -> tuple[str, ...]:
    """Return the names of parameters that are known, and without effect here."""
    given = {
        "stream_options.include_usage": body.include_usage,  # each stream tells it anyway
        "output_config.effort": body.output_config.effort,
        # The model is free to think, and has no way to.
        "thinking": body.thinking and body.thinking.type == "adaptive",
    }
    return tuple(name for name, value in given.items() if value)


def prompt_of(body: CountBody) -> ChatPrompt:
    """Return the conversation; one that ends with the assistant's turn is to be gone on with."""
    messages = conversation(body.system, body.messages)
    return ChatPrompt(
        messages, tools=_tools(body), continue_final=messages[-1]["role"] == "assistant"
    )


def _constraint(given: OutputFormat | None) -> Constraint | None:
    if given is None:
        return None
    where = _FORMAT
    if given.type != "json_schema":
        raise InvalidRequest(
            f"{where}.type: must be 'json_schema', not {shown(given.type)!r}",
            param=f"{where}.type",
        )
    if given.schema is None:
        raise missing(f"{where}.schema")
    return of_format(ResponseFormat(given.type, schema=given.schema), where)


def _tools(body: CountBody) -> Tools | None:
    functions = []
    for i, tool in enumerate(body.tools):
        if tool.type not in (None, "custom"):
            raise InvalidRequest(
                f"tools[{i}].type: {shown(tool.type)!r} is a tool of Anthropic's servers; here "
                "only those of the client ('custom') are supported",
                param=f"tools[{i}].type",
            )
        if tool.input_schema is None:
            raise missing(f"tools[{i}].input_schema")
        functions.append(FunctionSpec(tool.name, tool.description, tool.input_schema, tool.strict))
    choice, parallel = _choice(body.tool_choice)
    return tools_of(functions, choice, parallel, path="tools[{}]")


def _choice(given: ToolChoice | None) -> tuple[object, bool | None]:
    """Return a choice as OpenAI has it, and whether several calls may be made at once."""
    if given is None:
        return None, None
    parallel = False if given.disable_parallel_tool_use else None
    if given.type == "tool":
        if given.name is None:
            raise missing("tool_choice.name")
        return {"type": "function", "name": given.name}, parallel
    if given.type not in _CHOICES:
        raise InvalidRequest(
            f"tool_choice.type: must be one of auto, any, tool, none, not {shown(given.type)!r}",
            param="tool_choice.type",
        )
    return _CHOICES[given.type], parallel

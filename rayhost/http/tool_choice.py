"""Tools in a body: `tools`, `tool_choice`, the calls and results in messages, to what a run takes.

Pure: typed values in, `Tools` and template messages out, InvalidRequest with the exact path for
what is wrong. Used by `chat`, and by the other shapes of API for what they have in common with it.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.http.body import missing, read_json
from rayhost.http.json import encode
from rayhost.http.schema import shown
from rayhost.ipc.messages import Tools

MAX_TOOLS = 128
MAX_CALLS = 128  # in one message
MAX_BYTES = 96 << 10  # of all functions as JSON; their grammar may have 128 KiB
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OBJECT = "must be a JSON object in a string"
_CHOICES = "'none', 'auto', 'required', or an object that names a function"


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool. There is one type of it."""

    type: str
    function: FunctionSpec | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """What a call calls. `arguments` is JSON in a string."""

    name: str
    arguments: str = ""


class ToolCallSpec(msgspec.Struct, frozen=True):
    """A call that the model made, in a message of its own sent back."""

    id: str | None = None
    type: str = "function"
    function: CalledFunction | None = None


class ChosenFunction(msgspec.Struct, frozen=True):
    """The function that a choice names, in Chat's form."""

    name: str


class ChosenTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that a choice names, in Chat's form or in that of Responses."""

    type: str | None = None
    name: str | None = None
    function: ChosenFunction | None = None


class AllowedTools(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which tools may be called, and whether one must be."""

    mode: str | None = None
    tools: tuple[ChosenTool, ...] | None = None


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `tool_choice` that is no word: a function, or `allowed_tools` in either form."""

    type: str | None = None
    name: str | None = None
    function: ChosenFunction | None = None
    allowed_tools: AllowedTools | None = None
    mode: str | None = None
    tools: tuple[ChosenTool, ...] | None = None


def functions_of(tools: Sequence[ToolSpec], where: str = "tools") -> list[FunctionSpec]:
    """Return the functions of `tools`. Raises InvalidRequest for a tool of another type."""
    functions = []
    for i, tool in enumerate(tools):
        if tool.type != "function":
            raise _wrong(
                f"{where}[{i}].type", f"only 'function' is supported, not {shown(tool.type)!r}"
            )
        if tool.function is None:
            raise missing(f"{where}[{i}].function")
        functions.append(tool.function)
    return functions


def tools_of(
    functions: Sequence[FunctionSpec],
    choice: object = None,
    parallel: bool | None = None,
    *,
    path: str = "tools[{}].function",
) -> Tools | None:
    """Return what a run is to be offered; None where that is nothing.

    `choice` is a `tool_choice` as JSON has it, None for none; `path` says where the i-th function
    is.
    Raises InvalidRequest.
    """
    if not functions:
        if choice not in (None, "none"):
            raise _wrong("tool_choice", "only allowed with tools")
        if parallel is not None:
            raise _wrong("parallel_tool_calls", "only allowed with tools")
        return None
    _check(functions, path)
    mode, names = _choice(choice)
    known = [one.name for one in functions]
    for name, where in names:
        if name not in known:
            raise _wrong(where, f"{shown(name)!r} is not among the tools: {', '.join(known)[:200]}")
    if mode == "none":
        return None
    allowed = set() if mode == "named" else {name for name, _ in names}
    return Tools(
        functions=tuple(_offered(one) for one in functions if not allowed or one.name in allowed),
        choice="required" if mode == "named" else mode,
        only=names[0][0] if mode == "named" else "",
        parallel=parallel is not False and mode != "named",
    )


def call_message_part(call_id: str, name: str, arguments: str, where: str) -> dict[str, Any]:
    """Return a call at `where` as templates take it: its arguments, JSON in a string, as an object.

    Without any text they are the empty object. What cannot be read stays the text that it is: an
    answer of ours can have been cut off in a call, or have a number that no worker can be told, and
    its client sends it back as it came. Raises InvalidRequest for JSON of any other kind.
    """
    value: Any = {}
    if arguments.strip():
        try:
            value = read_json(arguments.encode())
        except ValueError:
            value = arguments
    if not isinstance(value, dict) and value is not arguments:
        raise _wrong(f"{where}.arguments", _OBJECT)
    return past_call(call_id, name, value, where)


def past_call(call_id: str, name: str, arguments: Any, where: str) -> dict[str, Any]:
    """Return a call that the model made as templates take it. Raises InvalidRequest.

    Whatever shape of API brings it, and whatever it calls by now: its name is one that a function
    could have.
    """
    if not _NAME.fullmatch(name):
        raise _wrong(f"{where}.name", _bad_name(name))
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def calls_of(calls: Sequence[ToolCallSpec], where: str) -> list[dict[str, Any]]:
    """Return the calls of an assistant's message as templates take them. Raises InvalidRequest."""
    if len(calls) > MAX_CALLS:
        raise _wrong(where, f"at most {MAX_CALLS} calls are allowed, not {len(calls)}")
    parts = []
    for i, call in enumerate(calls):
        here = f"{where}[{i}]"
        if call.type != "function":
            raise _wrong(f"{here}.type", f"only 'function' is supported, not {shown(call.type)!r}")
        if call.id is None:
            raise missing(f"{here}.id")
        if call.function is None:
            raise missing(f"{here}.function")
        called = call.function
        parts.append(call_message_part(call.id, called.name, called.arguments, f"{here}.function"))
    return parts


def check_answered(messages: Sequence[dict[str, Any]], where: str = "messages") -> None:
    """Raise InvalidRequest for a result, in a template's messages, of a call that is not there."""
    made: set[str] = set()
    for i, message in enumerate(messages):
        made.update(call["id"] for call in message.get("tool_calls", ()))
        if message["role"] == "tool" and message["tool_call_id"] not in made:
            raise _wrong(
                f"{where}[{i}].tool_call_id",
                f"no call before it has the id {shown(message['tool_call_id'])!r}",
            )


def _check(functions: Sequence[FunctionSpec], path: str) -> None:
    if len(functions) > MAX_TOOLS:
        raise _wrong("tools", f"at most {MAX_TOOLS} tools are allowed, not {len(functions)}")
    names: set[str] = set()
    for i, one in enumerate(functions):
        where = path.format(i)
        if not _NAME.fullmatch(one.name):
            raise _wrong(f"{where}.name", _bad_name(one.name))
        if one.name in names:
            raise _wrong(f"{where}.name", f"there is a function {one.name!r} before it")
        names.add(one.name)
        if one.parameters and one.parameters.get("type", "object") != "object":
            raise _wrong(f"{where}.parameters.type", "must be 'object'")
    size = sum(len(encode(msgspec.to_builtins(one))) for one in functions)
    if size > MAX_BYTES:
        raise _wrong("tools", f"at most {MAX_BYTES} bytes of functions are allowed, not {size}")


def _offered(function: FunctionSpec) -> dict[str, Any]:
    """Return a function for the worker. Without parameters it has none at all, as OpenAI has it."""
    offered: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        offered["description"] = function.description
    schema = function.parameters or {"properties": {}, "additionalProperties": False}
    offered["parameters"] = {"type": "object", **schema}
    if function.strict is not None:
        offered["strict"] = function.strict
    return offered


Mode = Literal["none", "auto", "required", "named"]


def _choice(choice: object) -> tuple[Mode, list[tuple[str, str]]]:
    """Return how to choose, and the names among which, each with its path; all when empty."""
    where = "tool_choice"
    match choice:
        case None:
            return "auto", []
        case "auto" | "none" | "required":
            return choice, []
        case {"type": "function", **rest}:
            return "named", [_name(rest, where)]
        case {"type": "allowed_tools", "allowed_tools": inner}:
            return _allowed(inner, f"{where}.allowed_tools")
        case {"type": "allowed_tools", **rest}:
            return _allowed(rest, where)
    given = f", not {shown(choice)!r}" if isinstance(choice, str) else ""
    raise _wrong(where, f"must be {_CHOICES}{given}")


def _allowed(given: object, where: str) -> tuple[Mode, list[tuple[str, str]]]:
    fields = given if isinstance(given, dict) else {}
    mode, tools = fields.get("mode"), fields.get("tools")
    if mode not in ("auto", "required"):
        raise _wrong(f"{where}.mode", "must be 'auto' or 'required'")
    if not isinstance(tools, list | tuple) or not tools:
        raise _wrong(f"{where}.tools", "must be a list of at least one tool")
    names = [_name(tool, f"{where}.tools[{i}]") for i, tool in enumerate(tools)]
    return ("required" if mode == "required" else "auto"), names


def _name(tool: object, where: str) -> tuple[str, str]:
    """Return the name that a function is chosen by, in Chat's form or in that of Responses."""
    match tool:
        case {"function": {"name": str(name)}}:
            return name, f"{where}.function.name"
        case {"name": str(name)}:
            return name, f"{where}.name"
    raise _wrong(where, "must name a function")


def _bad_name(name: str) -> str:
    return f"must be 1 to 64 of the characters a-z, A-Z, 0-9, _ and -, not {shown(name)!r}"


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}", param=param)

"""What a model is shown of tools: by its own chat template where that knows them, else by ours.

Pure but for `detect`, which asks the template by rendering probes. Used by `engine.codec`.

A template knows tools when it prints those it is given, and prints an assistant's calls in a
syntax that `engine.tools` has, and what came of them. For any other one, functions are described
in the system message, calls are written as text in the syntax of Hermes, and results are a user's.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rayhost.engine.base import PromptError
from rayhost.engine.tools import Syntax
from rayhost.ipc.messages import Tools

Messages = Sequence[Mapping[str, Any]]
Functions = Sequence[Mapping[str, Any]]  # as templates take them
Render = Callable[[Messages, Functions | None], str]  # raises PromptError


class Dialect(NamedTuple):
    """How a template speaks of tools."""

    syntax: Syntax  # of calls, in prompt and answer
    knows_tools: bool
    one_call: bool = False  # of a message's calls it takes no more
    has_system: bool = True  # it takes a system message


_VALUE = "probe-value"
_PROBE = {
    "type": "function",
    "function": {
        "name": "probe_name",
        "description": "probe-description",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}
_USER = {"role": "user", "content": "probe-question"}
_WRITTEN: Mapping[Syntax, tuple[re.Pattern[str], str]] = {
    "hermes": (re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL), "arguments"),
    "mistral": (re.compile(r"\[TOOL_CALLS\]\s*\[(\{.*\})\]", re.DOTALL), "arguments"),
    "llama": (re.compile(r'(\{"name":.*"parameters":[^}]*\}\s*\})', re.DOTALL), "parameters"),
}


def detect(render: Render) -> Dialect:
    """Return how a template speaks of tools. Templates that fail here are shown text alone."""
    has_system = "probe-rule" in _try(render, [{"role": "system", "content": "probe-rule"}, _USER])
    offered = _try(render, [_USER], [_PROBE])
    talk = _try(render, _talk(1), [_PROBE])
    if "probe_name" in offered and "probe-result-0" in talk:
        called = talk[talk.rfind("probe-question") :]  # what is before it may tell of the syntax
        for syntax in _WRITTEN:
            if _is_written(called, syntax):
                several = "probe-result-1" in _try(render, _talk(2), [_PROBE])
                return Dialect(syntax, True, one_call=not several, has_system=has_system)
    return Dialect("hermes", False, has_system=has_system)


def shown(
    dialect: Dialect, messages: Messages, tools: Tools | None
) -> tuple[Messages, Functions | None]:
    """Return the messages and functions that the template is given."""
    if dialect.knows_tools:
        functions = None if tools is None else [_function(one) for one in tools.functions]
        return _native(dialect, messages), functions
    told = _as_text(messages)
    return (told if tools is None else _described(dialect, told, tools)), None


def _talk(calls: int) -> Messages:
    """Return a conversation with that many calls in one message."""
    ids = [f"probecall{i}"[-9:] for i in range(calls)]
    return [
        _USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": "probe_name", "arguments": {"probe_key": _VALUE}},
                }
                for call_id in ids
            ],
        },
        *(
            {
                "role": "tool",
                "tool_call_id": call_id,
                "name": "probe_name",
                "content": f"probe-result-{i}",
            }
            for i, call_id in enumerate(ids)
        ),
    ]


def _try(render: Render, messages: Messages, functions: Functions | None = None) -> str:
    try:
        return render(messages, functions)
    except PromptError as error:
        if error.code != "chat_template_error":
            raise
        return ""


def _is_written(text: str, syntax: Syntax) -> bool:
    pattern, key = _WRITTEN[syntax]
    found = pattern.search(text)
    if found is None:
        return False
    try:
        call = json.loads(found[1])
    except ValueError:
        return False
    return bool(call.get("name") == "probe_name" and call.get(key) == {"probe_key": _VALUE})


def _function(function: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "type": "function",
        "function": {key: value for key, value in function.items() if key != "strict"},
    }


def _native(dialect: Dialect, messages: Messages) -> Messages:
    """Return messages with what templates that know tools are particular about."""
    if dialect.syntax == "mistral":  # ids of nine letters and digits
        messages = _renumbered(messages)
    return _one_by_one(messages) if dialect.one_call else messages


def _renumbered(messages: Messages) -> Messages:
    ids: dict[str, str] = {}

    def short(call_id: str) -> str:
        return ids.setdefault(call_id, f"call{len(ids):05d}")

    renumbered = []
    for message in messages:
        one = dict(message)
        if "tool_calls" in one:
            one["tool_calls"] = [{**call, "id": short(call["id"])} for call in one["tool_calls"]]
        if "tool_call_id" in one:
            one["tool_call_id"] = short(one["tool_call_id"])
        renumbered.append(one)
    return renumbered


def _one_by_one(messages: Messages) -> Messages:
    """Return messages of which those with several calls are several, each before its result."""
    single: list[Mapping[str, Any]] = []
    left = deque(messages)
    while left:
        message = left.popleft()
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            single.append(message)
            continue
        results: list[Mapping[str, Any]] = []
        while left and left[0]["role"] == "tool":
            results.append(left.popleft())
        for i, call in enumerate(calls):
            content = message["content"] if i == 0 else ""
            single.append({**message, "content": content, "tool_calls": [call]})
            single += [one for one in results if one["tool_call_id"] == call["id"]]
            results = [one for one in results if one["tool_call_id"] != call["id"]]
        single += results
    return single


def _as_text(messages: Messages) -> list[Mapping[str, Any]]:
    """Return messages whose calls are text, and whose results are a user's words."""
    told: list[Mapping[str, Any]] = []
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
        elif message["role"] == "user" and results:  # of one turn: they may have to alternate
            told.append({**message, "content": "\n".join([*results, message["content"]])})
            results = []
        else:
            told += [*_said(results), _without_calls(message)]
            results = []
    return told + _said(results)


def _said(results: list[str]) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": "\n".join(results)}] if results else []


def _without_calls(message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [f"<tool_call>\n{_json(call['function'])}\n</tool_call>" for call in calls]
    content = "\n".join([message["content"], *texts] if message["content"] else texts)
    return {**{k: v for k, v in message.items() if k != "tool_calls"}, "content": content}


def _described(
    dialect: Dialect, messages: Sequence[Mapping[str, Any]], tools: Tools
) -> list[Mapping[str, Any]]:
    """Return messages of which the first says what can be called, and how."""
    functions = "\n".join(_json(_function(one)["function"]) for one in tools.functions)
    text = (
        f"You can call these functions:\n<tools>\n{functions}\n</tools>\n"
        "To call one, answer with its name and arguments, as JSON in these tags and nothing else:\n"
        '<tool_call>\n{"name": "<name>", "arguments": {<arguments>}}\n</tool_call>\n'
        "The result comes in <tool_response></tool_response>."
    )
    role = "system" if dialect.has_system else "user"
    first = messages[0] if messages else None
    if first is not None and first["role"] == role:
        return [{**first, "content": f"{text}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": role, "content": text}, *messages]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)

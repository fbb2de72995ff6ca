"""Tools in a body: what is taken, and that each refusal names the path."""

from typing import Any

import msgspec
import pytest

from rayhost.errors import InvalidRequest
from rayhost.http.body import MAX_DEPTH
from rayhost.http.tool_choice import (
    MAX_BYTES,
    MAX_CALLS,
    MAX_TOOLS,
    FunctionSpec,
    ToolCallSpec,
    ToolSpec,
    call_message_part,
    calls_of,
    check_answered,
    functions_of,
    tools_of,
)
from rayhost.ipc.messages import Tools

WEATHER = FunctionSpec("get_weather", "Of a city.", {"properties": {"city": {"type": "string"}}})
TIME = FunctionSpec("get-time")
OFFERED_WEATHER = {
    "name": "get_weather",
    "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
OFFERED_TIME = {
    "name": "get-time",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}
BOTH = (OFFERED_WEATHER, OFFERED_TIME)


def allowed(mode: object = "auto", *names: object) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, Tools(BOTH)),
        ("auto", True, Tools(BOTH)),
        ("auto", False, Tools(BOTH, parallel=False)),
        ("required", None, Tools(BOTH, "required")),
        ("none", None, None),
        (
            {"type": "function", "function": {"name": "get-time"}},
            None,
            Tools(BOTH, "required", "get-time", parallel=False),
        ),
        (
            {"type": "function", "name": "get-time"},
            True,
            Tools(BOTH, "required", "get-time", parallel=False),
        ),
        (allowed("auto", "get-time"), None, Tools((OFFERED_TIME,))),
        (allowed("required", "get-time", "get_weather"), None, Tools(BOTH, "required")),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "get_weather"}],
            },
            False,
            Tools((OFFERED_WEATHER,), "required", parallel=False),
        ),
    ],
)
def test_a_choice_says_what_a_run_is_offered(
    choice: object, parallel: bool | None, expected: Tools | None
) -> None:
    assert tools_of([WEATHER, TIME], choice, parallel) == expected


def test_no_tools_are_nothing() -> None:
    assert tools_of([]) is None
    assert tools_of([], "none") is None


def test_strictness_is_passed_on() -> None:
    offered = tools_of([FunctionSpec("f", strict=False)])
    assert offered is not None
    assert offered.functions[0]["strict"] is False


def refused(call: Any, *arguments: object, **named: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments, **named)
    assert str(caught.value.param) in caught.value.message
    return str(caught.value.param)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        (7, "tool_choice"),
        ({}, "tool_choice"),
        ({"type": "function"}, "tool_choice"),
        ({"type": "function", "function": {"name": "f"}}, "tool_choice.function.name"),
        ({"type": "function", "name": "f"}, "tool_choice.name"),
        (allowed("never", "get-time"), "tool_choice.allowed_tools.mode"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        (
            allowed("auto", "get-time", "f"),
            "tool_choice.allowed_tools.tools[1].function.name",
        ),
        (allowed("auto", 7), "tool_choice.allowed_tools.tools[0]"),
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(choice: object, param: str) -> None:
    assert refused(tools_of, [WEATHER, TIME], choice) == param


def test_a_choice_without_tools_is_refused() -> None:
    assert refused(tools_of, [], "auto") == "tool_choice"
    assert refused(tools_of, [], None, True) == "parallel_tool_calls"


@pytest.mark.parametrize(
    ("function", "param"),
    [
        (FunctionSpec(""), "tools[1].function.name"),
        (FunctionSpec("a" * 65), "tools[1].function.name"),
        (FunctionSpec("get weather"), "tools[1].function.name"),
        (FunctionSpec('f"'), "tools[1].function.name"),
        (FunctionSpec("f\n"), "tools[1].function.name"),
        (FunctionSpec("get_weather"), "tools[1].function.name"),
        (FunctionSpec("f", parameters={"type": "array"}), "tools[1].function.parameters.type"),
        (FunctionSpec("f", "x" * MAX_BYTES), "tools"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(function: FunctionSpec, param: str) -> None:
    assert refused(tools_of, [WEATHER, function]) == param


def test_the_path_is_the_callers() -> None:
    assert refused(tools_of, [FunctionSpec("")], path="tools[{}]") == "tools[0].name"


def test_too_many_tools_are_refused() -> None:
    many = [FunctionSpec(f"f{n}") for n in range(MAX_TOOLS)]
    assert tools_of(many) is not None
    assert refused(tools_of, [*many, WEATHER]) == "tools"


def test_a_tool_is_a_function() -> None:
    assert functions_of([ToolSpec("function", WEATHER)]) == [WEATHER]
    assert refused(functions_of, [ToolSpec("web_search")]) == "tools[0].type"
    assert refused(functions_of, [ToolSpec("function", WEATHER), ToolSpec("function")]) == (
        "tools[1].function"
    )


@pytest.mark.parametrize(
    ("arguments", "value"),
    [("{}", {}), ("", {}), (' {"a": [1, {"é": null}]} ', {"a": [1, {"é": None}]})],
)
def test_arguments_become_an_object(arguments: str, value: dict[str, Any]) -> None:
    assert call_message_part("1", "f", arguments, "calls[0]") == {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": value},
    }


@pytest.mark.parametrize(
    "arguments",
    [
        *("{", "x", '{"city": "Ro', "[" * 100_000),
        # What neither a worker nor an answer could be told.
        '{"a": 123456789012345678901234567890}',
        '{"a": [{"b": -9223372036854775809}]}',
        '{"a": "\\ud800"}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}",
    ],
)
def test_arguments_that_cannot_be_read_stay_text(arguments: str) -> None:
    made = call(function={"name": "f", "arguments": arguments})
    (part,) = calls_of([made], "m.tool_calls")
    assert part["function"] == {"name": "f", "arguments": arguments}
    msgspec.msgpack.encode(part)  # as a worker is told


def call(**fields: Any) -> ToolCallSpec:
    given = {"id": "1", "function": {"name": "f", "arguments": "{}"}, **fields}
    return msgspec.convert(given, ToolCallSpec)


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        (call(id=None), "m.tool_calls[1].id"),
        (call(type="custom"), "m.tool_calls[1].type"),
        (call(function=None), "m.tool_calls[1].function"),
        (call(function={"name": "a b"}), "m.tool_calls[1].function.name"),
        *[
            (
                call(function={"name": "f", "arguments": arguments}),
                "m.tool_calls[1].function.arguments",
            )
            for arguments in ("[]", "7", "null", '"x"')
        ],
    ],
)
def test_a_call_that_is_none_is_refused(spec: ToolCallSpec, param: str) -> None:
    assert refused(calls_of, [call(), spec], "m.tool_calls") == param


def test_too_many_calls_are_refused() -> None:
    assert len(calls_of([call()] * MAX_CALLS, "m")) == MAX_CALLS
    assert refused(calls_of, [call()] * (MAX_CALLS + 1), "m") == "m"


def test_a_result_answers_a_call_that_was_made() -> None:
    made = {"role": "assistant", "content": "", "tool_calls": calls_of([call(id="a")], "m")}
    result = {"role": "tool", "tool_call_id": "a", "content": "7"}
    check_answered([{"role": "user", "content": "x"}, made, result, result])
    assert refused(check_answered, [result, made]) == "messages[0].tool_call_id"
    assert refused(check_answered, [made, {**result, "tool_call_id": "b"}], "m") == (
        "m[1].tool_call_id"
    )

"""The `input` of a Responses body: items in OpenAI's shapes to messages for a chat template.

Pure. A function call belongs to the assistant's message before it, as templates want it; what an
answer of ours had as items can be sent back as it came. Used by `responses`.
"""

from typing import Any

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.http.body import missing
from rayhost.http.schema import shown
from rayhost.http.tool_choice import call_message_part

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXTS = {"input_text", "output_text", "text"}


class Part(msgspec.Struct, frozen=True):
    """A piece of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    # What an answer of ours says of its text: nothing that a model is told.
    annotations: Any = None
    logprobs: Any = None


Content = str | tuple[Part, ...] | None


class Item(msgspec.Struct, frozen=True):
    """One item as sent: a message, a call that the model made, or what came of one."""

    type: str | None = None
    role: str | None = None
    content: Content = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content = None
    # What an answer of ours says of an item: nothing that a model is told.
    id: Any = None
    status: Any = None


Input = str | tuple[Item, ...]


def messages_of(given: Input, instructions: str | None) -> tuple[dict[str, Any], ...]:
    """Return the conversation for a chat template. Raises InvalidRequest."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return (*messages, {"role": "user", "content": given})
    if not given:
        raise InvalidRequest("input: at least one item is required", param="input")
    made: set[str] = set()
    for i, item in enumerate(given):
        _add(messages, made, item, f"input[{i}]")
    return tuple(messages)


def _add(messages: list[dict[str, Any]], made: set[str], item: Item, where: str) -> None:
    """Add an item to the conversation; `made` has the ids of the calls so far."""
    match item.type:
        case None | "message":
            messages.append(_message(item, where))
        case "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            call = _call(item, where)
            messages[-1].setdefault("tool_calls", []).append(call)
            made.add(call["id"])
        case "function_call_output":
            text = text_of(item.output, f"{where}.output")
            call_id = _required(item.call_id, f"{where}.call_id")
            if call_id not in made:
                raise InvalidRequest(
                    f"{where}.call_id: no function call before it has the id {shown(call_id)!r}",
                    param=f"{where}.call_id",
                )
            messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
        case "item_reference":
            raise InvalidRequest(
                f"{where}: this server stores no items to refer to; send the item itself",
                code="unsupported_parameter",
                param=where,
            )
        case _:
            raise InvalidRequest(
                f"{where}.type: must be 'message', 'function_call' or 'function_call_output', "
                f"not {shown(item.type)!r}",
                param=f"{where}.type",
            )


def _call(item: Item, where: str) -> dict[str, Any]:
    return call_message_part(
        _required(item.call_id, f"{where}.call_id"),
        _required(item.name, f"{where}.name"),
        _required(item.arguments, f"{where}.arguments"),
        where,
    )


def _message(item: Item, where: str) -> dict[str, Any]:
    role = ROLES.get(_required(item.role, f"{where}.role"))
    if role is None:
        raise InvalidRequest(
            f"{where}.role: must be one of {', '.join(ROLES)}, not {shown(item.role)!r}",
            param=f"{where}.role",
        )
    return {"role": role, "content": text_of(item.content, f"{where}.content")}


def text_of(content: Content, where: str) -> str:
    """Return content as one text. Raises InvalidRequest for parts of any other kind."""
    if content is None:
        raise missing(where)
    if isinstance(content, str):
        return content
    return "\n".join(_part_text(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part_text(part: Part, where: str) -> str:
    if part.type == "refusal":
        return _required(part.refusal, f"{where}.refusal")
    if part.type not in _TEXTS:
        raise InvalidRequest(
            f"{where}.type: only 'input_text' and 'output_text' parts are supported, "
            f"not {shown(part.type)!r}",
            param=f"{where}.type",
        )
    return _required(part.text, f"{where}.text")


def _required(value: str | None, where: str) -> str:
    if value is None:
        raise missing(where)
    return value

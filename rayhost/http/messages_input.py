"""The conversation of a Messages body: Anthropic's content blocks to messages for a chat template.

Pure. Turns of one role in a row are one turn, as Anthropic has it; what came of a tool is a message
of its own, before the text of the turn that brings it. Used by `messages`.
"""

import json
from typing import Any

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.http.body import fits_64_bits, missing
from rayhost.http.schema import shown
from rayhost.http.tool_choice import past_call

ROLES = ("user", "assistant", "system")


class InnerBlock(msgspec.Struct, frozen=True):
    """A piece of a system prompt, or of what came of a tool."""

    type: str
    text: str | None = None


Text = str | tuple[InnerBlock, ...] | None


class ContentBlock(msgspec.Struct, frozen=True):
    """A piece of a message: text, a call of a tool, or what came of one."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Text = None
    is_error: bool = False


class Turn(msgspec.Struct, frozen=True):
    """One message as sent. An answer of ours sent back as it came must pass."""

    role: str
    content: str | tuple[ContentBlock, ...]


def conversation(system: Text, turns: tuple[Turn, ...]) -> tuple[dict[str, Any], ...]:
    """Return the messages for a chat template. Raises InvalidRequest."""
    if not turns:
        raise InvalidRequest("messages: at least one message is required", param="messages")
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": text_of(system, "system")})
    made: set[str] = set()  # ids of the calls so far
    for i, turn in enumerate(turns):
        where = f"messages[{i}]"
        if turn.role not in ROLES:
            raise InvalidRequest(
                f"{where}.role: must be one of {', '.join(ROLES)}, not {shown(turn.role)!r}",
                param=f"{where}.role",
            )
        for message in _messages(turn, made, where):
            _append(messages, message)
    if messages[-1].get("tool_calls"):
        raise InvalidRequest(
            "messages: a tool_use needs a tool_result in the next message", param="messages"
        )
    return tuple(messages)


def text_of(text: Text, where: str) -> str:
    """Return content as one text. Raises InvalidRequest for blocks of any other kind."""
    if text is None:
        return ""
    if isinstance(text, str):
        return text
    return "\n".join(_text(block, f"{where}[{i}]") for i, block in enumerate(text))


def _messages(turn: Turn, made: set[str], where: str) -> list[dict[str, Any]]:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, block in enumerate(turn.content):
        place = f"{where}.content[{i}]"
        if block.type == "tool_use" and turn.role == "assistant":
            calls.append(_call(block, made, place))
        elif block.type == "tool_result" and turn.role == "user":
            results.append(_result(block, made, place))
        else:
            texts.append(_text(block, place))
    said: dict[str, Any] = {"role": turn.role, "content": "\n".join(texts)}
    if calls:
        said["tool_calls"] = calls
    return [*results, said] if texts or calls or not results else results


def _call(block: ContentBlock, made: set[str], where: str) -> dict[str, Any]:
    for field in ("id", "name", "input"):
        if getattr(block, field) is None:
            raise missing(f"{where}.{field}")
    made.add(str(block.id))
    given: Any = block.input
    if not fits_64_bits(given):  # no worker can be told; templates are shown the text that it is
        given = json.dumps(given, ensure_ascii=False)
    return past_call(str(block.id), str(block.name), given, where)


def _result(block: ContentBlock, made: set[str], where: str) -> dict[str, Any]:
    if block.tool_use_id is None:
        raise missing(f"{where}.tool_use_id")
    if block.tool_use_id not in made:
        raise InvalidRequest(
            f"{where}.tool_use_id: no tool_use before it has the id {shown(block.tool_use_id)!r}",
            param=f"{where}.tool_use_id",
        )
    text = text_of(block.content, f"{where}.content")
    if block.is_error:  # no template has a field for it
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _text(block: ContentBlock | InnerBlock, where: str) -> str:
    if block.type != "text":
        raise InvalidRequest(
            f"{where}.type: {shown(block.type)!r} is not supported here, only 'text', an "
            "assistant's 'tool_use' and a user's 'tool_result'",
            param=f"{where}.type",
        )
    if block.text is None:
        raise missing(f"{where}.text")
    return block.text


def _append(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Add a message, to the last one where both are the same role's."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != message["role"] or message["role"] == "tool":
        messages.append(message)
        return
    last["content"] = "\n".join(text for text in (last["content"], message["content"]) if text)
    if calls := [*last.get("tool_calls", ()), *message.get("tool_calls", ())]:
        last["tool_calls"] = calls

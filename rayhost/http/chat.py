"""`POST /v1/chat/completions`: the body's meaning and the answer's form. Pure; used by `app`."""

from typing import Any

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, GenerateRequest
from rayhost.http.answer import Answer, Ask, Caller
from rayhost.http.body import missing, parse_body, refuse_unsupported
from rayhost.http.schema import (
    UNSUPPORTED,
    GenerationBody,
    check_values,
    one_of_aliases,
    sampling_of,
    shown,
    stops_of,
)

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    **UNSUPPORTED,
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


class Part(msgspec.Struct, frozen=True):
    """A piece of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message as sent. An answer of ours sent back as it came must pass, nulls and all."""

    role: str
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    """The body."""

    messages: tuple[ChatMessage, ...]
    max_completion_tokens: int | None = None


def parse(raw: bytes, caller: Caller) -> Ask:
    """Return what a chat body asks for. Raises InvalidRequest."""
    body, ignored = parse_body(raw, ChatBody, _UNSUPPORTED)
    check_values(body)
    if not body.messages:
        raise InvalidRequest("messages: at least one message is required", param="messages")
    request = GenerateRequest(
        id=caller.request_id,
        model=body.model,
        prompt=ChatPrompt(
            tuple(
                _for_template(message, f"messages[{i}]") for i, message in enumerate(body.messages)
            )
        ),
        sampling=sampling_of(body),
        max_tokens=one_of_aliases(body, "max_completion_tokens", "max_tokens"),
        stop=stops_of(body),
        terms=caller.terms,
        seeded=body.seed is not None,
        reuse=caller.reuse,
    )
    return Ask(request, body.stream, body.include_usage, ignored)


def _for_template(message: ChatMessage, where: str) -> dict[str, Any]:
    """Return a message as a chat template takes it: role, text content, perhaps a name."""
    role = ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"{where}.role: must be one of {', '.join(ROLES)}, not {shown(message.role)!r}",
            param=f"{where}.role",
        )
    refuse_unsupported(message.tool_calls, f"{where}.tool_calls", ([],))
    refuse_unsupported(message.function_call, f"{where}.function_call")
    if message.content is None:
        raise missing(f"{where}.content")
    templated = {"role": role, "content": _text(message.content, f"{where}.content")}
    if message.name is not None:
        templated["name"] = message.name
    return templated


def _text(content: str | tuple[Part, ...], where: str) -> str:
    if isinstance(content, str):
        return content
    for i, part in enumerate(content):
        if part.type != "text":
            raise InvalidRequest(
                f"{where}[{i}].type: only 'text' parts are supported, not {shown(part.type)!r}",
                param=f"{where}[{i}].type",
            )
        if part.text is None:
            raise missing(f"{where}[{i}].text")
    # A line each, as llama-server and vLLM join them: parts are paragraphs, not fragments.
    return "\n".join(part.text for part in content if part.text is not None)


class ChatAnswer(Answer):
    """A `chat.completion`, or its chunks."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> bytes:
        """Return the chunk that says whose turn it is."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._event([_choice({"delta": delta}, None)])

    def _choice(self, text: str | None, finish_reason: str | None) -> dict[str, Any]:
        return _choice({"delta": {} if text is None else {"content": text}}, finish_reason)

    def _whole_choice(self, text: str, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return _choice({"message": message}, finish_reason)


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}

"""`POST /v1/chat/completions`: the body's meaning. Pure; used by `app`, the answer's form apart."""

from typing import Any

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, GenerateRequest
from rayhost.http.answer import Ask, Caller
from rayhost.http.body import missing, parse_body, refuse_unsupported
from rayhost.http.choices import forked
from rayhost.http.constrained import ConstrainedBody, form_of
from rayhost.http.effects import unused
from rayhost.http.sampling import sampling_of
from rayhost.http.schema import (
    UNSUPPORTED,
    check_values,
    one_of_aliases,
    shown,
    stops_of,
)
from rayhost.http.template_options import template_options
from rayhost.http.tool_choice import (
    ToolCallSpec,
    ToolChoice,
    ToolSpec,
    calls_of,
    check_answered,
    functions_of,
    tools_of,
)

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}

REFUSED: dict[str, tuple[object, ...]] = {
    **{name: harmless for name, harmless in UNSUPPORTED.items() if name != "n"},
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}


class Part(msgspec.Struct, frozen=True):
    """A piece of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message as sent. An answer of ours sent back as it came must pass, nulls and all."""

    role: str
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCallSpec, ...] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    refusal: str | None = None
    prefix: bool | None = None  # the answer is to go on with this text


class ChatBody(ConstrainedBody, frozen=True, kw_only=True):
    """The body."""

    messages: tuple[ChatMessage, ...]
    max_completion_tokens: int | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def parse(raw: bytes, caller: Caller) -> Ask:
    """Return what a chat body asks for. Raises InvalidRequest."""
    body, ignored = parse_body(raw, ChatBody, REFUSED)
    check_values(body)
    form = form_of(body)
    request = GenerateRequest(
        id=caller.request_id,
        model=body.model,
        prompt=prompt_of(body),
        sampling=sampling_of(body),
        max_tokens=one_of_aliases(body, "max_completion_tokens", "max_tokens"),
        stop=stops_of(body),
        terms=caller.terms,
        seeded=body.seed is not None,
        reuse=caller.reuse,
        logprobs=_logprobs(body),
        constraint=form.constraint,
    )
    return Ask(
        forked(request, body.n),
        body.stream,
        body.include_usage,
        (*ignored, *unused(body)),
        body.n,
        form=form.param,
    )


def prompt_of(body: ChatBody) -> ChatPrompt:
    """Return the conversation of a body. Raises InvalidRequest."""
    if not body.messages:
        raise InvalidRequest("messages: at least one message is required", param="messages")
    messages = tuple(
        _for_template(message, f"messages[{i}]") for i, message in enumerate(body.messages)
    )
    check_answered(messages)
    choice = msgspec.to_builtins(body.tool_choice)
    return ChatPrompt(
        messages,
        tools=tools_of(functions_of(body.tools), choice, body.parallel_tool_calls),
        continue_final=_continues(body),
        options=template_options(body.chat_template_kwargs or {}),
    )


def _logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs: only allowed with logprobs true", param="top_logprobs")
    return None


def _continues(body: ChatBody) -> bool:
    """Tell whether the answer goes on with the last message. Raises InvalidRequest.

    Two names of it: vLLM's in the body, and in the message that of Mistral and DeepSeek.
    """
    for i, message in enumerate(body.messages[:-1]):
        if message.prefix:
            raise InvalidRequest(
                f"messages[{i}].prefix: only allowed in the last message",
                param=f"messages[{i}].prefix",
            )
    last = body.messages[-1]
    goes_on = body.continue_final_message or bool(last.prefix)
    param = "continue_final_message" if body.continue_final_message else "messages"
    if goes_on and last.role != "assistant":
        raise InvalidRequest(
            f"{param}: only an assistant's message can be carried on, and the last one is of "
            f"{shown(last.role)!r}",
            param=param,
        )
    if goes_on and body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt: contradicts an answer that goes on with the last message",
            param="add_generation_prompt",
        )
    if not goes_on and body.add_generation_prompt is False:
        raise InvalidRequest(
            "add_generation_prompt: false is only allowed with continue_final_message true",
            param="add_generation_prompt",
        )
    return goes_on


def _for_template(message: ChatMessage, where: str) -> dict[str, Any]:
    """Return a message as a chat template takes it: role, text content, perhaps a name."""
    role = ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"{where}.role: must be one of {', '.join(ROLES)}, not {shown(message.role)!r}",
            param=f"{where}.role",
        )
    refuse_unsupported(message.function_call, f"{where}.function_call")
    content = message.refusal if message.content is None else message.content
    if content is None and not message.tool_calls:
        raise missing(f"{where}.content")
    text = "" if content is None else text_of(content, f"{where}.content")
    templated: dict[str, Any] = {"role": role, "content": text}
    if message.name is not None:
        templated["name"] = message.name
    return templated | _of_tools(message, where)


def _of_tools(message: ChatMessage, where: str) -> dict[str, Any]:
    """Return what a message has of tools: an assistant's calls, or whose result it is."""
    if message.role == "tool":
        if message.tool_call_id is None:
            raise missing(f"{where}.tool_call_id")
        return {"tool_call_id": message.tool_call_id}
    if message.tool_call_id is not None:
        raise InvalidRequest(
            f"{where}.tool_call_id: only allowed with the role 'tool'",
            param=f"{where}.tool_call_id",
        )
    if not message.tool_calls:
        return {}
    if message.role != "assistant":
        raise InvalidRequest(
            f"{where}.tool_calls: only allowed with the role 'assistant'",
            param=f"{where}.tool_calls",
        )
    return {"tool_calls": calls_of(message.tool_calls, f"{where}.tool_calls")}


def text_of(content: str | tuple[Part, ...], where: str) -> str:
    """Return the text of a message. Raises InvalidRequest for a part that is none."""
    if isinstance(content, str):
        return content
    # A line each, as llama-server and vLLM join them: parts are paragraphs, not fragments.
    return "\n".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: Part, where: str) -> str:
    texts = {"text": part.text, "refusal": part.refusal}
    if part.type not in texts:
        raise InvalidRequest(
            f"{where}.type: the models here read text only: parts of 'text' or 'refusal', not "
            f"{shown(part.type)!r}",
            param=f"{where}.type",
        )
    text = texts[part.type]
    if text is None:
        raise missing(f"{where}.{part.type}")
    return text

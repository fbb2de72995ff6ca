"""`POST /v1/completions`: the body's meaning and the answer's form. Pure; used by `app`."""

from typing import Any, TypeGuard

from rayhost.errors import InvalidRequest
from rayhost.front.request import GenerateRequest, Prompt, TextPrompt, TokenPrompt
from rayhost.http.answer import Answer, Ask, Caller
from rayhost.http.body import parse_body
from rayhost.http.schema import (
    INT32_MAX,
    UNSUPPORTED,
    GenerationBody,
    check_values,
    sampling_of,
    shown,
    stops_of,
)

DEFAULT_MAX_TOKENS = 16  # OpenAI's

_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    **UNSUPPORTED,
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "logprobs": (),
}

Item = str | int | list[int]


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    """The body."""

    prompt: str | list[Item]


def parse(raw: bytes, caller: Caller) -> Ask:
    """Return what a completion body asks for. Raises InvalidRequest."""
    body, ignored = parse_body(raw, CompletionBody, _UNSUPPORTED)
    check_values(body)
    request = GenerateRequest(
        id=caller.request_id,
        model=body.model,
        prompt=_prompt(body.prompt),
        sampling=sampling_of(body),
        max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        stop=stops_of(body),
        terms=caller.terms,
        seeded=body.seed is not None,
        reuse=caller.reuse,
    )
    return Ask(request, body.stream, body.include_usage, ignored)


def _prompt(prompt: str | list[Item]) -> Prompt:
    """Return the one prompt in any of the four forms that OpenAI documents."""
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    if not prompt:
        raise InvalidRequest("prompt: must not be empty", param="prompt")
    if _all_ints(prompt):
        return _tokens(prompt, "prompt")
    if any(isinstance(item, int) for item in prompt):
        raise InvalidRequest(
            "prompt: a list holds token ids or prompts, not both",
            code="invalid_type",
            param="prompt",
        )
    if len(prompt) > 1:
        raise InvalidRequest(
            f"prompt: one prompt per request, not {len(prompt)}; send a request for each",
            param="prompt",
        )
    only = prompt[0]
    if isinstance(only, list):
        return _tokens(only, "prompt[0]")
    return TextPrompt(str(only))


def _all_ints(items: list[Item]) -> TypeGuard[list[int]]:
    return all(isinstance(item, int) for item in items)


def _tokens(ids: list[int], where: str) -> TokenPrompt:
    if not ids:
        raise InvalidRequest(f"{where}: must not be empty", param=where)
    for i, token in enumerate(ids):
        if not 0 <= token <= INT32_MAX:
            raise InvalidRequest(
                f"{where}[{i}]: a token id is between 0 and {INT32_MAX}, not {shown(token)}",
                param=f"{where}[{i}]",
            )
    return TokenPrompt(tuple(ids))


class CompletionAnswer(Answer):
    """A `text_completion`, or its chunks, which are called the same."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> bytes:
        """Return nothing: text has no role to announce."""
        return b""

    def _choice(self, text: str | None, finish_reason: str | None) -> dict[str, Any]:
        return {
            "index": 0,
            "text": text or "",
            "logprobs": None,
            "finish_reason": finish_reason,
        }

    def _whole_choice(self, text: str, finish_reason: str) -> dict[str, Any]:
        return self._choice(text, finish_reason)

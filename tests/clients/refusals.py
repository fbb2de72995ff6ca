"""Requests that a keyed host refuses, and what OpenAI's clients are to raise for each."""

from dataclasses import dataclass, field
from typing import Any

import pytest

CHAT = "chat/completions"
COMPLETIONS = "completions"
HELLO = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Refusal:
    """One request and its end. `key` is the name of a field of `Keyed`, or a key that is wrong."""

    error: str  # class of the official clients
    status: int
    code: str
    param: str | None = None
    key: str = "key"
    path: str = COMPLETIONS
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> dict[str, Any]:
        """The whole body."""
        whole = {"model": "tiny"}
        question = {"messages": HELLO} if self.path == CHAT else {"prompt": "hi"}
        return {**whole, **question, **self.body}


REFUSALS = [
    Refusal("BadRequestError", 400, "invalid_value", "temperature", body={"temperature": 3}),
    Refusal("BadRequestError", 400, "invalid_type", "max_tokens", body={"max_tokens": "many"}),
    Refusal("BadRequestError", 400, "invalid_value", "messages", path=CHAT, body={"messages": []}),
    Refusal(
        "BadRequestError", 400, "context_length_exceeded", "prompt", body={"prompt": "x" * 2000}
    ),
    Refusal("AuthenticationError", 401, "invalid_api_key", key="rh-nobody"),
    Refusal("NotFoundError", 404, "model_not_found", "model", body={"model": "gpt-5"}),
    Refusal("NotFoundError", 404, "not_found", path="nothing/here"),
    Refusal("APIError", 413, "request_too_large", body={"prompt": "x" * (1 << 20)}),
    Refusal("RateLimitError", 429, "rate_limit_exceeded", key="spent"),
    Refusal(
        *("InternalServerError", 504, "deadline_exceeded"),
        headers={"X-Rayhost-Timeout-Ms": "1"},
        body={"max_tokens": 400},
    ),
]

EACH_REFUSAL = [pytest.param(one, id=f"{one.status}-{one.code}-{one.param}") for one in REFUSALS]

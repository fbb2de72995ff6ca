"""The client's side of ASGI, by hand: whole exchanges in one call, or `receive` under control."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


@dataclass
class Reply:
    """What was sent, message by message."""

    messages: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an envelope that has an error and nothing else."""
        ((key, error),) = self.json.items()
        assert key == "error"
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error, dict)
        return error

    @property
    def events(self) -> list[Any]:
        """The payloads of an event stream; "[DONE]" stays a string."""
        *events, rest = self.body.decode().split("\n\n")
        assert rest == ""
        assert all(event.startswith("data: ") and "\n" not in event for event in events)
        payloads = [event.removeprefix("data: ") for event in events]
        return [one if one == "[DONE]" else json.loads(one) for one in payloads]


def http_scope(
    method: str, path: str, headers: Sequence[tuple[str, str]] = (), query: str = ""
) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def body_messages(*chunks: bytes) -> list[Message]:
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": i < last}
        for i, chunk in enumerate(chunks)
    ]


def scripted(*messages: Message) -> Receive:
    """A `receive` that yields the messages and then waits, as for a client that stays."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    return receive


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    json_body: Any = None,
    headers: Sequence[tuple[str, str]] = (),
) -> Reply:
    """One exchange with a client that stays to the end; `path` may have a query."""
    raw = json.dumps(json_body).encode() if body is None else body
    path, _, query = path.partition("?")
    reply = Reply()
    scope = http_scope(method, path, headers, query)
    await app(scope, scripted(*body_messages(raw)), reply.send)
    return reply


def chat_body(**changes: Any) -> dict[str, Any]:
    """A valid chat body, with changes."""
    return {"model": "small", "messages": [{"role": "user", "content": "hi"}], **changes}


def completion_body(**changes: Any) -> dict[str, Any]:
    """A valid completion body, with changes."""
    return {"model": "small", "prompt": "hi", **changes}

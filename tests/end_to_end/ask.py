"""Requests as clients send them, and streams read one event at a time."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.support.host import Host

PATH = "/v1/completions"


def body(prompt: str = "Once upon a time", max_tokens: int = 8, **fields: Any) -> dict[str, Any]:
    """A completion of exactly `max_tokens`, the same each time."""
    return {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        **fields,
    }


def complete(host: Host, request_id: str = "", **fields: Any) -> httpx.Response:
    headers = {"X-Request-Id": request_id} if request_id else {}
    return httpx.post(host.url + PATH, json=body(**fields), headers=headers, timeout=60)


def send(host: Host, request_id: str = "", **fields: Any) -> socket.socket:
    """Send a completion without waiting for its answer; the connection is the caller's to close."""
    where = urlsplit(host.url)
    content = json.dumps(body(**fields)).encode()
    head = [f"POST {PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
    if request_id:
        head.append(f"X-Request-Id: {request_id}")
    connection = socket.create_connection((where.hostname, where.port), timeout=60)
    connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
    return connection


class Stream:
    """A streamed completion whose head has come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = (line for line in response.iter_lines() if line)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield each event until the stream ends; `[DONE]` must be the last of a good one."""
        for line in self._lines:
            payload = line.removeprefix("data: ")
            if payload == "[DONE]":
                assert list(self._lines) == []
                return
            yield json.loads(payload)

    def first_text(self) -> str:
        """Wait for the first text and return it."""
        for event in self.events():
            if text := event["choices"][0]["text"]:
                return str(text)
        raise AssertionError("the stream had no text")

    def rest(self) -> tuple[str, str | None]:
        """Read to the end; return the text that was left and why the run ended."""
        text, reason = "", None
        for event in self.events():
            choice = event["choices"][0]
            text += choice["text"]
            reason = choice["finish_reason"] or reason
        return text, reason


@contextmanager
def streaming(host: Host, request_id: str = "", **fields: Any) -> Iterator[Stream]:
    headers = {"X-Request-Id": request_id} if request_id else {}
    with httpx.stream(
        "POST", host.url + PATH, json=body(stream=True, **fields), headers=headers, timeout=60
    ) as response:
        assert response.status_code == 200, response.read()
        yield Stream(response)

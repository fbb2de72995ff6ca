"""The small HTTP client of `ask` and `chat`: models, and one answer as it is written.

Standard library only, so that a verb starts in a moment. Invariant: whatever goes wrong on the way
is a RayhostError of one line; what a caller does with the text is not caught here.
"""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from rayhost.errors import RayhostError

CONNECT_S = 10.0
SILENCE_S = 300.0  # a host that computes a prompt sends a comment every 5 s; others may not
_MAX_SHOWN = 300


class Client:
    """A host by its URL. Makes one connection for each request: a conversation is slow."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """`url` with or without `/v1`. Raises RayhostError for one that is none."""
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise RayhostError(f"{url}: not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RayhostError(f"{url}: expected a URL like http://127.0.0.1:8080")
        self.url = url
        self._host = parts.hostname
        self._secure = parts.scheme == "https"
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def models(self) -> list[dict[str, Any]]:
        """Return what the host serves, as `GET /v1/models` lists it. Raises RayhostError."""
        connection, response = self._send("GET", "/v1/models")
        try:
            listed = json.loads(response.read())["data"]
            return [dict(one, id=str(one["id"])) for one in listed]
        except (OSError, http.client.HTTPException) as error:
            raise RayhostError(f"{self.url}: the connection broke: {error}") from None
        except (ValueError, KeyError, TypeError):
            raise RayhostError(f"{self.url}: what answers there lists no models") from None
        finally:
            connection.close()

    def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], **parameters: Any
    ) -> "Answer":
        """Ask for an answer; return it while it is being written. Raises RayhostError."""
        body = {"model": model, "messages": messages, "stream": True, **parameters}
        connection, response = self._send("POST", "/v1/chat/completions", body)
        return Answer(self.url, connection, response)

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_S)
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.connect()
            connection.sock.settimeout(SILENCE_S)
            connection.request(method, self._base + path, content, self._headers)
            response = connection.getresponse()
            if response.status == 200:
                return connection, response
            refusal = _refusal(self.url, response)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            connection.close()
            raise RayhostError(
                f"{self.url}: no host answers there ({_why(error)}); start one with "
                "`rayhost serve`, or say with --url where it is"
            ) from None
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise refusal


class Answer:
    """Iterate it for the text, once. Closing it before the end makes the host stop."""

    def __init__(
        self, url: str, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        self._url = url
        self._connection = connection
        self._response = response
        self.finish_reason: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[str]:
        """Yield non-empty pieces of text. Raises RayhostError."""
        while (event := self._next()) is not None:
            if "error" in event:
                raise RayhostError(_message(event) or f"{self._url}: the answer failed")
            for choice in event.get("choices", ()):
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                if text := choice.get("delta", {}).get("content"):
                    yield text

    def _next(self) -> dict[str, Any] | None:
        """Return the next event, None after the last one."""
        while True:
            try:
                line = self._response.readline()
            except (OSError, http.client.HTTPException) as error:
                raise RayhostError(f"{self._url}: the connection broke: {_why(error)}") from None
            if not line:
                raise RayhostError(f"{self._url}: the connection ended in mid-answer")
            if not line.startswith(b"data:"):  # a comment, or the end of an event
                continue
            payload = line.removeprefix(b"data:").strip()
            if payload == b"[DONE]":
                return None
            try:
                event = json.loads(payload)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise RayhostError(f"{self._url}: an event is no JSON object: {_short(payload)}")
            return event


def _refusal(url: str, response: http.client.HTTPResponse) -> RayhostError:
    raw = response.read(1 << 20)
    try:
        message = _message(json.loads(raw))
    except ValueError:
        message = ""
    text = message or f"{url}: status {response.status}: {_short(raw)}"
    if response.status == 401:
        text += " (give it with --key or in RAYHOST_API_KEY)"
    elif wait := response.headers.get("Retry-After"):
        text += f" (try again in {wait} s)"
    return RayhostError(text)


def _message(envelope: Any) -> str:
    match envelope:
        case {"error": {"message": str(message)}}:
            return " ".join(message.split())
    return ""


def _short(raw: bytes) -> str:
    return " ".join(raw[:_MAX_SHOWN].decode("utf-8", "replace").split())


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()

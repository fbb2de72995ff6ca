"""What `ask` and `chat` share: options, where the host is, which model, text on a terminal."""

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from pathlib import Path

    from rayhost.cli.client import Client

DEFAULT_URL = "http://127.0.0.1:8080"

Url = Annotated[
    str | None,
    typer.Option(
        envvar="RAYHOST_URL",
        help=f"Where the host is; without it, the one that runs here, else {DEFAULT_URL}.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="RAYHOST_API_KEY", show_envvar=True, help="API key, where the host wants one."
    ),
]
System = Annotated[str | None, typer.Option(help="System message.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=2, help="0 for the likeliest words, more for variety.")
]

# What a terminal would take for orders: all controls but newline and tab.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def connect(url: str | None, key: str | None) -> "Client":
    """Return the client of the host that is named or found. Raises RayhostError."""
    from rayhost.cli.client import Client

    return Client(url or _found(), key)


def _found() -> str:
    """Return where the only host of this user is; the default, where none can be seen."""
    from rayhost import admin_socket

    match [_url_of(path) for path in admin_socket.running()]:
        case []:
            return DEFAULT_URL  # of another user perhaps, or there is none: connecting will tell
        case [url]:
            return url
        case several:
            raise RayhostError(f"several hosts run; choose one with --url: {', '.join(several)}")


def _url_of(path: "Path") -> str:
    import json

    from rayhost import admin_socket

    status, body = admin_socket.ask(path, "GET", "/admin/state")
    try:
        return str(json.loads(body)["url"])
    except (ValueError, KeyError, TypeError):
        raise RayhostError(f"{path}: the host answered with status {status}") from None


def chosen(client: "Client", wanted: str | None) -> str:
    """Return the model to ask: the one that is named, else the first that can chat now.

    Raises RayhostError.
    """
    if wanted is not None:
        return wanted
    models = [one for one in client.models() if _chats(one)]
    for one in models:
        if one.get("state", "ready") == "ready":
            return str(one["id"])
    if models:
        states = ", ".join(f"{one['id']} is {one['state']}" for one in models)
        raise RayhostError(f"{client.url}: no model is ready: {states}")
    raise RayhostError(f"{client.url}: no model there can chat")


def _chats(model: dict[str, Any]) -> bool:
    """Tell whether a model can chat; one of a host that does not say can."""
    capabilities = model.get("capabilities")
    return not isinstance(capabilities, dict) or capabilities.get("chat") is not False


def parameters(max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    """Return the parameters that were given."""
    given = {"max_tokens": max_tokens, "temperature": temperature}
    return {name: value for name, value in given.items() if value is not None}


def write(text: str) -> None:
    """Print some of an answer at once; to a terminal only what it shows, no orders to it."""
    sys.stdout.write(_CONTROLS.sub("", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def piped_text() -> str:
    """Return all of stdin, "" of a terminal. Raises RayhostError where it is no text."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RayhostError(f"stdin is not UTF-8 text (byte {error.start})") from None

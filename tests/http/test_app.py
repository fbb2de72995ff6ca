"""The app as an ASGI server meets it: start, stop, and what it drags into the process."""

import subprocess
import sys

from starlette.types import ASGIApp, Message, Scope


async def test_the_app_starts_and_stops_under_the_lifespan_protocol(app: ASGIApp) -> None:
    asked: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    answered: list[str] = []

    async def receive() -> Message:
        return asked.pop(0)

    async def send(message: Message) -> None:
        answered.append(message["type"])

    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    await app(scope, receive, send)
    assert answered == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_http_loads_no_engine_and_no_numbers() -> None:
    code = (
        "import sys, rayhost.http.app\n"
        "print(sorted({'llama_cpp', 'numpy', 'jinja2', 'rayhost.engine'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

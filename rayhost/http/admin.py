"""The operator's requests, on a unix socket that only the host's own user can open.

Same shape of errors as everywhere; no keys, as the socket's mode is the key. `cli.service` serves
it from the front process, on a server of its own: it answers when the public one is full.
"""

from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rayhost.front.state import HostState
from rayhost.http.auth import Gate
from rayhost.http.edge import Edge
from rayhost.http.json import json_response
from rayhost.http.models import Endpoint


class Control(Protocol):
    """What an operator can see and do."""

    def state(self) -> HostState:
        """Return how the host is now."""
        ...

    def purge_cache(self) -> int:
        """Forget every kept answer; return how many there were."""
        ...

    async def restart(self, model: str) -> None:
        """Replace a model's worker; what runs in it goes on in the next one.

        Returns when that is ready. Raises ModelNotFound, and Unavailable when there is none to be
        had.
        """
        ...

    async def reload(self) -> msgspec.Struct:
        """Apply the profile as it is now; return what that changed.

        Raises InvalidRequest, and nothing has changed then.
        """
        ...


def build_admin_app(control: Control) -> ASGIApp:
    """Return the ASGI app of the admin socket."""
    router = Router(
        routes=[
            Route("/admin/state", _state(control), methods=["GET"]),
            Route("/admin/cache/purge", _purge(control), methods=["POST"]),
            Route("/admin/reload", _reload(control), methods=["POST"]),
            Route("/admin/models/{model:path}/restart", _restart(control), methods=["POST"]),
        ],
        redirect_slashes=False,
    )
    return Edge(router, Gate())  # everybody: who may open the socket is the kernel's to say


def _state(control: Control) -> Endpoint:
    async def endpoint(_request: Request) -> Response:
        return Response(msgspec.json.encode(control.state()), media_type="application/json")

    return endpoint


def _purge(control: Control) -> Endpoint:
    async def endpoint(_request: Request) -> Response:
        return json_response({"purged": control.purge_cache()})

    return endpoint


def _reload(control: Control) -> Endpoint:
    async def endpoint(_request: Request) -> Response:
        changed = await control.reload()
        return Response(msgspec.json.encode(changed), media_type="application/json")

    return endpoint


def _restart(control: Control) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        model = request.path_params["model"]
        await control.restart(model)
        return json_response({"model": model, "state": "ready"})

    return endpoint

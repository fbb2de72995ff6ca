"""The OpenAPI 3.1 document, made from `operations` and the structs that parse the bodies.

Invariant: what a body may hold is said once, in its struct and in `schema.RANGES`; this only puts
it into the words of JSON Schema. Made at the first request for it, then kept. Used by `app`.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rayhost import __version__
from rayhost.http import docs_page
from rayhost.http.auth import MAX_TIMEOUT_MS
from rayhost.http.json import encode
from rayhost.http.models import Endpoint
from rayhost.http.openapi_bodies import say_what_the_struct_cannot
from rayhost.http.operations import OPERATIONS, REFINED, Errors, Events, Operation

Json = dict[str, Any]

_SCHEMA = "#/components/schemas/{name}"
_TAGS = {
    "generate": "Text from a model.",
    "text": "What a model reads a text as.",
    "models": "What is served here.",
    "operate": "How the host is.",
}
_ABOUT = """\
Small language models behind an OpenAI-compatible API. A parameter that is null counts as left
out; one that cannot be honoured is refused, one that nobody here knows is named in the header
`X-Rayhost-Ignored`. With `stream: true` the answer is `text/event-stream`: each event a `data:`
line of JSON (`x-event`), the last one of OpenAI's endpoints `data: [DONE]`; an error after the
first event is an event too. `Cache-Control: no-cache` computes an answer anew, `no-store` also
leaves no trace of it."""

_REQUEST_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-Id": ("Comes back in the answer and in the log.", {"type": "string"}),
    "X-Rayhost-Priority": (
        "Who goes first; at most the key's own.",
        {"type": "string", "enum": ["high", "normal", "low", "batch"]},
    ),
    "X-Rayhost-Timeout-Ms": (
        "Refused (503) when it cannot be made, ended (504) when it is over.",
        {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    ),
}
_COUNT: Json = {"type": "integer", "minimum": 0}
_LIMITS = ("Requests", "Tokens")
_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-Id": ("The request's id, yours or one made here.", {"type": "string"}),
    "Retry-After": ("Seconds after which to come back.", _COUNT),
    "X-Should-Retry": (
        "`false` where asking again cannot help; OpenAI's and Anthropic's clients then do not.",
        {"type": "string", "enum": ["false"]},
    ),
    "Age": ("Seconds since the answer was computed, of one that was kept.", _COUNT),
    "X-Rayhost-Cache": (
        "How the request met the kept answers.",
        {"type": "string", "enum": ["hit", "miss", "joined", "bypass"]},
    ),
    "X-Rayhost-Degraded": (
        "What is given up at the moment for want of memory; without it, nothing is.",
        {"type": "string"},
    ),
    "X-Rayhost-Ignored": (
        "Parameters that nobody here knows, or that have no effect.",
        {"type": "string"},
    ),
    "X-Rayhost-Priority": (
        "The priority given, where it is lower than the one asked for.",
        {"type": "string", "enum": ["normal", "low", "batch"]},
    ),
    **{
        f"X-RateLimit-{word}-{of}": (text.format(of.lower()), schema)
        for of in _LIMITS
        for word, text, schema in (
            ("Limit", "The key's {} a minute.", _COUNT),
            ("Remaining", "The {} left now.", _COUNT),
            ("Reset", "Until all {} are left again, such as 1.5s or 6m0s.", {"type": "string"}),
        )
    },
}
_EVERYWHERE = (
    "X-Request-Id",
    "X-Rayhost-Priority",
    "X-Rayhost-Degraded",
    *(f"X-RateLimit-{word}-{of}" for of in _LIMITS for word in ("Limit", "Remaining", "Reset")),
)
_REASONS = {
    200: "The answer.",
    401: "No API key, or none that is known here.",
    403: "There are no API keys, and a web page or a foreign name asks.",
    429: "This key is over a limit, or the queue is full.",
    503: "The host cannot take the request now.",
}


def openapi_json() -> Endpoint:
    """Return the endpoint that shows the document."""

    async def endpoint(_request: Request) -> Response:
        return Response(_encoded(), media_type="application/json")

    return endpoint


def page() -> Endpoint:
    """Return the endpoint that shows it to people."""

    async def endpoint(_request: Request) -> Response:
        return Response(_page(), media_type="text/html")

    return endpoint


@cache
def _encoded() -> bytes:
    return encode(document())


@cache
def _page() -> str:
    return docs_page.render(document())


def document() -> Json:
    """Return the document of every operation."""
    used = [shape for one in OPERATIONS for shape in _shapes(one)]
    shapes = list(dict.fromkeys([*used, *(shape for shape, _ in REFINED)]))
    refs, schemas = msgspec.json.schema_components(shapes, ref_template=_SCHEMA)
    ref = dict(zip(shapes, refs, strict=True))
    for (shape, field), words in REFINED.items():
        schemas[_name(ref[shape])]["properties"][field].update(copy.deepcopy(words))
    for one in OPERATIONS:
        if one.body is not None:
            say_what_the_struct_cannot(_name(ref[one.body]), schemas, one.ranges, one.unsupported)
    paths: dict[str, Json] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, ref.__getitem__)
    return {
        "openapi": "3.1.0",
        "info": {"title": "rayhost", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{"key": []}, {"x-api-key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                name: {"description": text, "schema": schema}
                for name, (text, schema) in _HEADERS.items()
            },
            "parameters": {
                name: {"name": name, "in": "header", "description": text, "schema": schema}
                for name, (text, schema) in _REQUEST_HEADERS.items()
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, where the host has a file of keys.",
                },
                "x-api-key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Api-Key",
                    "description": "The same, as Anthropic's clients send it.",
                },
            },
        },
    }


def _shapes(one: Operation) -> Iterator[Events]:
    for shape in (one.body, one.answer, one.events, one.envelope, *one.also.values()):
        if shape is not None and not isinstance(shape, tuple):
            yield shape


def _operation(one: Operation, ref: Callable[[Events], Json]) -> Json:
    described: Json = {
        "operationId": one.name,
        "summary": one.summary,
        "tags": [one.tag],
        "parameters": [
            *({"$ref": f"#/components/parameters/{name}"} for name in _REQUEST_HEADERS),
            *(_parameter(name, "path", text) for name, text in one.path_words.items()),
            *(_parameter(name, "query", text) for name, text in one.query.items()),
        ],
        "responses": {"200": _success(one, ref)},
    }
    if one.body is not None:
        content = {"application/json": {"schema": ref(one.body)}}
        described["requestBody"] = {"required": True, "content": content}
    if one.free:
        described["security"] = []
    by_status: dict[int, Errors] = {}
    for error in one.every_error:
        if error not in by_status.get(error.status, ()):
            by_status[error.status] = (*by_status.get(error.status, ()), error)
    for status, errors in sorted(by_status.items()):
        described["responses"][str(status)] = _failure(status, errors, one, ref)
    return described


def _parameter(name: str, place: str, text: str) -> Json:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": text,
        "schema": {"type": "string"},
    }


def _success(one: Operation, ref: Callable[[Events], Json]) -> Json:
    if isinstance(one.answer, tuple):
        content: Json = {media: {"schema": {"type": "string"}} for media in one.answer}
    else:
        content = {"application/json": {"schema": ref(one.answer)}}
    if one.events is not None:
        content["text/event-stream"] = {"x-event": ref(one.events)}
    headers = (*_EVERYWHERE, *one.headers)
    if one.body is not None:
        headers = (*headers, "X-Rayhost-Ignored")
    return {"description": _REASONS[200], "headers": _headers(headers), "content": content}


def _failure(status: int, errors: Errors, one: Operation, ref: Callable[[Events], Json]) -> Json:
    codes = ", ".join(f"`{error.code}`" for error in errors)
    reason = _REASONS.get(status) or " ".join(_first_line(error) for error in errors)
    shape = ref(one.envelope)
    if status in one.also:
        shape = {"anyOf": [ref(one.also[status]), shape]}
    come_again = ("Retry-After",) if status in (429, 503) else ()
    do_not = ("X-Should-Retry",) if any(error.hopeless for error in errors) else ()
    headers = (*_EVERYWHERE, *come_again, *do_not)
    return {
        "description": f"{reason} With codes such as {codes}.",
        "headers": _headers(headers),
        "content": {"application/json": {"schema": shape}},
    }


def _headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _first_line(error: type) -> str:
    """Return what an error's docstring says after its status."""
    line = (error.__doc__ or "").partition("\n")[0].partition(": ")[2]
    return line[:1].upper() + line[1:]


def _name(ref: Json) -> str:
    name: str = ref["$ref"].rpartition("/")[2]
    return name

"""The OpenAPI document: complete, valid, true of the answers, and readable as a page."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.types import ASGIApp

from rayhost.errors import InvalidRequest, WorkerLost
from rayhost.front import keys
from rayhost.front.keys import KeyRing
from rayhost.front.request import Front
from rayhost.http import chat
from rayhost.http.answer import Caller
from rayhost.http.app import build_app, routes
from rayhost.http.auth import Gate
from rayhost.http.connection import Bodies
from rayhost.http.openapi import document
from rayhost.http.operations import OPERATIONS
from rayhost.http.schema import RANGES
from rayhost.ipc.messages import Converted
from tests.http.asgi import CHAT, COMPLETIONS, call, chat_body, completion_body
from tests.http.conftest import BODY_BYTES
from tests.http.fake_front import FakeFront
from tests.http.vector_front import VectorFront
from tests.support.api_document import check_answer, operations, strict


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return document()


def test_every_route_has_an_entry_and_every_entry_a_route(front: FakeFront) -> None:
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in routes(front, Bodies(BODY_BYTES), lambda accept: (b"", accept))
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == {(one.path, one.method) for one in OPERATIONS}
    assert len(OPERATIONS) == len(served)


def test_its_schemas_are_valid_and_its_references_lead_somewhere(whole: dict[str, Any]) -> None:
    for schema in whole["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    waiting: list[Any] = [whole]
    while waiting:
        match waiting.pop():
            case {"$ref": str(ref), **others}:
                assert not others
                found = whole
                for step in ref.removeprefix("#/").split("/"):
                    found = found[step]
            case dict(inner):
                waiting.extend(inner.values())
            case list(items):
                waiting.extend(items)


def test_operation_ids_are_different(whole: dict[str, Any]) -> None:
    ids = [one["operationId"] for one in operations(whole)]
    assert len(set(ids)) == len(ids)


def accepts(whole: dict[str, Any], body: dict[str, Any], name: str = "ChatBody") -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": whole["components"]}
    return jsonschema.Draft202012Validator(schema).is_valid(body)


NEEDS = {"top_logprobs": {"logprobs": True}}


@pytest.mark.parametrize("name", sorted(RANGES))
def test_a_range_is_the_one_that_is_checked(whole: dict[str, Any], name: str) -> None:
    allowed = RANGES[name]
    for value in (allowed.low, allowed.low - 1, allowed.high, allowed.high + 1):
        body = chat_body(**NEEDS.get(name, {}), **{name: value})
        try:
            chat.parse(json.dumps(body).encode(), Caller("id"))
        except InvalidRequest:
            parsed = False
        else:
            parsed = True
        assert accepts(whole, body) == parsed, (name, value)


def test_null_counts_as_left_out_except_where_a_value_is_needed(whole: dict[str, Any]) -> None:
    assert accepts(whole, chat_body(temperature=None, metadata=None, stop=None, stream=None))
    assert not accepts(whole, chat_body(model=None))
    assert not accepts(whole, chat_body(temperature="warm"))


def test_null_counts_as_left_out_at_any_depth(whole: dict[str, Any]) -> None:
    said = {"role": "user", "content": "hi"}
    call_made = {"id": "c", "type": None, "function": {"name": "f"}}
    turns = [{**said, "name": None}, {"role": "assistant", "tool_calls": [call_made]}]
    assert accepts(
        whole, chat_body(messages=turns, response_format={"type": "text", "schema": None})
    )
    assert not accepts(whole, chat_body(messages=[{**said, "role": None}]))
    choice = {"type": "any", "disable_parallel_tool_use": None}
    assert accepts(whole, chat_body(max_tokens=1, tool_choice=choice), "MessagesBody")


BODIES = {
    CHAT: chat_body(),
    COMPLETIONS: completion_body(),
    "/v1/responses": {"model": "small", "input": "hi"},
    "/v1/messages": chat_body(max_tokens=9),
    "/v1/messages/count_tokens": chat_body(),
    "/tokenize": {"content": "hi"},
    "/detokenize": {"tokens": [1]},
    "/apply-template": {"messages": chat_body()["messages"]},
    "/v1/embeddings": {"model": "small", "input": "hi"},
    "/v1/rerank": {"model": "small", "query": "a", "documents": ["b"]},
}
REFUSED = [(one.path, name) for one in OPERATIONS for name in one.unsupported]


@pytest.mark.parametrize(("path", "name"), REFUSED)
async def test_what_is_refused_is_documented_with_what_is_not(
    app: ASGIApp, whole: dict[str, Any], path: str, name: str
) -> None:
    (one,) = [one for one in OPERATIONS if one.path == path]
    assert one.body is not None
    for value in (*one.unsupported[name], None, "x", {"zork": 1}):
        body = {**BODIES[path], name: value}
        reply = await call(app, "POST", path, json_body=body)
        assert reply.status in (200, 400)
        assert accepts(whole, body, one.body.__name__) == (reply.status == 200), value


@pytest.mark.parametrize("path", BODIES)
async def test_the_headers_of_an_answer_are_documented(
    front: FakeFront, whole: dict[str, Any], path: str
) -> None:
    of_vectors = path in ("/v1/embeddings", "/v1/rerank")
    served: Front = VectorFront() if of_vectors else front
    front.reading = Converted(text="x")
    app = build_app(served, body_bytes=BODY_BYTES)
    reply = await call(app, "POST", path, json_body={**BODIES[path], "zork": 1})
    assert reply.status == 200
    known = whole["paths"][path]["post"]["responses"]["200"]["headers"]
    sent = {name for name in reply.headers if name.startswith("x-")}
    assert "x-rayhost-ignored" in sent
    assert sent <= {name.lower() for name in known}


def test_every_post_has_a_body_here() -> None:
    assert BODIES.keys() == {one.path for one in OPERATIONS if one.body is not None}


async def test_it_is_served_the_same_each_time(app: ASGIApp) -> None:
    first, second = [await call(app, "GET", "/openapi.json") for _ in range(2)]
    assert first.status == 200
    assert first.headers["content-type"] == "application/json"
    assert first.body == second.body
    assert first.json["openapi"] == "3.1.0"


async def test_what_is_said_of_keys_is_true(front: FakeFront, tmp_path: Path) -> None:
    made, _ = keys.create("alice")
    keys.write(tmp_path / "keys.json", (made,))
    app = build_app(front, body_bytes=BODY_BYTES, gate=Gate(KeyRing(tmp_path / "keys.json")))
    proxied = [("x-forwarded-for", "192.0.2.1")]
    for one in OPERATIONS:
        reply = await call(app, one.method.upper(), one.path, json_body={}, headers=proxied)
        assert (reply.status != 401) == one.free, one.path


async def test_a_key_may_be_sent_in_each_way_that_is_documented(
    front: FakeFront, whole: dict[str, Any], tmp_path: Path
) -> None:
    made, secret = keys.create("alice")
    keys.write(tmp_path / "keys.json", (made,))
    app = build_app(front, body_bytes=BODY_BYTES, gate=Gate(KeyRing(tmp_path / "keys.json")))
    schemes = whole["components"]["securitySchemes"]
    ways = {"bearer": ("authorization", f"Bearer {secret}"), "apiKey": ("x-api-key", secret)}
    named = [name for way in whole["security"] for name in way]
    assert {schemes[name].get("scheme", schemes[name]["type"]) for name in named} == ways.keys()
    for header in ways.values():
        reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=[header])
        assert reply.status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body()),
        (COMPLETIONS, completion_body()),
        ("/v1/responses", {"model": "small", "input": "hi"}),
        ("/v1/messages", chat_body(max_tokens=9)),
    ],
)
async def test_answers_are_as_documented(
    app: ASGIApp,
    front: FakeFront,
    whole: dict[str, Any],
    path: str,
    body: dict[str, Any],
    stream: bool,
    usage: bool,
    breaks: bool,
) -> None:
    if breaks:
        front.run_error = WorkerLost("the worker died")
    options: dict[str, Any] = {"stream": True} if stream else {}
    if stream and usage:
        options["stream_options"] = {"include_usage": True}
    reply = await call(app, "POST", path, json_body={**body, **options})
    assert reply.status == (500 if breaks and not stream else 200)
    media = reply.headers["content-type"]
    check_answer(strict(whole), "post", path, reply.status, media, reply.body)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/org/smol", "/v1/models/{model}"),
        ("/v1/models/nobody", "/v1/models/{model}"),
        ("/health", "/health"),
        ("/ready", "/ready"),
        ("/ready?model=nobody", "/ready"),
        ("/openapi.json", "/openapi.json"),
        ("/docs", "/docs"),
    ],
)
async def test_what_is_shown_is_as_documented(
    app: ASGIApp, whole: dict[str, Any], asked: str, path: str
) -> None:
    reply = await call(app, "GET", asked)
    media = reply.headers["content-type"]
    check_answer(strict(whole), "get", path, reply.status, media, reply.body)


def test_an_answer_with_a_field_that_is_not_documented_is_seen(whole: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        check_answer(
            strict(whole),
            *("get", "/v1/models", 200, "application/json"),
            b'{"object": "list", "data": [], "surprise": 1}',
        )


class Page(HTMLParser):
    """The links, anchors and unclosed tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            elif name == "id":
                self.anchors.add(value or "")


async def test_the_page_shows_every_operation_and_needs_no_network(app: ASGIApp) -> None:
    reply = await call(app, "GET", "/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(reply.body.decode())
    assert {one.name for one in OPERATIONS} < page.anchors
    links = set(page.links) - {"openapi.json"}
    assert links
    assert links <= {f"#{anchor}" for anchor in page.anchors}
    assert "script" not in page.tags


def test_nothing_is_made_before_it_is_asked_for() -> None:
    code = (
        "import rayhost.http.app, rayhost.http.openapi as made\n"
        "print(made._encoded.cache_info().currsize, made._page.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]

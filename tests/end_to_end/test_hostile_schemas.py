"""Schemas that are none, in every place of a body that takes one: answered as documented, at once.

Beside what schemathesis makes of the document (`test_openapi_document`), to which a schema is any
object.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rayhost.http.openapi import document
from tests.support.api_document import check_answer, strict
from tests.support.host import Host
from tests.support.hostile_schemas import drawn, written

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

DRAWN = 300
ANSWER_S = 30.0
MESSAGES = [{"role": "user", "content": "hi"}]
TURN = {"messages": MESSAGES}
Body = dict[str, Any]


def named(schema: Any) -> Body:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def function(schema: Any, **more: Any) -> Body:
    return {"name": "f", "parameters": schema, **more}


def in_chat(schema: Any) -> Body:
    return {**TURN, "max_tokens": 4, "response_format": named(schema)}


def in_tools(schema: Any) -> Body:
    return {**TURN, "max_tokens": 4, "tools": [{"type": "function", "function": function(schema)}]}


def in_lenient_tools(schema: Any) -> Body:
    tool = {"type": "function", "function": function(schema, strict=False)}
    return {**TURN, "max_tokens": 4, "tools": [tool], "tool_choice": "required"}


def in_both(schema: Any) -> Body:
    return {**in_tools({"type": "object"}), **in_chat(schema)}


def in_completion(schema: Any) -> Body:
    return {"prompt": "x", "max_tokens": 4, "guided_json": json.dumps(schema)}


def in_response(schema: Any) -> Body:
    text = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    return {"input": "x", "max_output_tokens": 4, "text": text}


def in_response_tools(schema: Any) -> Body:
    return {
        "input": "x",
        "max_output_tokens": 4,
        "tools": [{"type": "function", **function(schema)}],
    }


def in_message(schema: Any) -> Body:
    return {
        **TURN,
        "max_tokens": 4,
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }


def in_message_tools(schema: Any) -> Body:
    return {**TURN, "max_tokens": 4, "tools": [{"name": "f", "input_schema": schema}]}


PLACES = [
    *(("/v1/chat/completions", one) for one in (in_chat, in_tools, in_lenient_tools, in_both)),
    ("/v1/completions", in_completion),
    *(("/v1/responses", one) for one in (in_response, in_response_tools)),
    *(("/v1/messages", one) for one in (in_message, in_message_tools)),
    ("/v1/messages/count_tokens", in_message_tools),
]


def cases() -> Iterator[tuple[str, Body]]:
    """Paths and bodies: the written ones in every place, drawn ones in one each."""
    for schema, (path, place) in itertools.product(written(), PLACES):
        yield path, place(schema)
    for schema, (path, place) in zip(drawn(DRAWN), itertools.cycle(PLACES), strict=False):
        yield path, place(schema)


def test_whatever_a_schema_is_the_answer_is_documented(host: Host) -> None:
    documented = strict(document())
    worker = host.worker().pid
    answered: Counter[int] = Counter()
    with httpx.Client(base_url=host.url, timeout=ANSWER_S) as client:
        for path, fields in cases():
            reply = client.post(path, json={"model": "tiny", **fields})
            said = f"{path} {json.dumps(fields)[:1000]}: {reply.text[:1000]}"
            assert reply.status_code in (200, 400, 413), said
            media = reply.headers["content-type"]
            check_answer(documented, "post", path, reply.status_code, media, reply.content)
            assert "prompt_failed" not in reply.text, said
            answered[reply.status_code] += 1
        assert client.get("/health").status_code == 200
    assert host.worker().pid == worker, "no schema ends a worker"
    assert min(answered[200], answered[400]) > DRAWN / 10, answered

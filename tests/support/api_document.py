"""An OpenAPI document held against what a host sends: nothing in an answer that is not in it."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema

Json = dict[str, Any]


def strict(document: Json) -> Json:
    """The document with every shape of an answer closed to fields it does not name.

    To clients a shape is open, as fields may be added; to tests a new one is to be documented.
    """
    closed = copy.deepcopy(document)
    names: set[str] = set()
    for operation in operations(closed):
        names |= _reached(operation["responses"], closed)
    for name in names:
        shape = closed["components"]["schemas"][name]
        if "properties" in shape:
            shape["additionalProperties"] = False
    return closed


def operations(document: Json) -> Iterator[Json]:
    """Every operation."""
    return (one for methods in document["paths"].values() for one in methods.values())


def check_answer(
    document: Json, method: str, path: str, status: int, media: str, body: bytes
) -> None:
    """Fail unless an operation may answer so; `path` is as the document has it."""
    responses = document["paths"][path][method]["responses"]
    content = responses[str(status)]["content"][media.partition(";")[0]]
    if "x-event" in content:
        for event in events(body.decode()):
            shape = {"anyOf": [content["x-event"], _error(responses)]}
            _validate(event, shape, document)
    elif media.startswith("application/json"):
        _validate(json.loads(body), content["schema"], document)


def events(stream: str) -> Iterator[Any]:
    """The JSON of each event of a stream that ended; comments and OpenAI's end mark are skipped."""
    *parts, rest = stream.split("\n\n")
    assert rest == "", f"the stream was cut: {rest[-100:]!r}"
    for part in parts:
        for line in part.split("\n"):
            name, _, value = line.partition(": ")
            assert name in ("", "event", "data"), line
            if name == "data" and value != "[DONE]":
                yield json.loads(value)


def _validate(value: Any, schema: Json, document: Json) -> None:
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def _error(responses: Json) -> Json:
    schema: Json = responses["500"]["content"]["application/json"]["schema"]
    return schema


def _reached(value: Any, document: Json) -> set[str]:
    """Names of the shapes that something refers to, directly or through others."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        match waiting.pop():
            case {"$ref": str(ref)} if ref.startswith("#/components/schemas/"):
                name = ref.rpartition("/")[2]
                if name not in found:
                    found.add(name)
                    waiting.append(document["components"]["schemas"][name])
            case dict(inner):
                waiting.extend(inner.values())
            case list(items):
                waiting.extend(items)
    return found

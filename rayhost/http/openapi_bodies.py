"""What a body takes and its struct does not say, put into its schema. Pure but for that; used by
`openapi` alone.

Invariant: the schema allows null wherever `known_names` takes it out, and the values of an
unsupported parameter that `body` lets pass.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from rayhost.http.body import Unsupported
from rayhost.http.schema import Range

Json = dict[str, Any]

_NULL: Json = {"type": "null"}


def say_what_the_struct_cannot(
    name: str, schemas: Mapping[str, Json], ranges: Mapping[str, Range], unsupported: Unsupported
) -> None:
    """Put into a body's schema its ranges and what is unsupported; null into all that are in it."""
    body = schemas[name]
    for field, value in body["properties"].items():
        if field in ranges:
            for number in _numbers(value):
                number.update(_bounds(ranges[field]))
    for inner in _within(name, schemas):
        _allow_nulls(schemas[inner])
    for field, harmless in unsupported.items():
        body["properties"][field] = {
            "description": "Not supported: taken where it asks for nothing.",
            "enum": [*copy.deepcopy(harmless), None],
        }


def _within(name: str, schemas: Mapping[str, Json]) -> Iterator[str]:
    """Yield the names of a schema and of all that it refers to, directly or through others."""
    found = {name}
    waiting: list[Any] = [name]
    while waiting:
        match waiting.pop():
            case str(known):
                yield known
                waiting.append(schemas[known])
            case {"$ref": str(ref)}:
                inner = ref.rpartition("/")[2]
                if inner not in found:
                    found.add(inner)
                    waiting.append(inner)
            case dict(parts):
                waiting += [part for part in parts.values() if isinstance(part, dict | list)]
            case list(parts):
                waiting += [part for part in parts if isinstance(part, dict | list)]


def _allow_nulls(schema: Json) -> None:
    """Say that null stands for a field that is left out."""
    required = schema.get("required", ())
    for name, value in schema.get("properties", {}).items():
        if value.get("default", ...) is None:
            del value["default"]
        if name not in required:
            _allow_null(value)


def _numbers(schema: Json) -> Iterator[Json]:
    for alternative in schema.get("anyOf", (schema,)):
        if alternative.get("type") in ("integer", "number"):
            yield alternative


def _bounds(allowed: Range) -> Json:
    low = "exclusiveMinimum" if allowed.open_low else "minimum"
    return {low: allowed.low, "maximum": allowed.high}


def _allow_null(schema: Json) -> None:
    """Let a schema take null too. One without a type or reference takes everything as it is."""
    if "anyOf" in schema:
        if _NULL not in schema["anyOf"]:
            schema["anyOf"].append(dict(_NULL))
        return
    if None in schema.get("enum", ()):
        return
    kept = {key: schema.pop(key) for key in list(schema) if key not in ("default", "description")}
    if kept:
        schema["anyOf"] = [kept, dict(_NULL)]

"""Schemas whose words have values of the wrong kind, that are deep or huge: a fuzzer's."""

import random
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

WORDS = (
    *("type", "properties", "required", "items", "prefixItems", "additionalProperties", "enum"),
    *("const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "minimum", "maximum", "multipleOf"),
    *("exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "format"),
    *("minItems", "maxItems", "minProperties", "maxProperties", "patternProperties", "not", "if"),
    *("uniqueItems", "discriminator", "x-guidance", "$id", "$schema", "definitions", "default"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**53 + 1, 2**63, -(2**63), 10**19, 1e300, "", "x", "("),
    *("#", "#/$defs/a", "object", [], [None], ["x", "x"], [[]], [{}], {}, {"a": None}, {"": {}}),
    *({"a": []}, {"a": {"type": "object"}}, {"type": 7}, ["object", 7]),
)


def _tagged(tag: str) -> Schema:
    return {"type": "object", "properties": {"t": {"const": tag}}, "required": ["t"]}


WRITTEN: tuple[Schema, ...] = (
    {"type": "object", "properties": {"a": {}}, "required": None},
    {"type": "object", "properties": []},
    {"type": "object", "properties": {"a": None}},
    {"type": "object", "properties": {"a": {"enum": {}}}},
    {"type": "object", "properties": {"a": {"minimum": "x"}}},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": None, "maximum": {}}}},
    {"type": "object", "required": [["a"], {}, 1], "properties": {"a": {}}},
    {"type": ["object", None]},
    {"oneOf": [None, 1, {"$ref": 1}], "discriminator": []},
    {"allOf": [{"$ref": "#"}, {"$ref": "#/allOf/0"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"properties": {"a": {"$ref": "#/properties/~2/%"}}},
    {"enum": list(range(20_000))},
    {"type": "object", "properties": {f"p{i}": {"enum": ["v" * 40]} for i in range(1_500)}},
    {"type": "object", "properties": {"a": {"enum": [f"v{i}" for i in range(5_000)]}}},
    {"type": "string", "pattern": "(a|b)*" * 400},
    {"allOf": [{"type": "string", "pattern": f"a[ab]{{{i + 5}}}"} for i in range(40)]},
    {"type": "object", "properties": {"a": {"oneOf": [_tagged(f"v{i}") for i in range(1_000)]}}},
    {"type": "object", "properties": {"a": {"oneOf": [_tagged(f"v{i}") for i in range(3_000)]}}},
)


def deep(levels: int, word: str = "items") -> Schema:
    """A schema in a schema, so many times; a body may have 64 levels, itself included."""
    made: Schema = {"type": "integer"}
    for _ in range(levels):
        made = {"properties": {"a": made}} if word == "properties" else {word: made}
    return made


def written() -> list[Schema]:
    """Those that somebody thought of."""
    depths = [deep(n, word) for n in (20, 50, 200) for word in ("items", "properties")]
    return [*WRITTEN, *depths]


def drawn(count: int) -> Iterator[Schema]:
    """Yield so many that nobody wrote, the same each time."""
    draw = random.Random(6)
    return (_drawn(draw, 2) for _ in range(count))


def _drawn(draw: random.Random, depth: int) -> Schema:
    made: Schema = {"type": "object"} if draw.random() < 0.6 else {}
    for word in draw.sample(WORDS, draw.randint(1, 4)):
        value = draw.choice(VALUES)
        if depth and draw.random() < 0.4:
            inner = _drawn(draw, depth - 1)
            value = draw.choice(([inner], [inner, inner], {"a": inner}, inner))
        made[word] = value
    return made

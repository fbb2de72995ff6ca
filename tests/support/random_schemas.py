"""JSON schemas that nobody wrote: seeded, small enough that a small model comes to their end."""

import random
import string
from typing import Any

Schema = dict[str, Any]

PATTERNS = (r"^[A-Z]{3}-\d{2}$", r"^(red|green)+$", r"^\d+(\.\d{1,2})?$", r"^[a-f0-9]{4}$", r"ab+c")
FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4", "hostname")
WORDS = (
    "name",
    "size",
    "kind",
    "id",
    "tags",
    "parent",
    "value",
    "unit",
    "when",
    "\u00e9tat",
    "a b",
)


def schema(seed: int) -> Schema:
    """Return a schema of an object; the same for the same seed."""
    return _Maker(random.Random(seed)).whole()


class _Maker:
    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._defs: dict[str, Schema] = {}

    def whole(self) -> Schema:
        draw = self._draw
        for name in draw.sample(("leaf", "point"), draw.randint(0, 2)):
            self._defs[name] = self._object(1) if draw.random() < 0.5 else self._leaf()
        if draw.random() < 0.3:  # a tree that may end at once
            branches = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}
            self._defs["tree"] = {
                "type": "object",
                "properties": {"v": self._leaf(), "sub": branches},
                "required": ["v"],
                "additionalProperties": False,
            }
        made = self._object(2)
        # One of each kind comes in every few schemas, whatever else is drawn.
        name, kind = draw.choice(sorted(made["properties"])), draw.randrange(12)
        special = (self._one_of, self._any_of, self._all_of, self._open)
        if kind < len(special):
            made["properties"][name] = special[kind]()
        return {**made, "$defs": self._defs} if self._defs else made

    def _one_of(self) -> Schema:
        """Objects told apart by a property, as pydantic writes a tagged union."""
        tags = self._draw.sample(("cat", "dog", "bird"), self._draw.randint(2, 3))
        parts = []
        for tag in tags:
            part = self._object(0)
            part["properties"] = {"pet": {"const": tag}, **part["properties"]}
            part["required"] = ["pet", *part["required"]]
            if self._draw.random() < 0.5:
                del part["additionalProperties"]
            self._defs[tag] = part
            parts.append({"$ref": f"#/$defs/{tag}"})
        mapping = {tag: f"#/$defs/{tag}" for tag in tags}
        return {"oneOf": parts, "discriminator": {"propertyName": "pet", "mapping": mapping}}

    def _any_of(self) -> Schema:
        """One form or another, or both: objects that leave room for each other among them."""
        parts = [self._object(0) for _ in range(self._draw.randint(1, 2))]
        for part in parts:
            part.pop("additionalProperties")
        return {"anyOf": [*parts, self._leaf()]}

    def _all_of(self) -> Schema:
        """One object that several places speak of, or one value within several bounds."""
        low = self._draw.randint(-50, 50)
        if self._draw.random() < 0.3:
            return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 20}]}
        first, second = self._object(0), self._object(0)
        for name in first["properties"].keys() & second["properties"].keys():
            second["properties"][name] = first["properties"][name]
        for part in (first, second):
            part.pop("additionalProperties")
        return {"allOf": [first, second]}

    def _open(self) -> Schema:
        """An object whose further properties have a schema of their own."""
        made = self._object(0)
        made["additionalProperties"] = self._draw.choice(
            ({"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"})
        )
        return made if self._draw.random() < 0.7 else {**made, "maxProperties": 4}

    def _any(self, depth: int) -> Schema:
        draw = self._draw
        kind = draw.choice(("leaf", "leaf", "leaf", "object", "array", "anyOf", "ref", "tuple"))
        if kind == "ref" and self._defs:
            return {"$ref": f"#/$defs/{draw.choice(sorted(self._defs))}"}
        if kind == "anyOf":
            return {"anyOf": [self._leaf(), {"type": "null"}, self._leaf()]}
        if depth == 0 or kind in ("leaf", "ref"):
            return self._leaf()
        if kind == "object":
            return self._object(depth - 1)
        if kind == "tuple":
            items = [self._leaf() for _ in range(draw.randint(1, 2))]
            all_of_them = {"minItems": len(items)} if draw.random() < 0.5 else {}
            return {"type": "array", "prefixItems": items, "items": False, **all_of_them}
        least = draw.randint(0, 2)
        return {
            "type": "array",
            "items": self._any(depth - 1),
            "minItems": least,
            "maxItems": least + draw.randint(0, 2),
        }

    def _object(self, depth: int) -> Schema:
        draw = self._draw
        names = draw.sample(WORDS, draw.randint(1, 3))
        return {
            "type": "object",
            "title": "".join(draw.choices(string.ascii_letters, k=5)),
            "properties": {name: self._any(depth) for name in names},
            "required": draw.sample(names, draw.randint(1, len(names))),
            "additionalProperties": False,
        }

    def _leaf(self) -> Schema:
        draw = self._draw
        low = draw.randint(-1000, 1000)
        high = low + draw.randint(0, 5000)
        return draw.choice(
            (
                {"type": "string", "maxLength": draw.randint(1, 20), "minLength": 1},
                {"type": "string", "pattern": draw.choice(PATTERNS)},
                {"type": "string", "format": draw.choice(FORMATS)},
                {"enum": draw.sample(("a", "bb", 1, 2.5, True, None, "\u4f60", 'q"t'), 3)},
                {"const": draw.choice(("fixed", 0, False))},
                {"type": "integer", "minimum": low, "maximum": high},
                {"type": "integer", "exclusiveMinimum": low, "multipleOf": draw.choice((1, 5))},
                {"type": "number", "minimum": low / 8, "exclusiveMaximum": high / 8 + 1},
                {"type": "number", "exclusiveMinimum": low, "maximum": high + 1},
                {"type": "integer", "minimum": -(10**18), "maximum": 2**63 - 1},
                {"type": "integer", "exclusiveMaximum": 10**18, "minimum": 0},
                {"type": ["boolean", "null"]},
                {"type": "boolean"},
            )
        )

"""JSON Schemas made ready for a grammar: what they leave open is closed, as far as that is sound.

Pure: JSON as Python has it in and out, whatever a client made of its words. Used by the child that
checks sources (`grammar_check`), so it imports nothing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

Path = tuple[str, ...]

# Words whose value is a schema, a list of them, or has one for each name.
_ONE = frozenset(
    {"items", "additionalItems", "unevaluatedItems", "contains", "not", "if", "then", "else"}
    | {"additionalProperties", "unevaluatedProperties", "propertyNames"}
)
_SEVERAL = frozenset({"items", "prefixItems", "allOf", "anyOf", "oneOf"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})

_OBJECT = frozenset({"object"})
_DEFINITIONS = frozenset({"$defs", "definitions"})

# With one of these, several schemas speak of one object: each, closed, would shut out the others.
_TOGETHER = frozenset(
    {"patternProperties", "propertyNames", "unevaluatedProperties", "dependentSchemas"}
    | {"dependencies", "$dynamicRef", "not", "if"}
)
_OF_OBJECTS = frozenset(
    {"properties", "required", "additionalProperties", "anyOf", "oneOf", "allOf"}
)


def subschemas(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the schemas directly in one, each with its place. What is data has none."""
    if not isinstance(schema, dict):
        return
    for word, value in schema.items():
        if word in _SEVERAL and isinstance(value, list):
            yield from (((word, str(i)), one) for i, one in enumerate(value))
        elif word in _NAMED and isinstance(value, dict):
            yield from (((word, name), one) for name, one in value.items())
        elif word in _ONE and isinstance(value, dict):
            yield (word,), value


def with_subschemas(schema: dict[str, Any], made: dict[Path, Any]) -> dict[str, Any]:
    """Return a schema with other ones at the places that `subschemas` gave, in the same order."""
    changed = dict(schema)
    for (word, *inner), value in made.items():
        if not inner:
            changed[word] = value
            continue
        if changed[word] is schema[word]:
            changed[word] = schema[word].copy()
        changed[word][int(inner[0]) if isinstance(schema[word], list) else inner[0]] = value
    return changed


def closed(schema: Any) -> Any:
    """Return a schema whose objects have the properties that it names and no others.

    What matches it matches the one given. Else a small model may go on for ever with properties of
    its own making; who wants them says so by `additionalProperties`. Left as they are: objects that
    are put together from several places, as each would close out the others; what a grammar could
    only come to with other properties; and parts of which exactly one must match, unless they are
    told apart by a type or by a property's value, as others might match too what one of them lets
    through.
    """
    return _closed(schema, (), schema, _left_open(schema))


def _closed(schema: Any, path: Path, root: Any, left_open: set[Path]) -> Any:
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return schema
    apart = path not in left_open and not _puts_together(schema, root)
    made = with_subschemas(
        schema,
        {
            place: _closed(one, path + place, root, left_open)
            for place, one in subschemas(schema)
            if apart or place[0] in _DEFINITIONS
        },
    )
    names, required = schema.get("properties"), schema.get("required", [])
    if not apart or "minProperties" in schema:
        return made
    if not isinstance(names, dict) or not isinstance(required, list):
        return made
    if all(isinstance(name, str) and name in names for name in required):
        made.setdefault("additionalProperties", False)
    return made


def _puts_together(schema: dict[str, Any], root: Any) -> bool:
    """Tell whether several schemas speak of the same object, or exactly one of several must."""
    words = schema.keys()
    if _TOGETHER & words:
        return True
    if "$ref" in words and _OF_OBJECTS & words:
        return True
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) > 1:
        return True
    choices = {"anyOf", "oneOf", "allOf"} & words
    if choices and len(_OF_OBJECTS & words) > 1:
        return True
    parts = schema.get("oneOf")
    return isinstance(parts, list) and not _exclude_each_other(parts, root)


def _left_open(root: Any) -> set[Path]:
    """Return the places that are referred to from inside of what is put together."""
    left_open: set[Path] = set()
    found: list[Path] = []
    _referred(root, root, False, found)
    while found:
        path = found.pop()
        if path not in left_open:
            left_open.add(path)
            _referred(_at(root, path), root, True, found)
    return left_open


def _referred(schema: Any, root: Any, together: bool, found: list[Path]) -> None:
    if not isinstance(schema, dict):
        return
    together = together or _puts_together(schema, root)
    ref = schema.get("$ref")
    if together and isinstance(ref, str):
        found.append(_path_of(ref))
    for (word, *_), one in subschemas(schema):
        # Definitions are no part of what they stand in: only who refers to one says what it is for.
        _referred(one, root, together and word not in _DEFINITIONS, found)


def _path_of(ref: str) -> Path:
    parts = ref.removeprefix("#").split("/")[1:]
    return tuple(unquote(part).replace("~1", "/").replace("~0", "~") for part in parts)


def _at(root: Any, path: Path) -> Any:
    """Return what is at a place, None where there is nothing."""
    for part in path:
        if isinstance(root, dict):
            root = root.get(part)
        elif isinstance(root, list) and part.isdecimal() and int(part) < len(root):
            root = root[int(part)]
        else:
            return None
    return root


class _Object(NamedTuple):
    """What tells an object from others."""

    values: dict[str, frozenset[str]]  # the texts that a property may only be, if it is there
    required: frozenset[str]


def _exclude_each_other(parts: list[Any], root: Any) -> bool:
    """Tell whether nothing matches two of several schemas; False where that does not show.

    In time in proportion to their size, but for what `_told_apart` has to try.
    """
    known = [_followed(part, root) for part in parts]
    if len(known) < 2:
        return True
    types = [_types(one) for one in known]
    # Several that are objects may be told apart by their properties, no others of one type.
    names = [name for its in types if its != _OBJECT for name in its]
    names += _OBJECT if _OBJECT in types else ()
    if not all(types) or len(set(names)) < len(names):
        return False
    objects = (one for one, its in zip(known, types, strict=True) if its == _OBJECT)
    return _told_apart([_object(one) for one in objects])


def _told_apart(objects: list[_Object]) -> bool:
    """Tell whether the value of a property tells any two of them apart.

    Those that one property does not, another may: each has its own for what is inside of a kind.
    """
    if len(objects) < 2:
        return True
    for name in objects[0].values:
        groups = _by_value(objects, name)
        if len(groups) > 1:
            return all(_told_apart(group) for group in groups)
    return False


def _by_value(objects: list[_Object], name: str) -> list[list[_Object]]:
    """Return objects in groups, no two of which can have one value of a property in common."""
    groups: dict[frozenset[str], list[_Object]] = {}
    for one in objects:
        values = one.values.get(name)
        if values is None:
            return [objects]
        groups.setdefault(values, []).append(one)
    # Two objects without the property are none that it tells apart.
    optional = sum(any(name not in one.required for one in group) for group in groups.values())
    if optional > 1 or sum(map(len, groups)) > len(frozenset().union(*groups)):
        return [objects]
    return list(groups.values())


def _object(schema: dict[str, Any]) -> _Object:
    named = schema.get("properties")
    found = {name: _values(one) for name, one in named.items()} if isinstance(named, dict) else {}
    required = (name for name in _listed(schema, "required") if isinstance(name, str))
    values = {name: frozenset(texts) for name, texts in found.items() if texts}
    return _Object(values, frozenset(required))


def _followed(schema: Any, root: Any) -> Any:
    """Return what a schema that only refers to another comes to."""
    for _ in range(16):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = _at(root, _path_of(schema["$ref"]))
    return schema


def _types(schema: Any) -> set[str]:
    given = schema.get("type") if isinstance(schema, dict) else None
    names = {one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)}
    return {"number" if name == "integer" else name for name in names}


def _values(schema: Any) -> list[str]:
    """Return the texts that a property may only be; none where it may be anything else."""
    if not isinstance(schema, dict):
        return []
    values = [schema["const"]] if "const" in schema else _listed(schema, "enum")
    return values if all(isinstance(one, str) for one in values) else []


def _listed(schema: dict[str, Any], word: str) -> list[Any]:
    value = schema.get(word)
    return value if isinstance(value, list) else []

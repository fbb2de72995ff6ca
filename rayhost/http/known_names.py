"""Which names in a body nobody here knows, at any depth: told from the structs that it becomes.

What has no struct (a schema, `metadata`, variables of a template) is the client's own, and is left
as it is. Used by `body`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a value: `names` and `inner` where it is an object, `items` of a list."""

    names: frozenset[str] | None = None  # None: an object is the client's own
    inner: Mapping[str, "_Shape"] | None = None  # of those values that have a shape themselves
    items: "_Shape | None" = None


def settle(given: dict[str, Any], schema: type[msgspec.Struct]) -> tuple[str, ...]:
    """Take out of a body what is null, in place; return the paths of what `schema` does not know.

    Of what is unknown in the same place of many items, the first is told: `messages[0].zork`.
    """
    return tuple(path.removeprefix(".") for path in _unknown(given, _shape_of(schema)).values())


def _unknown(value: Any, shape: _Shape) -> dict[str, str]:
    """Return the first path of each unknown name by the path without its indices."""
    found: dict[str, str] = {}
    if type(value) is dict and shape.names is not None:
        if None in value.values():
            for name in [name for name, one in value.items() if one is None]:
                del value[name]
        if not value.keys() <= shape.names:
            found = {f".{name}": f".{name}" for name in value if name not in shape.names}
        for name, inner in (shape.inner or {}).items():
            if name in value:
                for kind, path in _unknown(value[name], inner).items():
                    found[f".{name}{kind}"] = f".{name}{path}"
    elif type(value) is list and shape.items is not None:
        for index, item in enumerate(value):
            for kind, path in _unknown(item, shape.items).items():
                found.setdefault(f"[]{kind}", f"[{index}]{path}")
    return found


@cache
def _shape_of(schema: type[msgspec.Struct]) -> _Shape:
    return _shape(inspect.type_info(schema)) or _Shape()


def _shape(of: inspect.Type) -> _Shape | None:
    """Return what is known of values of a type, None where that is nothing."""
    match of:
        case inspect.StructType(fields=fields):
            shapes = {one.encode_name: _shape(one.type) for one in fields}
            inner = {name: shape for name, shape in shapes.items() if shape is not None}
            return _Shape(names=frozenset(shapes), inner=inner)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            items = _shape(item)
            return items and _Shape(items=items)
        case inspect.UnionType(types=types):
            return _either(shape for one in types if (shape := _shape(one)) is not None)
    return None


def _either(shapes: Iterable[_Shape]) -> _Shape | None:
    """Return what is known of a value that has one of these: an object's and a list's, at most."""
    either = None
    for one in shapes:
        if either is None:
            either = one
        else:
            objects = one if either.names is None else either
            either = _Shape(objects.names, objects.inner, either.items or one.items)
    return either

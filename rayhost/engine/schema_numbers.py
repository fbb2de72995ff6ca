"""Numbers of a JSON Schema as llguidance can follow them: it reads each as a double. Pure.

A bound is moved to the next double inside of it, so what is answered always matches; a value that
is no double cannot be written, and is refused. As measured with llguidance 1.9: bounds over 9.2e18
fail, one-sided ones from 1e18 on, and an exclusive one over 2^53 lets its own number through.
Used by `tools` and `grammar_check`; imports nothing but the walk through a schema.
"""

import math
from fractions import Fraction
from typing import Any, TypeGuard

from rayhost.engine.schema import Path, subschemas, with_subschemas

EXACT = 2**53  # up to here every whole number is a double
FARTHEST = 9_200_000_000_000_000_000  # of a bound: near 2^63, and a double of few digits
_ONE_SIDED = 10**18  # from here on a bound needs one on its other side
_DEPTH = 64  # of the data in a `const`


class InexactNumber(Exception):
    """A number that cannot be followed. Its text names the place and what would be valid."""


def followable(schema: Any, path: Path = ()) -> Any:
    """Return a schema of which every number can be followed. Raises InexactNumber."""
    if not isinstance(schema, dict):
        return schema
    _check_data(schema.get("const"), (*path, "const"))
    values = schema.get("enum")
    for i, value in enumerate(values if isinstance(values, list) else ()):
        _check_data(value, (*path, "enum", str(i)))
    made = with_subschemas(
        schema, {place: followable(one, path + place) for place, one in subschemas(schema)}
    )
    return _bounded(made, path)


def _check_data(value: Any, path: Path) -> None:
    if type(value) is int and abs(value) > EXACT and not _is_double(value):
        raise InexactNumber(
            f"{'.'.join(path)}: {value} cannot be told exactly; whole numbers between -{EXACT} and "
            f"{EXACT} (2^53) can"
        )
    if len(path) > _DEPTH:
        return
    if isinstance(value, dict):
        for name, one in value.items():
            _check_data(one, (*path, name))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            _check_data(one, (*path, str(i)))


def _is_double(value: int) -> bool:
    return abs(value) <= FARTHEST and int(float(value)) == value


def _bounded(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a schema with its bounds moved, where any is too large to be taken as it is."""
    made = dict(schema)
    for word, given, sign in _BOUNDS:
        limit = schema.get(given)
        if not _is_number(limit) or abs(limit) <= EXACT:
            continue
        if limit * sign < -FARTHEST:
            raise InexactNumber(
                f"{'.'.join((*path, given))}: {limit} is too large to be followed; a bound is "
                f"between -{FARTHEST} and {FARTHEST}"
            )
        del made[given]
        other = made.get(word)
        moved: float = sign * _inside(limit * sign, exclusive=given != word)
        if _is_number(other):
            moved = sign * min(sign * moved, sign * other)
        made[word] = moved
    if _from(made, "minimum", 1) >= _ONE_SIDED and _from(made, "maximum", -1) == -math.inf:
        made["maximum"] = FARTHEST
    elif _from(made, "maximum", -1) >= _ONE_SIDED and _from(made, "minimum", 1) == -math.inf:
        made["minimum"] = -FARTHEST
    return made


# The word for a bound that is itself allowed, the one that is given, and the side it bounds.
_BOUNDS = (
    ("minimum", "minimum", -1),
    ("minimum", "exclusiveMinimum", -1),
    ("maximum", "maximum", 1),
    ("maximum", "exclusiveMaximum", 1),
)


def _inside(limit: float, *, exclusive: bool) -> int:
    """Return the largest whole number up to a limit that is a double and reads the same."""
    found = float(min(limit, FARTHEST))
    # llguidance writes it with the fewest digits that tell it from other doubles.
    while found > limit or Fraction(repr(found)) > limit or (exclusive and found == limit):
        found = math.nextafter(found, -math.inf)
    return int(found)


def _from(schema: dict[str, Any], word: str, sign: int) -> float:
    """Return how far from zero the bounds of one side begin; -inf for a side without any."""
    given = (schema.get(word), schema.get(f"exclusive{word.capitalize()}"))
    return max((sign * one for one in given if _is_number(one)), default=-math.inf)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) is int or (type(value) is float and math.isfinite(value))

"""JSON bytes to a typed struct, each failure a 400 that names the parameter at fault.

Invariant: null means absent, and nothing the client sent is dropped in silence: a parameter is in
the struct, refused as unsupported, or returned as ignored. Called by every endpoint that takes a
body; `read_json` is for JSON in a string of it.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.http.json import encode

# A parameter that cannot be honoured, and the values of it that ask for nothing.
Unsupported = Mapping[str, tuple[object, ...]]

Body = TypeVar("Body", bound=msgspec.Struct)

MAX_DEPTH = 64  # of arrays and objects in each other; what comes after may recurse over them

_decode = msgspec.json.Decoder().decode
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_TOO_LONG = "it has a whole number that does not fit into 64 bits"
_MISSING = "Object missing required field `"


def parse_body(
    raw: bytes, schema: type[Body], unsupported: Unsupported
) -> tuple[Body, tuple[str, ...]]:
    """Return the body as a `schema`, and the names of the parameters nobody here knows.

    Raises InvalidRequest.
    """
    given = _decode_object(raw)
    for name, harmless in unsupported.items():
        if name in given:
            refuse_unsupported(given.pop(name), name, harmless)
    try:
        body = msgspec.convert(given, schema)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from None
    return body, tuple(name for name in given if name not in schema.__struct_fields__)


def refuse_unsupported(value: object, param: str, harmless: tuple[object, ...] = ()) -> None:
    """Raise InvalidRequest unless `value` is None or one of the `harmless` ones."""
    # True == 1 in Python, not in JSON: hence the types.
    if value is None or any(type(value) is type(one) and value == one for one in harmless):
        return
    hint = f"; leave it out or send {encode(harmless[0]).decode()}" if harmless else ""
    raise InvalidRequest(
        f"{param}: not supported by this server{hint}", code="unsupported_parameter", param=param
    )


def missing(param: str) -> InvalidRequest:
    """Return the refusal of a body without a parameter that it must have."""
    return InvalidRequest(
        f"{param}: required, but missing", code="missing_required_parameter", param=param
    )


def read_json(raw: bytes) -> Any:
    """Return what JSON says. Raises ValueError, which says why, where that goes beyond bounds."""
    value = _bounded(raw)
    if _LONG_NUMBER.search(raw) and _beyond_64_bits(value):
        raise ValueError(_TOO_LONG)
    return value


def _decode_object(raw: bytes) -> dict[str, Any]:
    try:
        given = _bounded(raw)
    except ValueError as error:
        raise _not_json(str(error)) from None
    if not isinstance(given, dict):
        raise InvalidRequest("the request body must be a JSON object", code="invalid_type")
    # Of parameters that are numbers themselves, the range is checked by name.
    inner = (value for value in given.values() if type(value) is not int)
    if _LONG_NUMBER.search(raw) and any(map(_beyond_64_bits, inner)):
        raise _not_json(_TOO_LONG)
    return {name: value for name, value in given.items() if value is not None}


def _bounded(raw: bytes) -> Any:
    """Return what JSON says, nested in bounds. Raises ValueError, which says why it cannot."""
    try:
        value = _decode(raw)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error).removeprefix("JSON is malformed: ")) from None
    # Most have too few brackets to be deep, which costs nothing to see.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def _beyond_64_bits(value: Any) -> bool:
    """Return whether there is a number that neither a worker nor an answer could be told."""
    if type(value) is dict:
        return any(map(_beyond_64_bits, value.values()))
    if type(value) is list:
        return any(map(_beyond_64_bits, value))
    return type(value) is int and not -(2**63) <= value < 2**64


def _deeper(value: Any, limit: int) -> bool:
    """Return whether arrays and objects are in each other to more than `limit` levels."""
    level: list[Any] = [value] if type(value) is dict or type(value) is list else []
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def _not_json(why: str) -> InvalidRequest:
    return InvalidRequest(f"the request body cannot be read as JSON: {why}", code="invalid_json")


def _wrong_shape(message: str) -> InvalidRequest:
    """Turn msgspec's "Expected `str`, got `int` - at `$.messages[0].role`" into an answer."""
    what, _, path = message.partition(" - at `$")
    param = path.removeprefix(".").removesuffix("`")
    if what.startswith(_MISSING):
        name = what.removeprefix(_MISSING).removesuffix("`")
        return missing(f"{param}.{name}" if param else name)
    return InvalidRequest(f"{param}: {what.lower()}", code="invalid_type", param=param)

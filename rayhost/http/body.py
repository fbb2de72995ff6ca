"""JSON bytes to a typed struct, each failure a 400 that names the parameter at fault.

Invariant: null means absent, and nothing the client sent is dropped in silence: a parameter is in
the struct, refused as unsupported, or returned as ignored. Called by `chat` and `completions`.
"""

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


def _decode_object(raw: bytes) -> dict[str, Any]:
    try:
        given = _decode(raw)
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise _not_json(str(error).removeprefix("JSON is malformed: ")) from None
    if not isinstance(given, dict):
        raise InvalidRequest("the request body must be a JSON object", code="invalid_type")
    # Most bodies have too few brackets to be deep, which costs nothing to see.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper(given, MAX_DEPTH):
        raise _not_json(f"it is nested deeper than {MAX_DEPTH} levels")
    return {name: value for name, value in given.items() if value is not None}


def _deeper(body: dict[str, Any], limit: int) -> bool:
    """Return whether arrays and objects are in each other to more than `limit` levels."""
    level: list[Any] = [body]
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

"""JSON bytes to a typed struct, each failure a 400 that names the parameter at fault.

Invariant: null means absent, and nothing the client sent is dropped in silence, at any depth: a
name is in a struct, refused as unsupported, or returned as ignored. Called by every endpoint that
takes a body; `read_json` is for JSON in a string of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.http.json import encode
from rayhost.http.known_names import settle

# A parameter that cannot be honoured, and the values of it that ask for nothing.
Unsupported = Mapping[str, tuple[object, ...]]

Body = TypeVar("Body", bound=msgspec.Struct)

# Objects and arrays in a body. Each costs microseconds of the event loop: a megabyte of tiny
# messages would keep everybody waiting for a quarter of a second.
MAX_PARTS = 8192
MAX_DEPTH = 64  # of arrays and objects in each other; what comes after may recurse over them

_decode = msgspec.json.Decoder().decode
_outline = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode  # makes nothing of the values
_AS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19
_MISSING = "Object missing required field `"


def parse_body(
    raw: bytes, schema: type[Body], unsupported: Unsupported, any_size: str = ""
) -> tuple[Body, tuple[str, ...]]:
    """Return the body as a `schema`, and the paths of the names that nobody here knows.

    Of a name that comes twice the last value counts, as everywhere. Whole numbers fit into 64 bits,
    but for those in the parameter `any_size`. Raises InvalidRequest.
    """
    given = _decode_object(raw, any_size)
    for name, harmless in unsupported.items():
        if name in given:
            refuse_unsupported(given.pop(name), name, harmless)
    ignored = settle(given, schema)
    try:
        body = msgspec.convert(given, schema)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from None
    return body, ignored


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
    if _has_long_number(raw) and not fits_64_bits(value):
        raise ValueError("it has a whole number that does not fit into 64 bits")
    return value


def fits_64_bits(value: Any) -> bool:
    """Return whether every whole number in JSON is one that a worker and an answer can be told."""
    return _beyond_64_bits(value, "") is None


def _decode_object(raw: bytes, any_size: str) -> dict[str, Any]:
    _refuse_many(raw)
    try:
        given = _bounded(raw)
    except ValueError as error:
        raise _not_json(str(error)) from None
    if not isinstance(given, dict):
        raise InvalidRequest("the request body must be a JSON object", code="invalid_type")
    # Of parameters that are numbers themselves, the range is checked by name.
    if _has_long_number(raw):
        for name, value in given.items():
            place = None if type(value) is int else _beyond_64_bits(value, name)
            if place is not None and name != any_size:
                raise InvalidRequest(
                    f"{place}: a whole number must fit into 64 bits: it is between -2^63 and "
                    "2^64 - 1",
                    param=place,
                )
    return given


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
    if _brackets(raw) > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def _brackets(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


def _without_texts(raw: bytes) -> bytes:
    """Return JSON without what is in its strings: every other piece between two quotes."""
    return b"".join(raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])


def _refuse_many(raw: bytes) -> None:
    """Raise InvalidRequest for more parts than a body may have, naming where most of them are.

    Before it is read, as making the parts is what costs.
    """
    # The body itself does not count. Most have too few brackets, those in their texts included.
    if _brackets(raw) <= MAX_PARTS + 1 or _brackets(_without_texts(raw)) <= MAX_PARTS + 1:
        return
    try:
        parts = {
            name: _brackets(_without_texts(bytes(value))) for name, value in _outline(raw).items()
        }
    except (msgspec.MsgspecError, ValueError, RecursionError):
        parts = {}
    most = max(parts, key=lambda name: parts[name], default=None)
    raise InvalidRequest(
        f"{most or 'the request body'}: too many parts: messages, tools and all else in a body "
        f"are at most {MAX_PARTS} objects and arrays",
        code="too_many_parts",
        param=most,
    )


def _has_long_number(raw: bytes) -> bool:
    """Tell whether 19 digits follow one another: 2 ms a megabyte, where `re` takes 80."""
    return _LONG_NUMBER in raw.translate(_AS_ZERO)


def _beyond_64_bits(value: Any, where: str) -> str | None:
    """Return where the first number is that is too large, None if there is none."""
    inner: Iterable[tuple[str, Any]] = ()
    if type(value) is dict:
        inner = ((f"{where}.{name}", one) for name, one in value.items())
    elif type(value) is list:
        inner = ((f"{where}[{i}]", one) for i, one in enumerate(value))
    elif type(value) is int and not -(2**63) <= value < 2**64:
        return where
    places = (_beyond_64_bits(one, place) for place, one in inner)
    return next((place for place in places if place is not None), None)


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

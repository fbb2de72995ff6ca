"""JSON files against msgspec structs, naming every mistake. A leaf: imports nothing internal.

Invariant: a value without `mistakes` is one that msgspec converts. msgspec alone stops
at the first mistake, so this walks down to the values and lets msgspec judge each by itself.
"""

import difflib
import json
import types
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

import msgspec
from msgspec import inspect


class Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = {
            key for key, times in Counter(key for key, _ in pairs).items() if times > 1
        }


def decode(raw: bytes) -> Any:
    """Return the JSON value, objects as `Object`. Raises ValueError that says what and where."""
    # The standard library's parser, as it tells line and column and shows repeated keys.
    try:
        text = raw.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=Object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (byte {error.start})"
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno} column {error.colno}: malformed JSON: {error.msg}"
    except RecursionError:
        problem = "malformed JSON: nested too deeply"
    except ValueError as error:  # NaN and its like; an integer of thousands of digits
        problem = f"malformed JSON: {error}"
    raise ValueError(problem)


def mistakes(value: Any, annotation: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each way in which a decoded value is not of a type.

    Types are msgspec's: structs that forbid unknown fields, tuples of any length, unions and
    scalars. A type's Meta may carry `extra={"wanted": "..."}`, words for what would be valid.
    """
    clean = True
    for kind in _alternatives(annotation):
        for mistake in _inside(value, kind, path):
            clean = False
            yield mistake
    if clean and not _fits(value, annotation):
        yield f"{path or 'the file'}: {shown(value)} is not valid; expected {wanted(annotation)}"


def shown(value: Any) -> str:
    """Return a value as a message shows it: one short line of ASCII."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def wanted(annotation: Any) -> str:
    """Say in words what a type takes."""
    return _phrase(inspect.type_info(annotation))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _inside(value: Any, kind: Any, path: str) -> Iterator[str]:
    if isinstance(value, list) and get_origin(kind) is tuple:
        for index, item in enumerate(value):
            yield from mistakes(item, get_args(kind)[0], f"{path}[{index}]")
    elif isinstance(value, Object) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from _inside_struct(value, kind, path)


def _inside_struct(value: Object, struct: type[msgspec.Struct], path: str) -> Iterator[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key, item in value.items():
        here = _join(path, key)
        if key in value.repeated:
            yield f"{here}: given more than once"
        if key in fields:
            yield from mistakes(item, fields[key].type, here)
        elif near := difflib.get_close_matches(key[:100], fields, n=1):
            yield f'{here}: unknown key; did you mean "{near[0]}"?'
        else:
            yield f"{here}: unknown key; known are {', '.join(fields)}"
    for name, field in fields.items():
        if field.required and name not in value:
            yield f"{_join(path, name)}: missing; expected {wanted(field.type)}"


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for member in get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def _fits(value: Any, annotation: Any) -> bool:
    try:
        if isinstance(value, str):
            value.encode()  # "\ud800" is JSON, but half a character: no file or socket takes it
        msgspec.convert(value, annotation)
    except (UnicodeEncodeError, msgspec.ValidationError):
        return False
    return True


def _phrase(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(extra={"wanted": str(words)}):
            text = words
        case inspect.Metadata(type=inner):
            text = _phrase(inner)
        case inspect.UnionType(types=members):
            text = " or ".join(map(_phrase, members))
        case inspect.LiteralType(values=values):
            text = " or ".join(map(json.dumps, values))
        case inspect.IntType(ge=low, le=high):
            text = f"an integer from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            text = f"a number from {low} to {high}"
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            text = f"a list of {low or 0} to {high} items, each {_phrase(item)}"
        case inspect.StructType():
            text = "an object"
        case inspect.NoneType():
            text = "null"
        case _:
            text = "text"
    return text


def _join(path: str, key: str) -> str:
    if len(key) > 60 or not key.isascii() or not key.removeprefix("$").isidentifier():
        return f"{path}[{shown(key)}]"
    return f"{path}.{key}" if path else key

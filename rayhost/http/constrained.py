"""What a body wants the answer's text to match: `response_format` and the names others use for it.

Pure: typed values in, a `Constraint` out, InvalidRequest for what is malformed or contradicts
itself. Whether a schema or grammar can be followed is for the worker to say. Used by `chat` and
`completions`; `of_format` by every shape of API that has a format.
"""

import re
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.http.body import missing
from rayhost.http.json import encode
from rayhost.http.schema import StoppedBody, shown
from rayhost.ipc.messages import Constraint

MAX_CHOICES = 1000
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FORMATS = "'text', 'json_object' or 'json_schema'"
_VLLM = {  # the fields of `structured_outputs`, and the parameters of before it
    "json": "guided_json",
    "regex": "guided_regex",
    "choice": "guided_choice",
    "grammar": "guided_grammar",
}


class NamedSchema(msgspec.Struct, frozen=True):
    """`response_format.json_schema`, as OpenAI documents it. It is always followed strictly."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """`response_format`. A `schema` beside `json_object` is llama.cpp's and Together's."""

    type: str
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's `structured_outputs`: exactly one of the fields. `grammar` is GBNF here."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None


class ConstrainedBody(StoppedBody, frozen=True, kw_only=True):
    """A body whose answer can be constrained."""

    response_format: ResponseFormat | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: tuple[str, ...] | None = None
    guided_grammar: str | None = None


_NAMES = tuple(
    name for name in ConstrainedBody.__struct_fields__ if name not in StoppedBody.__struct_fields__
)
_given = attrgetter(*_NAMES)
_NOTHING = (None,) * len(_NAMES)


class Form(NamedTuple):
    """What the answer has to match, None for anything, and the parameter that says so."""

    constraint: Constraint | None
    param: str


def form_of(body: ConstrainedBody) -> Form:
    """Return what a body asks for. Raises InvalidRequest."""
    if _given(body) == _NOTHING:
        return Form(None, "")
    found: dict[str, Constraint] = {}
    if body.response_format is not None:
        constraint = of_format(body.response_format)
        if constraint is not None:
            found["response_format"] = constraint
    if body.json_schema is not None:
        found["json_schema"] = _schema(body.json_schema)
    if body.grammar:  # llama.cpp's clients send an empty one for none
        found["grammar"] = Constraint("gbnf", body.grammar)
    outputs = body.structured_outputs or StructuredOutputs()
    for field, old in _VLLM.items():
        for param, value in (
            (f"structured_outputs.{field}", getattr(outputs, field)),
            (old, getattr(body, old)),
        ):
            if value is not None:
                found[param] = _of_vllm(field, value, param)
    if len(found) > 1:
        first, second, *_ = found
        raise InvalidRequest(f"{second}: contradicts {first}: send one of them", param=second)
    return next((Form(constraint, param) for param, constraint in found.items()), Form(None, ""))


def of_format(wanted: ResponseFormat, where: str = "response_format") -> Constraint | None:
    """Return what a `response_format` asks for. Raises InvalidRequest."""
    match wanted.type:
        case "text":
            return None
        case "json_object":
            if wanted.schema is not None:
                return _schema(wanted.schema)
            return Constraint("json_object", "")
        case "json_schema":
            return _named(wanted, where)
    raise InvalidRequest(
        f"{where}.type: must be {_FORMATS}, not {shown(wanted.type)!r}", param=f"{where}.type"
    )


def _named(wanted: ResponseFormat, where: str) -> Constraint:
    named = wanted.json_schema
    schema = wanted.schema if named is None else named.schema
    if schema is None:
        raise missing(f"{where}.json_schema" if named is None else f"{where}.json_schema.schema")
    if named is not None and named.name is not None and not _NAME.fullmatch(named.name):
        raise InvalidRequest(
            f"{where}.json_schema.name: 1 to 64 letters, digits, '_' and '-', not "
            f"{shown(named.name)!r}",
            param=f"{where}.json_schema.name",
        )
    return _schema(schema)


def _schema(schema: dict[str, Any]) -> Constraint:
    """Keys stay in the client's order: it is that of the properties in the answer."""
    return Constraint("json_schema", encode(schema).decode())


def _of_vllm(field: str, value: Any, param: str) -> Constraint:
    match field:
        case "json":
            return Constraint("json_schema", value) if isinstance(value, str) else _schema(value)
        case "regex":
            return Constraint("regex", value)
        case "grammar":
            return Constraint("gbnf", value)
    return _one_of(value, param)


def _one_of(texts: tuple[str, ...], param: str) -> Constraint:
    if not 0 < len(texts) <= MAX_CHOICES or "" in texts:
        raise InvalidRequest(f"{param}: 1 to {MAX_CHOICES} texts, none of them empty", param=param)
    lark = "start: " + " | ".join(encode(text).decode() for text in dict.fromkeys(texts))
    return Constraint("lark", lark)

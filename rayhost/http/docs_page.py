"""The OpenAPI document as one HTML page that needs nothing else. Pure; used by `openapi` alone."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from rayhost.http.json import encode

Json = dict[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
tr { border-bottom: 1px solid #8884 }
code { font: .9em ui-monospace, monospace }
summary { cursor: pointer }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #8886 }
:root { color-scheme: light dark }
"""


def render(document: Json) -> str:
    """Return the page."""
    info = document["info"]
    body = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{_prose(info['description'])}</p>",
        '<p><a href="openapi.json">openapi.json</a></p>',
        *(
            part
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            for part in _operation(method, path, operation, document)
        ),
        "<h2>Shapes</h2>",
        *(_shape(name, schema) for name, schema in document["components"]["schemas"].items()),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>\n"
        + "\n".join(body)
        + "\n</html>\n"
    )


def _operation(method: str, path: str, operation: Json, document: Json) -> Iterator[str]:
    name = escape(operation["operationId"])
    yield f'<h2 id="{name}"><code>{method.upper()} {escape(path)}</code></h2>'
    yield f"<p>{escape(operation['summary'])}.</p>"
    rows = [
        (
            f"<code>{escape(one['name'])}</code>",
            escape(one["in"]),
            _kind(one["schema"]),
            escape(one["description"]),
        )
        for one in (_resolved(one, document) for one in operation["parameters"])
    ]
    yield _table(("parameter", "in", "type", ""), rows)
    if "requestBody" in operation:
        yield f"<p>Body: {_contents(operation['requestBody'])}</p>"
    yield _table(
        ("status", "answer", ""),
        [
            (escape(status), _contents(response), _prose(response["description"]))
            for status, response in operation["responses"].items()
        ],
    )


def _shape(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _kind(value),
            "required" if field in required else _default(value),
        )
        for field, value in schema.get("properties", {}).items()
    ]
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> '
        f"{_prose(schema.get('description', ''))}</summary>"
        f"{_table(('field', 'type', ''), rows)}</details>"
    )


def _contents(holder: Json) -> str:
    shown = []
    for media, content in holder["content"].items():
        events = content.get("x-event")
        kind = f"events of {_kind(events)}" if events else _kind(content["schema"])
        shown.append(f"<code>{escape(media)}</code>: {kind}")
    return "<br>".join(shown)


def _kind(schema: Json) -> str:
    """Return a schema in a few words, with links to the shapes in it."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(one) for one in schema[key])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(_word(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = escape(schema.get("type", "anything"))
    if kind == "array":
        items = schema.get("items")
        return f"list of {_kind(items)}" if items else "list"
    return kind + _bounds(schema)


def _word(value: object) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def _bounds(schema: Json) -> str:
    bounds = (
        ("&ge;", "minimum"),
        ("&gt;", "exclusiveMinimum"),
        ("&le;", "maximum"),
        ("&lt;", "exclusiveMaximum"),
    )
    return "".join(f" {sign} {schema[key]}" for sign, key in bounds if key in schema)


def _default(schema: Json) -> str:
    return f"default <code>{escape(str(schema['default']))}</code>" if "default" in schema else ""


def _resolved(reference: Json, document: Json) -> Json:
    """Follow a `$ref` within the document."""
    found: Json = reference
    if "$ref" in reference:
        found = document
        for step in reference["$ref"].removeprefix("#/").split("/"):
            found = found[step]
    return found


def _prose(text: str) -> str:
    """Return text with its `code` marked up."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{title}</th>" for title in titles)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(lines) + "</table>"

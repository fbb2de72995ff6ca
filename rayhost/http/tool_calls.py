"""Calls of tools in the text of an answer: found while it comes, whatever pieces it comes in.

Invariant: any split of a text gives the same events, and what is no call after all is content,
to the last character; what is dropped is the frame of a call, the white space around it, and where
the answer ended in what could only become a call, that. Pure; each `Answer` of a request with
tools has one `ToolStream` for each choice.

The syntaxes (`Prepared.tool_syntax`), of which models also write variants that are taken here:
    hermes    <tool_call>{"name": "f", "arguments": {…}}</tool_call>, once for each call
    mistral   [TOOL_CALLS][{"name": "f", "arguments": {…}}, …]
    llama     {"name": "f", "parameters": {…}}; …   from the start, or behind <|python_tag|>
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rayhost.http.body import read_json
from rayhost.http.json_objects import ObjectEnd


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call, the `index`-th of the answer; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of the JSON that a call's arguments are."""

    index: int
    arguments: str


Event = ContentDelta | CallBegin | CallDelta


class Call(NamedTuple):
    """A whole call; `arguments` is JSON, unless the answer was cut off in it."""

    name: str
    arguments: str


class _Frame(NamedTuple):
    """What a syntax writes around calls; `bare`: they may also begin the answer without it."""

    begin: str
    end: str
    between: str
    bare: bool = False


_FRAMES = {
    "": _Frame("", "", ""),
    "hermes": _Frame("<tool_call>", "</tool_call>", ""),
    "mistral": _Frame("[TOOL_CALLS]", "", ""),
    "llama": _Frame("<|python_tag|>", "", ";", bare=True),
}
_KEYS = frozenset({"name", "arguments", "parameters", "type", "id", "function"})
# Of an object, as far as it has come. A key that is longer than any of the above is another one:
# else each piece of it would be read again with all before.
_FIRST_KEY = re.compile(
    r'\{\s*(?:\Z|"(?:((?:[^"\\]|\\.){0,64})"|(?:[^"\\]|\\.){0,64}\\?\Z))', re.DOTALL
)
_HEADER = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([a-zA-Z0-9_.-]+)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_SPACE = re.compile(r"\s*")


class ToolStream:
    """The events of one answer. With the syntax "" everything is content."""

    def __init__(self, syntax: str, *, required: bool = False) -> None:
        """`syntax` is one of the above; `required`: there is nothing but calls, once it is whole.

        Raises KeyError for another syntax.
        """
        self._frame = _FRAMES[syntax]
        self._required = required
        self._framed = False  # the object to come is behind a frame, so it is a call's
        self._calls = 0
        self._text = ""  # what no event told of yet
        self._at = 0  # how much of it is a frame, which may turn out to be none
        self._listed = False  # inside the brackets around several calls
        self._after_call = False  # with nothing but white space since
        self._object = ObjectEnd()
        self._read = 0  # how far it has read
        self._events: list[Event] = []
        # Looks at the text that is left; returns False when it takes more to get further.
        self._state: Callable[[], bool] = self._bare if self._frame.bare else self._content

    def push(self, text: str) -> list[Event]:
        """Take more of the answer; return what is certain by now."""
        self._text += text
        while self._state():
            pass
        events, self._events = self._events, []
        return events

    def close(self) -> list[Event]:
        """Return the rest: the answer is over."""
        rest, self._text = self._text, ""
        # Behind a call nothing is held back but white space and what was begun of the next. An
        # object without a frame is as likely an answer in JSON.
        called = (
            self._after_call
            or self._state in (self._arguments, self._tail, self._next, self._opened)
            or (self._state == self._item and self._framed)
        )
        return [] if called or self._required or not rest else [ContentDelta(rest)]

    @property
    def in_arguments(self) -> bool:
        """Whether the last call's arguments are not whole, as far as the text has come."""
        return self._state == self._arguments

    def _bare(self) -> bool:
        """At the start, where a call needs no frame."""
        at = self._space(0)
        if at == len(self._text):
            return False
        if self._text[at] == "{":
            self._expect(self._item, at)
        else:
            self._expect(self._content, 0)
        return True

    def _content(self) -> bool:
        """Outside of calls. Held back: the half of a frame, and white space, which may precede."""
        begin = self._frame.begin
        if not begin:
            return self._tell(len(self._text))
        at = self._text.find(begin)
        sure = at if at >= 0 else len(self._text) - _overlap(self._text, begin)
        told = self._tell(len(self._text[:sure].rstrip()))
        if not told and at >= 0:
            self._expect(self._opened, at + len(begin))
            return True
        return told

    def _opened(self) -> bool:
        """Behind the beginning of a frame."""
        at = self._space(self._at)
        if at == len(self._text):
            return False
        self._listed = self._text[at] == "["
        if self._listed or self._text[at] == "{":
            self._framed = True
            self._expect(self._item, at + self._listed)
            return True
        return self._no_call(at)

    def _item(self) -> bool:
        """Where a call's object is to be."""
        at = self._space(self._at)
        text = self._text
        if at == len(text):
            return False
        if header := _HEADER.match(text, at):
            self._begin(header[1])
            self._drop(header.end())
            self._expect(self._arguments, 0)
            return True
        key = _FIRST_KEY.match(text, at)
        if key is None or (key[1] is not None and key[1] not in _KEYS):
            return self._no_call(at)
        self._at = at
        end = self._object.find(text[max(at, self._read) :])
        if end < 0:
            self._read = len(text)
            return False
        end += max(at, self._read)
        call = _call(text[at:end])
        if call is None:
            return self._no_call(end)
        self._begin(call.name)
        self._events.append(CallDelta(self._calls - 1, call.arguments))
        self._drop(end)
        self._expect(self._next, 0)
        return True

    def _arguments(self) -> bool:
        if not self._text:
            return False
        end = self._object.find(self._text)
        piece = self._text if end < 0 else self._text[:end]
        self._events.append(CallDelta(self._calls - 1, piece))
        self._drop(len(piece))
        if end >= 0:
            self._expect(self._tail, 0)
            self._object = ObjectEnd(depth=1)
        return True

    def _tail(self) -> bool:
        """Behind the arguments, inside the call's object."""
        end = self._object.find(self._text)
        self._drop(len(self._text) if end < 0 else end)
        if end >= 0:
            self._expect(self._next, 0)
        return end >= 0

    def _next(self) -> bool:
        """Behind a call's object, or behind the bracket that ends several."""
        at = self._space(0)
        rest = self._text[at:]
        end = self._frame.end
        if not rest or (end.startswith(rest) and len(rest) < len(end) and not self._listed):
            return False
        if self._listed and rest[0] in ",]":
            self._listed = rest[0] == ","
            self._drop(at + 1)
            self._expect(self._item if self._listed else self._next, 0)
        elif not self._listed and rest[0] == self._frame.between:
            self._drop(at + 1)
            self._expect(self._item, 0)
        else:
            if not self._listed and end and rest.startswith(end):
                self._drop(at + len(end))
            self._expect(self._content, 0)
        return True

    def _space(self, at: int) -> int:
        """Return where the white space ends."""
        return _end_of_space(self._text, at)

    def _expect(self, state: Callable[[], bool], at: int) -> None:
        self._state, self._at = state, at
        self._object, self._read = ObjectEnd(), 0

    def _no_call(self, at: int) -> bool:
        """What was taken for a frame is content, up to `at`, where to look again."""
        self._listed = self._framed = False
        self._expect(self._content, 0)
        return self._tell(at or 1)

    def _begin(self, name: str) -> None:
        self._events.append(CallBegin(self._calls, name))
        self._calls += 1
        self._after_call = True

    def _tell(self, size: int) -> bool:
        if size:
            text = self._text[:size]
            match self._events:
                case [*_, ContentDelta(before)]:
                    self._events.pop()
                    text = before + text
            self._events.append(ContentDelta(text))
            self._after_call = False
            self._drop(size)
        return size > 0

    def _drop(self, size: int) -> None:
        self._text = self._text[size:]


def split_calls(text: str, syntax: str) -> tuple[str | None, list[Call]]:
    """Return an answer's content, None where calls are all there is, and its calls."""
    stream = ToolStream(syntax)
    return collected([*stream.push(text), *stream.close()])


def collected(events: Iterable[Event]) -> tuple[str | None, list[Call]]:
    """Return what events say together: the content, None where calls are all, and the calls."""
    content: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        match event:
            case ContentDelta(text):
                content.append(text)
            case CallBegin(_, name):
                names.append(name)
                arguments.append([])
            case CallDelta(index, piece):
                arguments[index].append(piece)
    calls = [Call(name, "".join(pieces)) for name, pieces in zip(names, arguments, strict=True)]
    text = "".join(content)
    return (None if calls and not text else text), calls


def _call(raw: str) -> Call | None:
    """Return the call that a JSON object is, in whatever order; None when it is none."""
    try:
        value = read_json(raw.encode())
        value = value.get("function", value)
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):
            arguments = read_json(arguments.encode())
    except (ValueError, AttributeError):
        return None
    name = value.get("name")
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _overlap(text: str, mark: str) -> int:
    """Return the length of the longest proper beginning of `mark` that `text` ends with."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)

"""Bodies that came before: read once, answered to whoever asks."""

import json
import tracemalloc
from collections.abc import Callable

import pytest

from rayhost.errors import InvalidRequest, ModelNotFound
from rayhost.front.request import Finish, Priority, Recalled, Terms
from rayhost.http import chat, completions, responses
from rayhost.http.answer import Ask, Caller, Parse
from rayhost.http.app import build_app
from rayhost.http.parsed import LIMIT_BYTES, LONGEST, Parsed
from tests.http.asgi import COMPLETIONS, call
from tests.http.fake_front import FakeFront

MINE = Caller("first", Terms(key="a"))
YOURS = Caller("second", Terms(key="b", priority=Priority.LOW), "refresh")
LONG = "x" * LONGEST


class Counting:
    """The parser of completions, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._parse = completions.parse

    def __call__(self, raw: bytes, caller: Caller) -> Ask:
        self.asked += 1
        return self._parse(raw, caller)


def body(**changes: object) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", "temperature": 0, **changes}).encode()


def answered(parsed: Parsed, parse: Parse, raw: bytes, caller: Caller = MINE) -> Ask:
    """Ask for what is known."""
    ask = parsed.read(parse, raw, caller)
    parsed.keep(parse, raw, ask)
    return ask


def test_a_known_body_is_asked_anew_by_whoever_sends_it() -> None:
    parse, parsed = Counting(), Parsed()
    raw = body(seed=1)
    assert answered(parsed, parse, raw, MINE) == completions.parse(raw, MINE)
    assert answered(parsed, parse, raw, YOURS) == completions.parse(raw, YOURS)
    assert answered(parsed, parse, raw, MINE) == completions.parse(raw, MINE)
    assert parse.asked == 1


@pytest.mark.parametrize(
    "changes", [{"temperature": 1}, {"n": 2}, {"prompt": ["a", "b"]}, {"prompt": LONG}]
)
def test_what_is_not_the_same_each_time_is_read_each_time(changes: dict[str, object]) -> None:
    parse, parsed = Counting(), Parsed()
    for caller in (MINE, YOURS):
        asked = answered(parsed, parse, body(**changes), caller)
        assert {one.terms for one in asked.requests} == {caller.terms}
    assert parse.asked == 2


def test_a_body_means_what_its_endpoint_makes_of_it() -> None:
    parsed = Parsed()
    raw = body(seed=1, messages=[{"role": "user", "content": "hi"}])
    assert answered(parsed, completions.parse, raw) == completions.parse(raw, MINE)
    assert answered(parsed, chat.parse, raw) == chat.parse(raw, MINE)


def test_what_is_refused_is_refused_again() -> None:
    parsed = Parsed()
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            answered(parsed, chat.parse, body())


async def test_only_what_was_answered_from_the_cache_is_remembered(
    front: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = Counting()
    monkeypatch.setattr(completions, "parse", parse)
    app = build_app(front, body_bytes=1 << 20)

    async def status() -> int:
        return (await call(app, "POST", COMPLETIONS, body=body(model="small"))).status

    front.submit_error = ModelNotFound("no such model", param="model")
    assert [await status(), await status(), parse.asked] == [404, 404, 2]
    front.submit_error = None
    assert [await status(), await status(), parse.asked] == [200, 200, 4]
    front.recalled = Recalled("small", "hi", [2], Finish("stop", 1, 1, 1), 3)
    assert [await status(), await status(), await status(), parse.asked] == [200, 200, 200, 5]


def filled(start: str, part: Callable[[int], str], end: str) -> bytes:
    """Return a body, as long as one may be, of the start, as many parts as fit, and the end."""
    room = LONGEST - len(start) - len(end)
    parts: list[str] = []
    while room > len(one := part(len(parts))):
        parts.append(one)
        room -= len(one) + 1
    return (start + ",".join(parts) + end).encode()


CHAT = '"temperature": 0, "messages": [{"role": "user", "content": "hi"}]'
WORST: dict[str, tuple[Parse, str, Callable[[int], str], str]] = {
    "objects": (
        chat.parse,
        f'{{"model": "%d", {CHAT}, "chat_template_kwargs": {{"a": [',
        lambda _: "{}",
        "]}}",
    ),
    "lists": (
        chat.parse,
        f'{{"model": "%d", {CHAT}, "chat_template_kwargs": {{"a": [',
        lambda _: "[[[[[[0]]]]]]",
        "]}}",
    ),
    "bias": (
        completions.parse,
        '{"model": "%d", "temperature": 0, "prompt": "x", "logit_bias": {',
        lambda number: f'"{300 + number}":1',
        "}}",
    ),
    "tools": (
        responses.parse,
        '{"model": "%d", "temperature": 0, "input": "x", "tools": [',
        lambda number: f'{{"type":"function","name":"{number}"}}',
        "]}",
    ),
    "text": (
        completions.parse,
        '{"model": "%d", "temperature": 0, "prompt": "\\ud83d\\ude00',
        lambda _: "x" * 64,
        '"}',
    ),
}


@pytest.mark.parametrize("kind", WORST)
def test_it_takes_a_bounded_room_whatever_the_bodies_are_made_of(kind: str) -> None:
    parser, start, part, end = WORST[kind]
    parsed = Parsed()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(400):
            answered(parsed, parser, filled(start % (100 + number), part, end))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert LIMIT_BYTES / 50 < held < LIMIT_BYTES * 1.1

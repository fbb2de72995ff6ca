"""Text becomes tokens and tokens text, for whoever asks; a refusal names the field."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rayhost.engine.base import PromptError
from rayhost.ipc.messages import Convert, Converted, Rejected, Tools, pack_tokens
from rayhost.worker.convert import convert
from tests.worker.fake_engine import FakeCodec

HELLO = ({"role": "user", "content": "hello"},)


class Codec(FakeCodec):
    """A token for each byte; 256 begins a text, and is spelled <s>."""

    vocabulary = 257

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if "refused" in text:
            raise PromptError("no room")
        if parse_special:
            text = text.replace("<s>", "\N{NULL}")
        return [256] * add_special + [256 if byte == 0 else byte for byte in text.encode()]

    def name(self, token: int) -> bytes:
        return b"<s>" if token == 256 else bytes([token])

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        if continue_final:
            raise PromptError("cannot be continued", "chat_template_error")
        names = [one["name"] for one in tools.functions] if tools else []
        return f"{messages[0]['content']} {names}{options or ''}"


def tokens(*ids: int) -> bytes:
    return pack_tokens(list(ids))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Convert("tokens", text="ab"), Converted(tokens=tokens(97, 98))),
        (Convert("tokens", text="a", add_special=True), Converted(tokens=tokens(256, 97))),
        (Convert("tokens", text="<s>"), Converted(tokens=tokens(256))),
        (Convert("tokens", text="<s>", parse_special=False), Converted(tokens=tokens(*b"<s>"))),
        (
            Convert("tokens", text="é<s>", pieces=True),
            Converted(tokens=tokens(195, 169, 256), pieces=(b"\xc3", b"\xa9", b"<s>")),
        ),
        (Convert("tokens"), Converted()),
        (Convert("text", tokens=tokens(195, 169, 256)), Converted(text="é<s>")),
        (Convert("text", tokens=tokens(195)), Converted(text="\N{REPLACEMENT CHARACTER}")),
        (Convert("text"), Converted()),
        (Convert("prompt", messages=HELLO), Converted(text="hello []")),
        (
            Convert("prompt", messages=HELLO, options={"a": 1}),
            Converted(text="hello []{'a': 1}"),
        ),
        (
            Convert("prompt", messages=HELLO, tools=Tools(({"name": "f"},))),
            Converted(text="hello ['f']"),
        ),
    ],
)
def test_what_is_asked_for_is_told(asked: Convert, told: Converted) -> None:
    assert convert(Codec(), asked) == told


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Convert("tokens", text="refused"), Rejected("no room", "invalid_value", "content")),
        (
            Convert("prompt", messages=HELLO, continue_final=True),
            Rejected("cannot be continued", "chat_template_error", "messages"),
        ),
    ],
)
def test_a_refusal_names_the_field(asked: Convert, told: Rejected) -> None:
    assert convert(Codec(), asked) == told


@pytest.mark.parametrize("bad", [-1, 257, 2**31 - 1])
def test_a_token_that_there_is_not_is_refused(bad: int) -> None:
    told = convert(Codec(), Convert("text", tokens=tokens(1, bad, 2)))
    assert isinstance(told, Rejected)
    assert told.param == "tokens"
    assert str(bad) in told.message

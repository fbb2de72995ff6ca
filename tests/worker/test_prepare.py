"""A prompt becomes tokens, or a refusal that names the field at fault."""

from collections.abc import Sequence
from typing import Any

import pytest

from rayhost.engine.base import PromptError
from rayhost.ipc.messages import Message, Prepare, Prepared, Rejected, pack_tokens
from rayhost.worker.prepare import answer
from tests.worker.fake_engine import FakeCodec

HELLO = ({"role": "user", "content": "hello"},)


class Codec(FakeCodec):
    """Knows one token for a chat and one for each character of a text."""

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        return [7] * len(messages)

    def text(self, text: str) -> list[int]:
        return [ord(character) for character in text]


class Refusing(FakeCodec):
    """Refuses everything."""

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        raise PromptError("roles must alternate", "chat_template_error")

    def text(self, text: str) -> list[int]:
        raise PromptError("no room")


@pytest.mark.parametrize(
    ("prepare", "tokens"),
    [(Prepare(HELLO, None), [7]), (Prepare(None, "ab"), [97, 98]), (Prepare(None, ""), [])],
)
def test_a_prompt_becomes_tokens(prepare: Prepare, tokens: list[int]) -> None:
    assert answer(Codec(), prepare) == Prepared(pack_tokens(tokens))


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (Prepare(HELLO, None), Rejected("roles must alternate", "chat_template_error", "messages")),
        (Prepare(None, "ab"), Rejected("no room", "invalid_value", "prompt")),
    ],
)
def test_a_refusal_names_the_field(prepare: Prepare, expected: Message) -> None:
    assert answer(Refusing(), prepare) == expected

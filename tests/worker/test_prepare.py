"""A prompt becomes tokens, or a refusal that names the field at fault."""

import os
import select
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from rayhost.engine.base import PromptError
from rayhost.ipc.channel import Frame, attach, create
from rayhost.ipc.messages import Message, Prepare, Prepared, Rejected, decode, pack_tokens
from rayhost.worker.outbox import Outbox
from rayhost.worker.prepare import Prompts, answer, prepare_forever
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


def test_tokens_that_no_ring_could_hold_arrive_though_nobody_else_flushes() -> None:
    front, child = create(os.getpid(), ring_bytes=4096)
    worker = attach(child)
    inbox = Prompts()
    thread = threading.Thread(
        target=prepare_forever, args=(Codec(), inbox, Outbox(worker.sender)), daemon=True
    )
    thread.start()
    poll = select.poll()
    poll.register(front.receiver.data_fd, select.POLLIN)
    for request_id, text in enumerate(("a" * 20_000, "b", "c" * 5_000)):
        inbox.put(request_id, Prepare(None, text))
        frames: list[Frame] = []
        while not frames:
            assert poll.poll(30_000), "the text thread is silent"
            frames = front.receiver.receive(2)
        assert [(frame.request_id, decode(frame.kind, frame.payload)) for frame in frames] == [
            (request_id, Prepared(pack_tokens([ord(character) for character in text])))
        ]


def test_a_prompt_whose_client_left_is_never_read() -> None:
    prompts = Prompts()
    for number in (1, 2, 3):
        prompts.put(number, Prepare(None, "a" * number))
    assert prompts.drop(1)
    assert prompts.drop(2)
    assert not prompts.drop(2)
    assert prompts.take() == (3, Prepare(None, "aaa"))
    assert not prompts.drop(3), "it is being read: too late"

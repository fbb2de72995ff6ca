"""A prompt becomes tokens, or a refusal that names the field at fault."""

import os
import select
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from rayhost.engine.base import PromptError
from rayhost.engine.grammar import GrammarError
from rayhost.engine.tools import grammar
from rayhost.ipc.channel import Frame, attach, create
from rayhost.ipc.messages import (
    Compiling,
    Constraint,
    Message,
    Prepare,
    Prepared,
    Rejected,
    Tools,
    decode,
    pack_tokens,
)
from rayhost.worker.constraints import Constraints
from rayhost.worker.outbox import Outbox
from rayhost.worker.prepare import Prompts, answer, checked, made_of, prepare_forever
from tests.worker.fake_engine import FakeCodec
from tests.worker.fake_grammar import SHARED, Gate

DIGITS = Constraint("regex", "[0-9]+")
HELLO = ({"role": "user", "content": "hello"},)


class Codec(FakeCodec):
    """Knows one token for a chat and one for each character of a text."""

    def chat(self, messages: Sequence[dict[str, Any]], *_: object) -> list[int]:
        return [7] * len(messages)

    def text(self, text: str) -> list[int]:
        return [ord(character) for character in text]


class Refusing(FakeCodec):
    """Refuses everything."""

    def chat(self, messages: Sequence[dict[str, Any]], *_: object) -> list[int]:
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


TOOLS = Tools(({"name": "f", "parameters": {"type": "object"}},))
SCHEMA = Constraint("json_object", "")
CALLS = Constraint("calls", grammar(TOOLS, "hermes", {}))


class Calling(Codec):
    """Shows what it is given, and knows how calls are written."""

    def chat(self, messages: Sequence[dict[str, Any]], *given: object) -> list[int]:
        self.given = given
        return [7]

    def calls(self, tools: Tools, answer: Constraint | None) -> tuple[Constraint, str]:
        if answer is not None:
            raise PromptError("cannot be combined")
        return CALLS, "hermes"


def test_tools_reach_the_template_and_bind_the_answer() -> None:
    codec = Calling()
    asked = Prepare(HELLO, None, tools=TOOLS, continue_final=True, options={"mood": "calm"})
    assert answer(codec, asked) == Prepared(pack_tokens([7]), CALLS, "hermes")
    assert codec.given == (TOOLS, True, {"mood": "calm"})
    refused = answer(codec, Prepare(HELLO, None, tools=TOOLS, constraint=SCHEMA))
    assert refused == Rejected("cannot be combined", "invalid_value", "tools")


def test_tools_that_may_not_be_called_are_not_shown() -> None:
    codec = Calling()
    asked = Prepare(HELLO, None, tools=Tools(TOOLS.functions, "none"), constraint=SCHEMA)
    assert answer(codec, asked) == Prepared(pack_tokens([7]), SCHEMA)
    assert codec.given == (None, False, {})


def test_a_schema_of_a_function_that_cannot_be_followed_names_the_function() -> None:
    told = Prepared(pack_tokens([7]), CALLS, "hermes")
    line = 1 + [rule.startswith('["f0') for rule in CALLS.source.split("\n")].index(True)
    error = GrammarError(f"it cannot be used: at {line}(3): no such type", "invalid_grammar")
    assert checked(told, error) == Rejected(
        "Invalid schema for function 'f': no such type", "invalid_function_parameters", "tools"
    )


def test_tokens_that_no_ring_could_hold_arrive_though_nobody_else_flushes() -> None:
    front, child = create(os.getpid(), ring_bytes=4096)
    worker = attach(child)
    inbox = Prompts()
    thread = threading.Thread(
        target=prepare_forever, args=(Codec(), inbox, Outbox(worker.sender), SHARED), daemon=True
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


def test_the_text_thread_says_when_only_a_constraint_keeps_a_prompt() -> None:
    front, child = create(os.getpid())
    worker = attach(child)
    inbox, gate = Prompts(), Gate()
    args = (Codec(), inbox, Outbox(worker.sender), Constraints(lambda: gate))
    threading.Thread(target=prepare_forever, args=args, daemon=True).start()
    inbox.put(1, Prepare(None, "a", constraint=DIGITS))
    inbox.put(2, Prepare(None, "b"))
    poll = select.poll()
    poll.register(front.receiver.data_fd, select.POLLIN)

    def told() -> tuple[int, Message]:
        assert poll.poll(30_000), "the text thread is silent"
        ((kind, number, payload),) = front.receiver.receive(1)
        return number, decode(kind, payload)

    assert told() == (1, Compiling())
    assert told() == (2, Prepared(pack_tokens([98])))
    gate.opened.set()
    assert told() == (1, Prepared(pack_tokens([97]), DIGITS))


def test_a_prompt_whose_client_left_is_never_read() -> None:
    prompts = Prompts()
    for number in (1, 2, 3):
        prompts.put(number, Prepare(None, "a" * number))
    assert prompts.drop(1)
    assert prompts.drop(2)
    assert not prompts.drop(2)
    assert prompts.take() == (3, Prepare(None, "aaa"))
    assert not prompts.drop(3), "it is being read: too late"


def test_what_nobody_foresaw_costs_its_own_request() -> None:
    class Broken(FakeCodec):
        def text(self, text: str) -> list[int]:
            raise TypeError("not iterable")

    with capture_logs() as lines:
        told = made_of(Broken(), Prepare(None, "ab"))
    assert isinstance(told, Rejected)
    assert told.code == "prompt_failed"
    assert [line["event"] for line in lines] == ["prompt failed"]

"""A lane and the worker at its other end, played by the test: nothing happens but what it says."""

from collections.abc import Callable
from typing import Literal

from rayhost import clock
from rayhost.front.admission import Bounds
from rayhost.front.blame import Death
from rayhost.front.lane import Lane
from rayhost.front.request import ChatPrompt, GenerateRequest, TextPrompt, TokenPrompt
from rayhost.ipc.messages import (
    Cancel,
    Finished,
    Message,
    Prepare,
    Prepared,
    Ready,
    Start,
    Tokens,
    pack_tokens,
    unpack_tokens,
)
from rayhost.metrics import Metrics

CONTEXT = 64
VOCABULARY = 100


def due(in_ms: int | None) -> int | None:
    """Return the deadline of a request that comes now."""
    return None if in_ms is None else clock.now_ns() + in_ms * 1_000_000


def make_lane(
    *,
    name: str = "tiny",
    concurrency: int = 2,
    queue_limit: int = 100,
    spent: Callable[[str, int], None] = lambda _key, _tokens: None,
) -> Lane:
    return Lane(
        name=name,
        aliases=(name[0],),
        concurrency=concurrency,
        bounds=Bounds(queue_limit),
        metrics=Metrics(),
        spent=spent,
    )


def request(
    name: str = "r", tokens: tuple[int, ...] = (1, 2, 3), max_tokens: int | None = None
) -> GenerateRequest:
    return GenerateRequest(id=name, model="tiny", prompt=TokenPrompt(tokens), max_tokens=max_tokens)


def chat_request(name: str = "r") -> GenerateRequest:
    prompt = ChatPrompt(({"role": "user", "content": "hi"},))
    return GenerateRequest(id=name, model="tiny", prompt=prompt)


def text_request(name: str = "r") -> GenerateRequest:
    return GenerateRequest(id=name, model="tiny", prompt=TextPrompt("hi"))


class FakeWorker:
    """One incarnation: keeps what the lane sent, and says to it what the test wants said."""

    def __init__(
        self,
        lane: Lane,
        *,
        context: int = CONTEXT,
        vocabulary: int = VOCABULARY,
        load_ms: float = 1.0,
    ) -> None:
        self.sent: list[tuple[int, Message]] = []
        self._lane = lane
        lane.attach(
            self,
            Ready(
                architecture="llama",
                quantization="F32",
                parameters=1,
                size_bytes=1,
                context=context,
                train_context=context,
                vocabulary=vocabulary,
                chat=True,
                load_ms=load_ms,
                tools="generic",
            ),
        )

    def send(self, request_id: int, message: Message) -> None:
        self.sent.append((request_id, message))

    @property
    def starts(self) -> list[Start]:
        return [message for _, message in self.sent if isinstance(message, Start)]

    @property
    def started(self) -> list[int]:
        """Numbers of the runs it was given, in order."""
        return [number for number, message in self.sent if isinstance(message, Start)]

    @property
    def started_prompts(self) -> list[int]:
        """The first token of each run it was given, in order: tests give each run its own."""
        return [unpack_tokens(start.tokens)[0] for start in self.starts]

    @property
    def cancelled(self) -> list[int]:
        return [number for number, message in self.sent if isinstance(message, Cancel)]

    @property
    def asked(self) -> list[int]:
        """Numbers of the prompts it was to turn into tokens, in order."""
        return [number for number, message in self.sent if isinstance(message, Prepare)]

    def prepared(self, number: int, *tokens: int) -> None:
        self._lane.hear(number, Prepared(pack_tokens(list(tokens))))

    def tokens(self, number: int, *ids: int, text: str = "") -> None:
        self._lane.hear(number, Tokens(ids, text))

    def finish(self, number: int, reason: Literal["stop", "length"] = "stop") -> None:
        self._lane.hear(number, Finished(reason, 3, 1, 1, 2, 3))

    def die(self, death: Death = Death.CRASHED) -> None:
        self._lane.detach(death)

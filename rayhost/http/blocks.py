"""An answer that is a row of blocks: text and calls of functions, in the order they were written.

Pure, as every `Answer`, and of one choice. Blocks come one after the other: each begins, grows and
ends before the next one. `responses_answer` and `messages_answer` say how that is written.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rayhost.front.request import Finish, Piece, Recalled, Run
from rayhost.http.answer import Answer, Ask, Outcome
from rayhost.http.json import encode
from rayhost.http.tool_calls import CallBegin, CallDelta, ContentDelta, Event, ToolStream
from rayhost.ipc.messages import TokenLogprob


@dataclass(slots=True)
class Block:
    """A text or, where `name` is set, the call of a function of that name."""

    index: int  # among the blocks
    name: str | None = None
    call: int = 0  # of a call, its index among the calls
    cut: bool = False  # its end is where the tokens were used up
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What it has so far: text, or the JSON of the call's arguments."""
        return "".join(self.pieces)


class BlocksAnswer(Answer):
    """A reply of blocks. A model that says nothing at all says an empty text."""

    def __init__(self, ask: Ask, run: Run | Recalled) -> None:
        self._model = run.model
        self._parser = ToolStream(run.tool_syntax, required=ask.calls_only)
        self._blocks: list[Block] = []
        self._open: Block | None = None
        self._untold: list[TokenLogprob] = []  # of tokens whose text has not come yet

    @abstractmethod
    def _begun(self, block: Block) -> bytes:
        """Return the events of a new block."""

    @abstractmethod
    def _grown(self, block: Block, new: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """Return the event of a piece that a block got."""

    @abstractmethod
    def _done(self, block: Block) -> bytes:
        """Return the events of a block that is whole."""

    @abstractmethod
    def _reply(self, finish: Finish) -> dict[str, Any]:
        """Return the whole reply; every block is done."""

    def piece(self, piece: Piece, _index: int) -> bytes:
        """Return the events of a part of the answer."""
        self._untold += piece.logprobs
        return self._write(self._parser.push(piece.text))

    def ended(self, finish: Finish, _index: int) -> bytes:
        """Return the events that end the last block."""
        events = self._write(self._parser.close())
        if not self._blocks:
            events += self._begin(Block(0))
        return events + self._end(cut=finish.reason == "length")

    def whole(self, outcomes: Sequence[Outcome]) -> bytes:
        """Return the body of a reply that is not streamed."""
        ((piece, finish),) = outcomes
        self.piece(piece, 0)
        self.ended(finish, 0)
        return encode(self._reply(finish))

    @property
    def _has_calls(self) -> bool:
        return any(block.name is not None for block in self._blocks)

    def _write(self, parsed: list[Event]) -> bytes:
        events = b""
        for one in parsed:
            match one:
                case ContentDelta(text):
                    if self._open is None or self._open.name is not None:
                        events += self._end() + self._begin(Block(len(self._blocks)))
                    events += self._grow(text)
                case CallBegin(call, name):
                    events += self._end() + self._begin(Block(len(self._blocks), name, call))
                case CallDelta(_, arguments):
                    events += self._grow(arguments)
        return events

    def _begin(self, block: Block) -> bytes:
        self._blocks.append(block)
        self._open = block
        return self._begun(block)

    def _grow(self, new: str) -> bytes:
        block = self._open
        if block is None:
            raise RuntimeError("a piece of a call that has not begun")
        logprobs, self._untold = self._untold, []
        if block.name is not None:  # the tokens of a call are not of its text
            logprobs = []
        block.pieces.append(new)
        block.logprobs += logprobs
        return self._grown(block, new, logprobs)

    def _end(self, *, cut: bool = False) -> bytes:
        block, self._open = self._open, None
        if block is None:
            return b""
        # Of a last token without text, as the one that ends the answer.
        late = self._untold if block.name is None else []
        self._untold = []
        events = b""
        if late:
            block.logprobs += late
            events = self._grown(block, "", late)
        block.cut = cut
        return events + self._done(block)

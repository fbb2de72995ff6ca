"""What the worker sees of a model: a batch to fill, logits to read, text to convert.

The protocols are implemented by `engine.llama` and, in tests, by a fake. Nothing here may import
llama_cpp. A slot is one of the context's sequences, 0 ≤ slot < `Facts.concurrency`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rayhost.ipc.messages import Constraint, Load, Task, Tools, ToolSupport

Int32 = NDArray[np.int32]
State = NDArray[np.uint8]
Logits = NDArray[np.float32]
Vector = NDArray[np.float32]


class EngineFailed(Exception):
    """llama.cpp refused a batch or broke: its state is unknown, the process must be replaced."""


class LoadError(Exception):
    """The model file or the context cannot be had; the message is llama.cpp's own reason."""


class PromptError(Exception):
    """A prompt that cannot become tokens. `code` is the OpenAI error code."""

    def __init__(self, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Facts:
    """What a loaded model is. Sizes in tokens unless named otherwise."""

    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    context: int  # per slot, as granted
    train_context: int
    vocabulary: int
    concurrency: int
    batch: int
    chat: bool
    streams: bool = (
        True  # each slot has its own cells, and neighbours in a batch are computed at once
    )
    trims: bool = True  # cells behind a position can be dropped, and those before it stay good
    sliding_window: int = 0  # tokens that most layers look back; 0: all of them
    task: Task = "generate"
    dimensions: int = 0  # numbers of a vector; 0: it makes none
    tools: ToolSupport = ""


class Batch:
    """The tokens of one step, as arrays that the engine hands to llama.cpp without a copy."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.outputs = 0
        self.tokens: Int32 = np.zeros(capacity, np.int32)
        self.positions: Int32 = np.zeros(capacity, np.int32)
        self.slots: Int32 = np.zeros(capacity, np.int32)
        self.wants_logits: NDArray[np.int8] = np.zeros(capacity, np.int8)

    def clear(self) -> None:
        """Start a new step."""
        self.size = 0
        self.outputs = 0

    def add(self, slot: int, tokens: Sequence[int], position: int, due: bool) -> None:
        """Append `tokens` of a slot from `position` on; if `due`, the last one yields logits.

        The rows of `Engine.logits` come in the order of the `due` additions.
        """
        start, end = self.size, self.size + len(tokens)
        if end > self.capacity:
            raise ValueError(f"{end} tokens in a batch of {self.capacity}")
        if end - start == 1:  # a decoding sequence: scalars beat slices tenfold
            self.tokens[start] = tokens[0]
            self.positions[start] = position
        else:
            self.tokens[start:end] = tokens
            self.positions[start:end] = np.arange(position, position + end - start)
        self.slots[start:end] = slot
        self.wants_logits[start:end] = 0
        if due:
            self.wants_logits[end - 1] = 1
            self.outputs += 1
        self.size = end

    def put(self, slot: int, tokens: Sequence[int]) -> None:
        """Append a whole prompt, and leave alone which of its tokens yield something."""
        start, end = self.size, self.size + len(tokens)
        if end > self.capacity:
            raise ValueError(f"{end} tokens in a batch of {self.capacity}")
        self.tokens[start:end] = tokens
        self.positions[start:end] = np.arange(end - start)
        self.slots[start:end] = slot
        self.size = end


class Embedder(Protocol):
    """One model that makes vectors. Used by one thread only."""

    facts: Facts
    batch: Batch

    def resize(self, load: Load) -> None:
        """Take other sizes. Raises LoadError where there is no room for them, and keeps its own."""
        ...

    def encode(self) -> None:
        """Compute the batch, which holds whole prompts. Raises EngineFailed."""
        ...

    def vector(self, slot: int) -> Vector:
        """Return the `Facts.dimensions` numbers of a slot's prompt, of the last batch."""
        ...


class Engine(Protocol):
    """One model and one context. Used by one thread only."""

    facts: Facts
    batch: Batch

    def retune(self, load: Load) -> bool:
        """Take another number of threads, and keep the cells.

        Return False, with nothing done, where more of the context is to be another.
        """
        ...

    def resize(self, load: Load) -> bool:
        """Take a context of other sizes or another KV type; the cells of every slot are gone.

        Return whether snapshots from before can still be restored. Raises LoadError when there is
        no room for it: then the context has its former sizes.
        """
        ...

    def decode(self) -> None:
        """Run the batch. Raises EngineFailed."""
        ...

    def logits(self) -> Logits:
        """Return (batch.outputs, vocabulary) logits, writable, valid until the next decode."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Free the KV cells of a slot from position `length` on.

        Unless `Facts.trims`, `length` is 0 or all that the slot holds.
        """
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Give `target` the first `length` cells of `source`, instead of what it holds.

        Unless `Facts.trims`, `length` is all that the source holds.
        """
        ...

    def snapshot_bytes(self, slot: int) -> int:
        """Return the size that a snapshot of a slot would have."""
        ...

    def snapshot(self, slot: int) -> State:
        """Return a copy of a slot's KV cells, in bytes that only this setup can read."""
        ...

    def restore(self, slot: int, state: State) -> None:
        """Give a slot the cells of a snapshot, instead of what it holds.

        Raises EngineFailed where they do not fit.
        """
        ...


class Codec(Protocol):
    """Text to tokens and back. Safe to use from another thread while the engine decodes."""

    vocabulary: int  # token ids are below it

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Apply the chat template, with `options` as further variables. Raises PromptError."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokenize text as it is, with what the model wants in front if `add_special`.

        Without `parse_special` a special token that is spelled out is plain text.
        Raises PromptError.
        """
        ...

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Apply the chat template and tokenize. Raises PromptError."""
        ...

    def calls(self, tools: Tools, answer: Constraint | None) -> tuple[Constraint, str]:
        """Return what binds the calls in an answer, and the syntax that they are written in.

        An answer without a call has to match `answer`. Raises PromptError.
        """
        ...

    def text(self, text: str) -> list[int]:
        """Tokenize raw text, with the special tokens the model wants in front."""
        ...

    def fill(self, before: str, after: str) -> list[int]:
        """Tokenize a gap to be filled, the way the model was trained to. Raises PromptError."""
        ...

    def pair(self, query: str, document: str) -> list[int]:
        """Tokenize a question and a text that may answer it. Raises PromptError."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; they may be part of a UTF-8 character. Control: empty."""
        ...

    def name(self, token: int) -> bytes:
        """Return the bytes of a token, a control token's own too."""
        ...

    def ends(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        ...

    def end_tokens(self) -> Int32:
        """Return every token that ends a generation."""
        ...

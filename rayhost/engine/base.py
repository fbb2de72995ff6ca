"""What the worker sees of a model: a batch to fill, logits to read, text to convert.

The protocols are implemented by `engine.llama` and, in tests, by a fake. Nothing here may import
llama_cpp. A slot is one of the context's sequences, 0 ≤ slot < `Facts.concurrency`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
State = NDArray[np.uint8]
Logits = NDArray[np.float32]


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


class Engine(Protocol):
    """One model and one context. Used by one thread only."""

    facts: Facts
    batch: Batch

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

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Apply the chat template and tokenize. Raises PromptError."""
        ...

    def text(self, text: str) -> list[int]:
        """Tokenize raw text, with the special tokens the model wants in front."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; they may be part of a UTF-8 character. Control: empty."""
        ...

    def ends(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        ...

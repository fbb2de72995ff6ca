"""A model without weights: what comes next is a hash of all the tokens before it.

The engine is an oracle of the step loop's batches: it fails on a gap, a token computed twice, a
slot that does not exist, one that lies about, or too much in one step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from rayhost.engine.base import Batch, EngineFailed, Facts, Int32, LoadError, Logits, State
from rayhost.engine.sampling import Sampler
from rayhost.ipc.messages import Constraint, Load, Tools
from rayhost.ipc.sampling import Sampling
from tests.worker.text_oracle import cut_at_stop

END = 0
# Half characters and lone continuation bytes among them: any sequence of tokens may be bad UTF-8.
PIECES = (
    *(b"", b"a", b"b", b"c", b"ab", b"bc", b"abc", b" ", b"\n"),
    *(b"\xc3", b"\xa9", b"\xc3\xa9", b"\xf0\x9f", b"\x98\x80", "\N{GRINNING FACE}".encode()),
)
VOCABULARY = len(PIECES)


def next_logits(tokens: list[int]) -> Logits:
    """Return the logits that follow these tokens."""
    seed = xxhash.xxh3_64_intdigest(np.asarray(tokens, np.int32).tobytes())
    logits = np.random.default_rng(seed).normal(0, 2, VOCABULARY).astype(np.float32)
    logits[END] -= 2  # so that runs end in every way there is
    return logits


class FakeEngine:
    """An Engine of `slots` slots of `context` tokens. `fail` makes the next decode raise."""

    def __init__(
        self, slots: int = 3, context: int = 48, batch: int = 16, *, trims: bool = True
    ) -> None:
        self.facts = Facts(
            architecture="fake",
            quantization="none",
            parameters=0,
            size_bytes=0,
            context=context,
            train_context=context,
            vocabulary=VOCABULARY,
            concurrency=slots,
            batch=batch,
            chat=False,
            trims=trims,
        )
        self.batch = Batch(batch)
        self.cells: list[list[int]] = [[] for _ in range(slots)]
        self.sizes: list[int] = []  # tokens of every batch so far
        self.fail = False
        self._kv_type = "f16"
        self._rows: list[Logits] = []

    def decode(self) -> None:
        """Take the batch into the cells; raise AssertionError where the loop got it wrong."""
        if self.fail:
            raise EngineFailed("told to fail")
        batch, size = self.batch, self.batch.size
        assert 0 < size <= batch.capacity
        self.sizes.append(size)
        self._rows = []
        for slot, token, position, due in zip(
            batch.slots[:size].tolist(),
            batch.tokens[:size].tolist(),
            batch.positions[:size].tolist(),
            batch.wants_logits[:size].tolist(),
            strict=True,
        ):
            assert 0 <= slot < len(self.cells), f"slot {slot} does not exist"
            cells = self.cells[slot]
            assert position == len(cells), f"slot {slot} holds {len(cells)}, not {position}"
            cells.append(token)
            assert len(cells) <= self.facts.context, f"slot {slot} is over its context"
            if due:
                self._rows.append(next_logits(cells))
        assert len(self._rows) == batch.outputs <= len(self.cells)

    def retune(self, load: Load) -> bool:
        """Keep the cells where the sizes are the same."""
        facts = self.facts
        sizes = (facts.context, facts.concurrency, facts.batch, self._kv_type)
        return sizes == (load.context, load.concurrency, load.batch, load.kv_type)

    def resize(self, load: Load) -> bool:
        """Become an engine of other sizes; f16 is what its snapshots are good for."""
        if load.concurrency > 256:
            self.cells = [[] for _ in self.cells]
            raise LoadError("too many sequences")
        self.facts = replace(
            self.facts, context=load.context, concurrency=load.concurrency, batch=load.batch
        )
        self.batch = Batch(load.batch)
        self.cells = [[] for _ in range(load.concurrency)]
        same, self._kv_type = load.kv_type == self._kv_type, load.kv_type
        return same

    def logits(self) -> Logits:
        """Return the rows of the last batch."""
        return np.array(self._rows)

    def truncate(self, slot: int, length: int) -> None:
        """Empty a slot from a position on."""
        held = len(self.cells[slot])
        assert length <= held, f"slot {slot} holds {held}, not {length}"
        assert self.facts.trims or length in (0, held), "these cells cannot be trimmed"
        del self.cells[slot][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the beginning of a slot."""
        assert source != target
        self.restore(target, self.snapshot(source))
        self.truncate(target, length)

    def snapshot_bytes(self, slot: int) -> int:
        """Four bytes a token."""
        return 4 * len(self.cells[slot])

    def snapshot(self, slot: int) -> State:
        """Return the tokens as bytes."""
        return np.asarray(self.cells[slot], np.int32).view(np.uint8)

    def restore(self, slot: int, state: State) -> None:
        """Take a snapshot's tokens."""
        self.cells[slot] = state.view(np.int32).tolist()


class FakeCodec:
    """The pieces above. Only what the step loop asks for."""

    vocabulary = len(PIECES)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Never asked in these tests."""
        raise NotImplementedError

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Never asked in these tests."""
        raise NotImplementedError

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Never asked in these tests."""
        raise NotImplementedError

    def calls(self, tools: Tools, answer: Constraint | None) -> tuple[Constraint, str]:
        """Never asked in these tests."""
        raise NotImplementedError

    def text(self, text: str) -> list[int]:
        """Never asked in these tests."""
        raise NotImplementedError

    def pair(self, query: str, document: str) -> list[int]:
        """Never asked in these tests."""
        raise NotImplementedError

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return PIECES[token]

    def ends(self, token: int) -> bool:
        """Tell whether it is the end."""
        return token == END

    def fill(self, before: str, after: str) -> list[int]:
        """Never asked in these tests."""
        raise NotImplementedError

    def name(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return PIECES[token]

    def end_tokens(self) -> Int32:
        """Return the one."""
        return np.array([END], np.int32)


class _Lone:
    """A run on its own, as the sampler sees it."""

    def __init__(self, prompt: list[int], sampling: Sampling) -> None:
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.sampling = sampling
        self.mu: float | None = None


def reference(
    prompt: list[int],
    max_tokens: int,
    sampling: Sampling,
    stop: tuple[str, ...] = (),
    context: int = 48,
) -> tuple[list[int], str, str]:
    """Return a run's new tokens, its text and why it ends, one token at a time and all afresh."""
    run, sampler = _Lone(prompt, sampling), Sampler(VOCABULARY, FakeCodec())
    while True:
        run.tokens += sampler.sample(next_logits(run.tokens)[None], [run])
        new = run.tokens[run.n_prompt :]
        raw = b"".join(PIECES[token] for token in new)
        text, stopped = cut_at_stop(_whole_characters(raw), stop)
        if stopped:
            return new, text, "stop"
        text, _ = cut_at_stop(raw.decode(errors="replace"), stop)
        if new[-1] == END:
            return new, text, "stop"
        if len(new) == max_tokens or len(run.tokens) == context:
            return new, text, "length"


def _whole_characters(raw: bytes) -> str:
    """Decode all but an unfinished character at the end."""
    for left in range(4):
        try:
            raw[len(raw) - left :].decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.start == 0:
                return raw[: len(raw) - left].decode(errors="replace")
    return raw.decode(errors="replace")

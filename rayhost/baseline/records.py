"""What a baseline found: the structs that are stored, shown, and read by other parts.

Invariant: every figure that was timed is a `Spread`. Rates are in tokens or bytes per second.
"""

from typing import Literal

import msgspec

from rayhost.baseline.cpu import Cpu
from rayhost.baseline.spread import Spread
from rayhost.baseline.tasks import PROMPT, Kind


class Bandwidth(msgspec.Struct, frozen=True):
    """How fast memory can be read; `size_bytes` were read over and over."""

    threads: int
    size_bytes: int
    beyond_cache: bool  # too large for the caches to hold
    bytes_s: Spread


class Quiet(msgspec.Struct, frozen=True):
    """How quiet the machine was, as shares of all its CPU time: a reason for a wide spread."""

    others: float
    stolen: float  # taken by the hypervisor for other machines


class Row(msgspec.Struct, frozen=True):
    """One timed point."""

    threads: int
    kv_layout: Literal["split", "unified"]
    kind: Kind
    sequences: int
    depth: int
    tokens_s: Spread

    @property
    def step_ms(self) -> Spread:
        """Milliseconds of a step: one token for each sequence, or the whole prompt."""
        tokens = PROMPT if self.kind == "prefill" else self.sequences
        return self.tokens_s.inverted(tokens * 1e3)


class Memory(msgspec.Struct, frozen=True):
    """What the worker holds with one sequence, and what each further one adds, in bytes."""

    at_rest: int
    per_sequence: int
    context: int  # tokens of a sequence


class Work(msgspec.Struct, frozen=True):
    """What one token asks of a model, see `prediction.work_of`."""

    read_bytes: int  # of weights, to generate it
    prompt_parameters: int  # that it is multiplied with as one of a prompt


class ModelBaseline(msgspec.Struct, frozen=True):
    """One model on this host. `missing` tells what was not measured, and why."""

    name: str
    identity: str  # of the file: see `calibration.identity`
    quantization: str
    parameters: int
    weight_bytes: int
    load_ms: Spread
    memory: Memory | None
    weights_read: Bandwidth  # over as many bytes as the weights have, with every core
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    work: Work | None = None  # None: recorded before there was such a thing

    @property
    def limit_tokens_s(self) -> float:
        """Tokens per second at batch 1 if reading the weights once for each were all it took."""
        return self.weights_read.bytes_s.median / self.weight_bytes

    def find(self, kind: Kind, sequences: int, depth: int = 0) -> Row | None:
        """Return the fastest row of these, whatever its threads and layout."""
        found = (
            row
            for row in self.rows
            if (row.kind, row.sequences, row.depth) == (kind, sequences, depth)
        )
        return max(found, key=lambda row: row.tokens_s.median, default=None)


class Baseline(msgspec.Struct, frozen=True):
    """A whole report. `taken_at` is in ISO 8601."""

    cpu: Cpu
    taken_at: str
    seconds: float
    quick: bool
    memory: tuple[Bandwidth, ...]
    quiet: Quiet
    models: tuple[ModelBaseline, ...]
    failed: tuple[str, ...] = ()  # models that do not run here, and why

"""What a probe process is asked and what it answers, as JSON. Structs only.

The task is the process's one argument; answers are one line each on its standard output, and the
last is `Done`. A process that ends without it has failed.
"""

from typing import Literal

import msgspec

from rayhost.ipc.messages import Load

Kind = Literal["prefill", "generate"]
PROMPT = 128  # tokens of one prefill run: a chat's first turn


class Point(msgspec.Struct, frozen=True):
    """One thing to time: prefill of `tokens`, or steps that generate for `sequences`.

    Either starts with `depth` tokens in the KV cache of each sequence.
    """

    kind: Kind
    sequences: int
    depth: int
    tokens: int = PROMPT


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """Load a model and time the points in order; after `deadline_s` start none but the first."""

    load: Load
    points: tuple[Point, ...]
    point_s: float  # time for the repeated runs of a point; it gets at least three
    deadline_s: float


class Read(msgspec.Struct, frozen=True, tag="read"):
    """Read `size_bytes` of memory again and again with `threads`, for `seconds`."""

    size_bytes: int
    threads: int
    cpus: tuple[int, ...]
    seconds: float


Task = Measure | Read


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is loaded and has run once."""

    load_ms: float
    resident_bytes: int
    anonymous_bytes: int
    context: int  # tokens for each sequence
    quantization: str
    vocabulary: int


class Timed(msgspec.Struct, frozen=True, tag="timed"):
    """Tokens per second of each run of a point, by its place in the task."""

    point: int
    tokens_s: tuple[float, ...]


class Rates(msgspec.Struct, frozen=True, tag="rates"):
    """Bytes per second of each pass over the memory."""

    bytes_s: tuple[float, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """llama.cpp refused, for this reason."""

    reason: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Nothing more will come."""

    peak_bytes: int


Answer = Loaded | Timed | Rates | Failed | Done

"""What a lab process is asked and what it answers, as JSON. Structs only.

The task is the process's one argument, the answer one line on its standard output.
"""

import msgspec

from rayhost.ipc.messages import Load


class Quantize(msgspec.Struct, frozen=True, tag="quantize"):
    """Write `source` to `target` in another type; `embedding` None leaves it to llama.cpp."""

    source: str
    target: str
    file_type: str
    embedding: str | None
    threads: int


class Judge(msgspec.Struct, frozen=True, tag="judge"):
    """Compare what two models predict along a text."""

    reference: Load
    candidate: Load
    text: str


Task = Quantize | Judge


class Written(msgspec.Struct, frozen=True, tag="written"):
    """The quantized file is there."""

    size_bytes: int


class Judged(msgspec.Struct, frozen=True, tag="judged"):
    """How far the candidate is from the reference, over `positions` tokens of the text."""

    divergence: float  # mean Kullback-Leibler, in nats, of the candidate from the reference
    agreement: float  # share of positions where both find the same token most likely
    perplexity: float
    reference_perplexity: float
    positions: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It could not be done, for this reason."""

    reason: str


Answer = Written | Judged | Failed

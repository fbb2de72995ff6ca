"""What a model takes of memory with given settings, before it is loaded. Pure.

The formulas follow llama.cpp's allocations on CPUs (its log tells each: `python -m
bench.memory_model` compares) and what was measured of the processes around it; docs/memory.md has
the table. All sizes are in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from rayhost.models.shape import Layers, Shape

MIB = 1 << 20
FRONT_PROGRAM = 17 * MIB  # pages of files
FRONT = FRONT_PROGRAM + 38 * MIB  # front process: 37 of its own, 1 of a thousand queued runs
WORKER = 30 * MIB  # Python, numpy, the engine's and the rings' own
PROGRAM = 24 * MIB  # pages of Python's, numpy's and llama.cpp's files
RENDERER = 12 * MIB  # the child that renders chat templates
CHECKER = 15 * MIB  # the child that reads schemas and grammars first
LLGUIDANCE = 5 * MIB  # the library that compiles them

_PAD = 256  # llama.cpp rounds cells up to a multiple
_CELL = 96  # bookkeeping of a cell, once for all layers: position, sequences
_STRING = 160  # a token or merge in llama.cpp's vocabulary: measured at 98,052 to 408,403 of them
_WORD = 600  # a token as llguidance holds it: 560 to 645 at vocabularies of 49,152 to 262,144
_GRAPH = 4 * MIB  # the graph's nodes, tensor headers, thread stacks
_ELEMENT = {"f16": 2.0, "q8_0": 34 / 32}
_Q8 = 1.15  # bytes of an activation made ready for a product with quantized weights


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker is to run with; the names are `ipc.messages.Load`'s.

    `swa_full` is llama.cpp's default and the engine's: layers with a window hold every cell.
    """

    context: int
    concurrency: int
    batch: int
    ubatch: int = 512
    kv_type: Literal["f16", "q8_0"] = "f16"
    kv_layout: Literal["split", "unified"] = "split"
    flash_attention: bool = False
    snapshot_bytes: int = 0
    swa_full: bool = True


@dataclass(frozen=True, slots=True)
class Costs:
    """One worker's memory, part by part."""

    mapped: int  # file pages that every step reads
    idle: int  # file pages read once, which the kernel takes back for nothing
    repacked: int  # weights copied into the order that the CPU's kernels want
    cells: int  # the KV cache
    states: int  # of recurrent layers
    compute: int  # buffers of a step
    vocabulary: int  # the tokenizer's strings
    snapshots: int  # cells of past requests, and the copy that makes one
    process: int  # Python and the libraries' own
    program: int  # pages of the program's files
    grammars: int = 0  # what structured output takes in the worker, once it was asked for
    children: int = 0  # processes of its own: the renderer, and the one that reads schemas
    surplus: int = 0  # what was measured here beyond all this

    @property
    def anonymous(self) -> int:
        """What the kernel can only take back by killing."""
        return self.needed - self.mapped - self.program

    @property
    def needed(self) -> int:
        """What must be in memory for the worker to run at its speed."""
        return self.resident + self.children - self.idle

    @property
    def resident(self) -> int:
        """What the process holds when nothing presses: its RSS."""
        total: int = sum(getattr(self, part.name) for part in fields(self))
        return total - self.children


def costs(
    shape: Shape,
    setting: Setting,
    repacks: Mapping[str, int],
    surplus: int = 0,
    *,
    constrained: bool = False,
) -> Costs:
    """Return what a worker takes, with the processes that it starts.

    `repacks` names the weight types that the CPU has rearranged, each with what must divide a
    tensor's rows for that (`kernels.repacked`). `surplus` is what earlier loads of the model on
    this host took beyond the prediction (`surplus_of`). `constrained`: somebody has asked for
    structured output or tools, of which most hosts never see any.
    """
    mapped, idle, repacked = _weights(shape, repacks)
    cells = sum(_cells(kind, setting) for kind in shape.layers)
    states = sum(kind.count * kind.state for kind in shape.layers) * setting.concurrency
    each = (cells + states) // setting.concurrency
    generates = bool(cells or states)
    constrained = constrained and generates
    return Costs(
        mapped=mapped,
        idle=idle,
        repacked=repacked,
        cells=cells + _CELL * _padded(setting),
        states=states,
        compute=_compute(shape, setting) + _GRAPH,
        vocabulary=shape.strings * _STRING,
        # One more is in the making while the others are kept.
        snapshots=setting.snapshot_bytes + each if setting.snapshot_bytes and each else 0,
        process=WORKER,
        program=PROGRAM,
        grammars=LLGUIDANCE + shape.vocabulary * _WORD if constrained else 0,
        children=generates * RENDERER + constrained * CHECKER,
        surplus=surplus,
    )


def surplus_of(predicted: Costs, measured: int) -> int:
    """Return what to add to predictions after a worker was seen to hold `measured` bytes resident.

    Never below zero: buffers are taken as they are used, so a worker may not have shown it all.
    """
    return max(0, measured - replace(predicted, surplus=0).resident)


def _weights(shape: Shape, repacks: Mapping[str, int]) -> tuple[int, int, int]:
    """Return the file pages that steps read, those they do not, and the copies."""
    mapped = idle = repacked = 0
    for part in shape.weights:
        needs = repacks.get(part.type)
        copied = part.use != "rows" and needs is not None and part.rows % needs == 0
        if copied:
            repacked += part.size
        if copied or part.use == "rows":
            idle += part.size
        else:
            mapped += part.size
    return mapped, idle, repacked


def _padded(setting: Setting) -> int:
    """Return all cells of a layer that sees every token: llama.cpp rounds each stream up."""
    if setting.kv_layout == "unified":
        return _up(setting.context * setting.concurrency)
    return _up(setting.context) * setting.concurrency


def _cells(kind: Layers, setting: Setting) -> int:
    """Return the bytes of the KV cache of some layers that are alike."""
    count = _padded(setting)
    if kind.window and not setting.swa_full:
        # llama-kv-cache-iswa.cpp: the window and one micro-batch, in each stream.
        unified = setting.kv_layout == "unified"
        windows = kind.window * (setting.concurrency if unified else 1) + _ubatch(setting)
        streams = 1 if unified else setting.concurrency
        count = _up(min(count // streams, windows)) * streams
    return int(kind.count * (kind.key + kind.value) * _ELEMENT[setting.kv_type]) * count


def _compute(shape: Shape, setting: Setting) -> int:
    """Return the buffers of a step: what its largest stage holds, and its products' work space.

    Fitted to `CPU compute buffer size` of llama.cpp's log, which is exact to some percent.
    """
    tokens = _ubatch(setting)
    # All cells of one stream, or of every sequence where they share one.
    seen = _padded(setting)
    if setting.kv_layout == "split":
        seen //= setting.concurrency
    masks = len({kind.window > 0 for kind in shape.layers if kind.key})
    encodes = not any(kind.key or kind.state for kind in shape.layers)
    if encodes:  # a text is computed whole, against itself
        seen = tokens
    feed_forward = 4 * (4 * shape.embedding + 3 * shape.feed_forward) * tokens
    work = int(_Q8 * max(shape.feed_forward, shape.embedding) * tokens)
    if setting.flash_attention:
        inputs = 2 * masks * seen * tokens
        stage = feed_forward
    else:
        scores = seen * tokens * shape.heads if masks or encodes else 0
        values = max((kind.value for kind in shape.layers), default=0)
        inputs = masks * (4 * seen + 8 * values) * tokens
        attention = 4 * (scores + (3 * shape.embedding + 2 * shape.attention) * tokens)
        stage = max(feed_forward, attention)
        work = max(work, 2 * scores)  # the scores once more, in 16 bits
    logits = 4 * shape.vocabulary * setting.concurrency
    return inputs + max(stage, logits) + work + logits


def _ubatch(setting: Setting) -> int:
    return min(setting.batch, setting.ubatch, setting.context * setting.concurrency)


def _up(cells: int) -> int:
    return -(-cells // _PAD) * _PAD

"""Which configurations a baseline measures, in which order and within which time. Pure.

The most telling come first, so that a slow box that runs out of time still has them; what was not
reached is missing from the report, never estimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from rayhost.baseline.cpu import Cpu
from rayhost.baseline.tasks import PROMPT, Point
from rayhost.ipc.messages import Load
from rayhost.models.gguf import GgufInfo

BATCHES = (1, 2, 4, 8, 16)
DEPTH = 1024
ROOM = 32  # tokens of a context beside depth and prompt
STEP_TOKENS = 512  # of a prefill step
SHALLOWEST = 64  # a depth below this shows nothing
_F16 = 2  # bytes


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: seconds in total and for each point, batches, and the depth."""

    total_s: float
    point_s: float
    batches: tuple[int, ...]
    depth: int
    every_thread_count: bool


FULL = Effort(120.0, 0.8, BATCHES, DEPTH, every_thread_count=True)
QUICK = Effort(20.0, 0.3, (1, 8), 256, every_thread_count=False)


@dataclass(frozen=True, slots=True)
class Configuration:
    """One process: what it loads, what it times, and its share of the time left."""

    load: Load
    points: tuple[Point, ...]
    share: float

    @property
    def label(self) -> str:
        """Say what it is, for people."""
        load = self.load
        threads = f"{load.threads} thread{'s'[: load.threads > 1]}"
        sequences = f"{load.concurrency} sequence{'s'[: load.concurrency > 1]}"
        return f"{threads}, {load.kv_layout} KV, {sequences}"


def kv_bytes_per_token(info: GgufInfo) -> int:
    """Return what one token takes in an f16 KV cache: keys and values of every layer.

    From above where the file does not tell how few heads hold keys: then as many as there are.
    """
    blocks, width = info.block_count or 0, info.embedding_length or 0
    heads = info.heads or 1
    kv_heads = info.kv_heads or heads
    sizes = []
    for part in ("key", "value"):
        size = info.metadata.get(f"{info.architecture}.attention.{part}_length")
        sizes.append(size if isinstance(size, int) else width // heads)
    return blocks * kv_heads * sum(sizes) * _F16


def affordable(info: GgufInfo, available: int, context: int, batches: Sequence[int]) -> int:
    """Return the largest of `batches` whose contexts fit beside the weights in half the memory.

    Weights count twice, as repacked kernels copy them. The smallest is returned at any rate: the
    model is there to be served.
    """
    room = available // 2 - 2 * info.tensor_bytes
    each = kv_bytes_per_token(info) * context
    return max((n for n in batches if n * each <= room), default=min(batches))


def thread_counts(cores: int, cpus: int) -> tuple[int, ...]:
    """Return the thread counts worth trying: every core first, then all CPUs, then fewer."""
    fewer = []
    threads = cores // 2
    while threads >= 1:
        fewer.append(threads)
        threads //= 2
    return tuple(dict.fromkeys((cores, cpus, *fewer)))


def plan(
    path: str,
    info: GgufInfo,
    *,
    cpu: Cpu,
    available: int,
    effort: Effort,
) -> tuple[Configuration, ...]:
    """Return what to run for one model, in order.

    The last two differ in nothing but the number of sequences, which tells what one costs in
    memory; they time nothing.
    """
    depth = min(effort.depth, (info.context_length or DEPTH) - PROMPT - ROOM)
    depths = (0, depth) if depth >= SHALLOWEST else (0,)
    context = depths[-1] + PROMPT + ROOM
    most = affordable(info, available, context, effort.batches)
    batches = tuple(n for n in effort.batches if n <= most)
    points = tuple(
        point
        for at in depths
        for point in (
            *(Point("generate", n, at) for n in batches),
            Point("prefill", 1, at),
        )
    )
    threads = thread_counts(cpu.cores, cpu.cpus) if effort.every_thread_count else (cpu.cores,)
    timed = [(count, layout) for count in threads for layout in ("split", "unified")]
    base = Load(
        name="baseline",
        path=path,
        context=context,
        concurrency=most,
        batch=STEP_TOKENS,
        threads=cpu.cores,
        cpus=cpu.ids,
        kv_type="f16",
        kv_layout="split",
        flash_attention=False,  # as served (`calibration.Settings`)
        inter_token_ms=100,
        log_format="json",
    )
    configurations = (
        Configuration(
            msgspec.structs.replace(base, threads=count, kv_layout=layout),
            points,
            1 / (len(timed) - number),
        )
        for number, (count, layout) in enumerate(timed)
    )
    alone = msgspec.structs.replace(base, concurrency=1)
    return (*configurations, Configuration(base, (), 1.0), Configuration(alone, (), 1.0))

"""What a running host says of itself: the JSON of `/admin/state`, which `rayhost top` reads.

Plain values at one moment, no behaviour. Times are seconds, sizes bytes; counters only grow while
the same worker (`pid`) lives, so two states make a rate.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec


class RequestState(msgspec.Struct, frozen=True):
    """One request that has not ended."""

    id: str
    phase: Literal["queued", "prefill", "decode"]
    priority: str
    prompt_tokens: int
    generated_tokens: int
    age_s: float


class ModelState(msgspec.Struct, frozen=True):
    """One model: its lane in the front and its worker, `pid` None while there is none."""

    name: str
    state: str
    reason: str
    pid: int | None
    rss_bytes: int
    concurrency: int  # sequences there are
    active: int  # of them in the batch
    queued: int
    queued_by_priority: Mapping[str, int]
    kv_tokens: int
    kv_cells: int
    steps: int
    step_s: float
    prefill_tokens: int
    decode_tokens: int
    reused_tokens: Mapping[str, int]
    snapshots: int
    snapshot_bytes: int
    requests: tuple[RequestState, ...]


class CacheState(msgspec.Struct, frozen=True):
    """The result cache; `lookups` by outcome."""

    entries: int
    bytes: int
    lookups: Mapping[str, int]


class MemoryState(msgspec.Struct, frozen=True):
    """What the governor reads and does; all 0 before it first looked.

    `allowed_bytes` is what front and workers may hold together, `needed_bytes` what they need with
    the sizes of now; `rungs` of the ladder are in force, and `reason` says why.
    """

    limit_bytes: int = 0
    used_bytes: int = 0
    ours_bytes: int = 0
    allowed_bytes: int = 0
    needed_bytes: int = 0
    cores: float = 0.0
    level: int = 0
    rungs: tuple[str, ...] = ()
    reason: str = ""


class CpuState(msgspec.Struct, frozen=True):
    """What is kept from the host of its CPUs: counters in seconds of one CPU.

    `waiting` is the share of the last 10 s in which something waited for one; None: not known.
    """

    stolen_s: float = 0.0
    throttled_s: float = 0.0
    waiting: float | None = None


class ProfileState(msgspec.Struct, frozen=True):
    """The profile in force: a digest of each part (`profile.digests`), and what is not in force."""

    digests: Mapping[str, str] = {}
    need_restart: tuple[str, ...] = ()  # settings by their path


class HostState(msgspec.Struct, frozen=True):
    """The whole host; `unanswered` counts requests that got an error instead, by its code."""

    version: str
    url: str
    uptime_s: float
    draining: bool
    connections: int
    front_rss_bytes: int
    available_bytes: int  # on the machine
    cache: CacheState
    models: tuple[ModelState, ...]
    memory: MemoryState = MemoryState()
    cpu: CpuState = CpuState()
    profile: ProfileState = ProfileState()
    unanswered: Mapping[str, int] = {}

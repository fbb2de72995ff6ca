"""States of a host for the tests of what shows them."""

from typing import Any

from rayhost.front.state import CacheState, HostState, ModelState, RequestState


def request(name: str = "req-1", **fields: Any) -> RequestState:
    given = {
        "phase": "decode", "priority": "normal", "prompt_tokens": 1200, "generated_tokens": 34,
        "age_s": 2.5,
    }  # fmt: skip
    return RequestState(id=name, **{**given, **fields})


def model(name: str = "tiny", **fields: Any) -> ModelState:
    given = {
        "state": "ready", "reason": "", "pid": 7, "rss_bytes": 310_000_000, "concurrency": 8,
        "active": 3, "queued": 2, "queued_by_priority": {"normal": 2}, "kv_tokens": 2048,
        "kv_cells": 16384, "steps": 100, "step_s": 2.0, "prefill_tokens": 500,
        "decode_tokens": 300, "reused_tokens": {"idle": 9}, "snapshots": 0, "snapshot_bytes": 0,
        "requests": (),
    }  # fmt: skip
    return ModelState(name=name, **{**given, **fields})


def host(*models: ModelState, **fields: Any) -> HostState:
    given = {
        "version": "1.2.3", "url": "http://127.0.0.1:8080", "uptime_s": 60.0, "draining": False,
        "connections": 12, "front_rss_bytes": 61_000_000, "available_bytes": 1_812_000_000,
        "cache": CacheState(120, 1_200_000, {"hit": 3, "miss": 1}),
    }  # fmt: skip
    return HostState(models=models, **{**given, **fields})

"""`python -m bench.memory_child LOAD`: load a model, fill it, tell what it takes of memory.

Started by `bench.memory_model`, one process for each figure: what a process once held is not
always given back. Says what llama.cpp's own log calls its buffers, too.
"""

import ctypes
import os
import re
import sys
from typing import Any

import msgspec
import numpy as np
from llama_cpp import llama_cpp as llama

import rayhost.worker.main  # noqa: F401  a worker's imports are part of what it holds
from rayhost.baseline import memory
from rayhost.engine.llama import LlamaEngine
from rayhost.ipc.messages import Load

_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")


class Held(msgspec.Struct, frozen=True):
    """Bytes: of the process, and by llama.cpp's log the sum of each kind of buffer."""

    resident: int
    anonymous: int
    buffers: dict[str, int]


class Log:
    """Takes llama.cpp's log from the engine, which keeps only errors."""

    def __init__(self) -> None:
        self.buffers: dict[str, int] = {}
        self._text = ""
        self._callback = llama.llama_log_callback(self._hear)
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))
        llama.llama_log_set = _ignore

    def _hear(self, _level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        self._text += text.decode(errors="replace")
        if not self._text.endswith("\n"):
            return
        if found := _BUFFER.search(self._text):
            kind = "repacked" if "REPACK" in found[1] else found[2]
            self.buffers[kind] = self.buffers.get(kind, 0) + round(float(found[3]) * (1 << 20))
        self._text = ""


def _ignore(_callback: Any, _data: Any) -> None:
    """Stand in for `llama_log_set`."""


def fill(engine: LlamaEngine) -> None:
    """Compute the largest steps there can be, so that every buffer is touched.

    The cells are resident from the start, so one slot filled to its end is enough.
    """
    batch, facts = engine.batch, engine.facts
    random = np.random.default_rng(0)
    end = facts.context - 1
    for at in range(0, end, batch.capacity):
        part = random.integers(0, facts.vocabulary, min(batch.capacity, end - at)).tolist()
        batch.clear()
        batch.add(0, part, at, due=True)
        engine.decode()
        engine.logits().argmax(axis=1)
    batch.clear()
    batch.add(0, [0], end, due=True)
    for slot in range(1, facts.concurrency):
        batch.add(slot, [0], 0, due=True)
    engine.decode()
    engine.logits().argmax(axis=1)


def main() -> None:
    """Do the task that is this process's argument."""
    load = msgspec.json.decode(sys.argv[1], type=Load)
    os.sched_setaffinity(0, load.cpus)
    log = Log()
    engine = LlamaEngine(load)
    fill(engine)
    held = memory.held()
    answer = Held(held.resident, held.anonymous, log.buffers)
    sys.stdout.write(msgspec.json.encode(answer).decode())


if __name__ == "__main__":
    main()

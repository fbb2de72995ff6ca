"""`python -m rayhost.baseline.probe TASK`: time one configuration of a model, or memory.

The only module of this package that touches the engine, and never imported by the others: the
operator's command stays free of llama.cpp. A run is timed as the worker's step is: decode and the
choice of the next token, with the batch filled before.
"""

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from rayhost.baseline import child, memory
from rayhost.baseline.spread import MIN_RUNS
from rayhost.baseline.tasks import (
    Done,
    Failed,
    Loaded,
    Measure,
    Point,
    Rates,
    Read,
    Task,
    Timed,
)
from rayhost.engine.base import EngineFailed, LoadError, State
from rayhost.engine.llama import LlamaEngine

RUN_S = 0.1  # a generation run is about this long, so that one late wake-up is not all of it
MOST_STEPS = 16  # of a run: the depth must stay what it is called
MAX_RUNS = 50


def main() -> None:
    """Do the task of this process."""
    task: Task = msgspec.json.decode(child.begin(), type=Task)
    if isinstance(task, Read):
        emit_rates(task)
    else:
        try:
            measure(task)
        except (LoadError, EngineFailed) as error:
            child.emit(Failed(str(error)))
            return
    child.emit(Done(memory.held().peak))


def emit_rates(task: Read) -> None:
    """Read an array per thread with a dot product, which costs less than memory gives."""
    cpus = itertools.cycle(task.cpus)
    parts = [np.ones(task.size_bytes // 4 // task.threads, np.float32) for _ in range(task.threads)]
    read = sum(part.nbytes for part in parts)
    with ThreadPoolExecutor(task.threads, initializer=lambda: _pin(next(cpus))) as pool:

        def one_pass() -> float:
            began = time.perf_counter()
            list(pool.map(lambda part: np.dot(part, part), parts))
            return read / (time.perf_counter() - began)

        one_pass()  # page faults and thread starts
        child.emit(Rates(repeat(one_pass, task.seconds)))


def _pin(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})


def repeat(run: Callable[[], float], seconds: float) -> tuple[float, ...]:
    """Call `run` for about `seconds` and at least three times; return what it returned."""
    values: list[float] = []
    began = time.perf_counter()
    while len(values) < MIN_RUNS or (
        time.perf_counter() - began < seconds and len(values) < MAX_RUNS
    ):
        values.append(run())
    return tuple(values)


def measure(task: Measure) -> None:
    """Load the model, then time the points that can be started in time."""
    began = time.perf_counter()
    os.sched_setaffinity(0, task.load.cpus)  # before the threads of llama.cpp exist
    engine = LlamaEngine(task.load)
    held = memory.held()
    child.emit(
        Loaded(
            load_ms=(time.perf_counter() - began) * 1e3,
            resident_bytes=held.resident,
            anonymous_bytes=held.anonymous,
            context=engine.facts.context,
            quantization=engine.facts.quantization,
            vocabulary=engine.facts.vocabulary,
        )
    )
    bench = _Bench(engine)
    for number, point in enumerate(task.points):
        if number and time.perf_counter() - began > task.deadline_s:
            return
        child.emit(Timed(number, bench.time(point, task.point_s)))


class _Bench:
    """An engine whose slots are put to a depth before each run."""

    def __init__(self, engine: LlamaEngine) -> None:
        self._engine = engine
        self._tokens = (
            np.random.default_rng(0)
            .integers(0, engine.facts.vocabulary, engine.facts.context)
            .tolist()
        )
        self._filled: dict[int, State] = {}

    def time(self, point: Point, seconds: float) -> tuple[float, ...]:
        """Return tokens per second of repeated runs."""
        if point.kind == "prefill":
            return repeat(lambda: self._prefill(point), seconds)
        steps = self._steps_for(point)
        return repeat(lambda: self._generate(point, steps), seconds)

    def _prefill(self, point: Point) -> float:
        self._fill(1, point.depth)
        return point.tokens / self._compute(point.tokens, point.depth)

    def _steps_for(self, point: Point) -> int:
        warm = self._generate(point, 2)  # the first steps at a new shape build a graph
        return max(2, min(MOST_STEPS, round(RUN_S * warm / point.sequences)))

    def _generate(self, point: Point, steps: int) -> float:
        self._fill(point.sequences, point.depth)
        engine, batch = self._engine, self._engine.batch
        spent = 0.0
        for step in range(steps):
            batch.clear()
            for slot in range(point.sequences):
                batch.add(slot, [self._tokens[slot + step]], point.depth + step, due=True)
            began = time.perf_counter()
            engine.decode()
            engine.logits().argmax(axis=1)
            spent += time.perf_counter() - began
        return point.sequences * steps / spent

    def _fill(self, sequences: int, depth: int) -> None:
        """Empty every slot, then put `depth` tokens into the first ones, not timed."""
        for slot in range(self._engine.facts.concurrency):
            self._engine.forget(slot)
        if depth == 0:
            return
        if depth not in self._filled:
            self._compute(depth, 0)
            self._filled[depth] = self._engine.snapshot(0)
            self._engine.forget(0)
        # Copies of their own, as unrelated requests have, and not shared cells.
        for slot in range(sequences):
            self._engine.restore(slot, self._filled[depth])

    def _compute(self, count: int, position: int) -> float:
        """Prefill `count` tokens into slot 0 from `position` on; return the seconds."""
        engine, batch = self._engine, self._engine.batch
        began = time.perf_counter()
        for start in range(0, count, batch.capacity):
            part = self._tokens[start : min(start + batch.capacity, count)]
            batch.clear()
            batch.add(0, part, position + start, due=start + len(part) == count)
            engine.decode()
        engine.logits().argmax(axis=1)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""Take a baseline: run the sweep's configurations in probe processes and gather what they say.

A configuration that fails is told in the model's `missing`, a model that does not run in the
baseline's `failed`; neither costs another. `Report` is called with what is going on and the share
of the work done, for a progress bar.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from rayhost.baseline import child, memory, sweep
from rayhost.baseline.calibration import Subject
from rayhost.baseline.child import ChildFailed
from rayhost.baseline.cpu import Cpu
from rayhost.baseline.prediction import work_of
from rayhost.baseline.quiet import Watch
from rayhost.baseline.records import Bandwidth, Baseline, Memory, ModelBaseline, Row
from rayhost.baseline.spread import MIN_RUNS, spread
from rayhost.baseline.sweep import Configuration, Effort
from rayhost.baseline.tasks import Answer, Done, Failed, Loaded, Measure, Rates, Read, Task, Timed
from rayhost.errors import RayhostError
from rayhost.models.gguf import GgufInfo, read_info
from rayhost.models.shape import shape_of

Report = Callable[[str, float], None]
READ_S = 1.0
BEYOND = 3  # times the largest cache
LARGEST_READ = 2 << 30
TIMEOUT_S = 600.0

_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def probe(task: Task, timeout_s: float = TIMEOUT_S) -> Iterator[Answer]:
    """Run a task in a process of its own and yield its answers. Raises ChildFailed."""
    return child.run(
        "rayhost.baseline.probe", task, _answers, last=Done, refusal=Failed, timeout_s=timeout_s
    )


def take(
    cpu: Cpu,
    subjects: Sequence[Subject],
    effort: Effort,
    *,
    quick: bool,
    report: Report,
) -> Baseline:
    """Measure this host and the models.

    Raises RayhostError where memory cannot be read, and where not one of the models runs.
    """
    began, watch = time.monotonic(), Watch()
    reads = host_memory(cpu, READ_S if not quick else READ_S / 2, report)
    models: list[ModelBaseline] = []
    failed: list[str] = []
    for number, subject in enumerate(subjects):
        left = effort.total_s * (number + 1) - (time.monotonic() - began)

        def told(what: str, done: float, number: int = number, name: str = subject.name) -> None:
            report(f"{name}: {what}", (number + done) / len(subjects))

        try:
            models.append(model(subject, cpu, effort, left, told))
        except RayhostError as error:
            failed.append(f"{subject.name}: not measured: {error}")
    if failed and not models:
        raise RayhostError("\n".join(failed))
    return Baseline(
        cpu=cpu,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        quick=quick,
        memory=reads,
        quiet=watch.read(),
        models=tuple(models),
        failed=tuple(failed),
    )


def host_memory(cpu: Cpu, seconds: float, report: Report) -> tuple[Bandwidth, ...]:
    """Read memory with one thread and with one for each core, beyond the caches if it fits."""
    size = min(max(BEYOND * cpu.cache_bytes, 256 << 20), LARGEST_READ, memory.available() // 4)
    found = []
    for threads in dict.fromkeys((1, cpu.cores)):
        report(f"memory, {threads} thread{'s'[: threads > 1]}", 0.0)
        found.append(read_memory(cpu, size, threads, seconds))
    return tuple(found)


def read_memory(cpu: Cpu, size: int, threads: int, seconds: float) -> Bandwidth:
    """Measure how fast `size` bytes can be read over and over. Raises ChildFailed."""
    rates = [
        rate
        for answer in probe(Read(size, threads, cpu.ids, seconds))
        if isinstance(answer, Rates)
        for rate in answer.bytes_s
    ]
    return Bandwidth(threads, size, size >= BEYOND * cpu.cache_bytes, spread(rates))


def model(
    subject: Subject,
    cpu: Cpu,
    effort: Effort,
    left_s: float,
    report: Report,
) -> ModelBaseline:
    """Measure one model within about `left_s`. Raises RayhostError if it does not run at all."""
    began = time.monotonic()
    info = read_info(subject.path)
    report("memory at the size of the weights", 0.0)
    size = min(info.tensor_bytes, memory.available() // 4)
    weights_read = read_memory(cpu, size, cpu.cores, READ_S / 2)
    plan = sweep.plan(
        str(subject.path),
        info,
        cpu=cpu,
        available=memory.available(),
        effort=effort,
    )
    gathered = _Gathered()
    for number, configuration in enumerate(plan):
        left = left_s - (time.monotonic() - began)
        report(configuration.label, number / len(plan))
        gathered.run(configuration, effort, left)
    return gathered.result(subject, info, weights_read)


class _Gathered:
    """What the configurations of one model have said so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.missing: list[str] = []
        self.loads_ms: list[float] = []
        self.resident: dict[int, int] = {}  # by the number of sequences
        self.context = 0

    def run(self, configuration: Configuration, effort: Effort, left_s: float) -> None:
        what = configuration.label
        if configuration.points and left_s <= 0 and self.rows:
            self.missing.append(f"{what}: no time left")
            return
        task = Measure(
            configuration.load, configuration.points, effort.point_s, left_s * configuration.share
        )
        timed = 0
        try:
            for answer in probe(task):
                if isinstance(answer, Loaded):
                    self._loaded(answer, configuration)
                elif isinstance(answer, Timed):
                    timed += 1
                    self._timed(answer, configuration)
        except ChildFailed as error:
            self.missing.append(f"{what}: {error}")
            return
        if timed < len(configuration.points):
            late = len(configuration.points) - timed
            self.missing.append(f"{what}: no time left for {late} of its points")

    def _loaded(self, answer: Loaded, configuration: Configuration) -> None:
        self.loads_ms.append(answer.load_ms)
        self.context = answer.context
        if not configuration.points:
            self.resident[configuration.load.concurrency] = answer.resident_bytes

    def _timed(self, answer: Timed, configuration: Configuration) -> None:
        load, point = configuration.load, configuration.points[answer.point]
        self.rows.append(
            Row(
                threads=load.threads,
                kv_layout=load.kv_layout,
                kind=point.kind,
                sequences=point.sequences,
                depth=point.depth,
                tokens_s=spread(answer.tokens_s),
            )
        )

    def result(self, subject: Subject, info: GgufInfo, weights_read: Bandwidth) -> ModelBaseline:
        if len(self.loads_ms) < MIN_RUNS or not self.rows:
            raise RayhostError("; ".join(self.missing[:1]) or "too little time for three loads")
        return ModelBaseline(
            name=subject.name,
            identity=subject.identity,
            quantization=info.quantization,
            parameters=info.parameters,
            weight_bytes=info.tensor_bytes,
            load_ms=spread(self.loads_ms),
            memory=self._memory(),
            weights_read=weights_read,
            rows=tuple(self.rows),
            missing=tuple(self.missing),
            work=work_of(shape_of(info)),
        )

    def _memory(self) -> Memory | None:
        most = max(self.resident, default=0)
        if 1 not in self.resident or most == 1:
            return None
        each = (self.resident[most] - self.resident[1]) // (most - 1)
        return Memory(at_rest=self.resident[1], per_sequence=each, context=self.context)

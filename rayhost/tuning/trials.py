"""Runs what tuning asks: quantize a file, judge it, time it, each in a process of its own.

Invariant: files are written only into the workplace it is given, and never more than the disk has
room for.
"""

import statistics
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from rayhost.baseline import bench, child
from rayhost.baseline.calibration import Goal, Settings
from rayhost.baseline.child import ChildFailed
from rayhost.baseline.cpu import Cpu
from rayhost.baseline.spread import Spread, spread
from rayhost.baseline.tasks import Done, Measure, Point, Timed
from rayhost.errors import RayhostError
from rayhost.ipc.messages import Load
from rayhost.models.gguf import GgufInfo
from rayhost.tuning.search import ANSWER, PREFILL, Figures, Weights, cost
from rayhost.tuning.tasks import Answer, Failed, Judge, Judged, Quantize, Written

POINT_S = 0.8
DISTURBED = 0.08  # of the median; trials on a quiet machine spread by 0 to 7 %
MOST_RUNS = 3
TIMEOUT_S = 1800.0  # K types of a model of some billion parameters, on one slow core
ROWS = 32  # of logits at once: 33 MB for the largest vocabularies
WINDOW = 512
STEP_TOKENS = 512
SPARE = 32  # tokens of a context beside history and turn

_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def passage() -> str:
    """Return the text that files are judged by: English prose from before 1900."""
    return (resources.files("rayhost.tuning") / "passage.txt").read_text(encoding="utf-8")


class Trials:
    """Measures on this host, for requests of `sequences` chats that are `depth` tokens deep."""

    def __init__(self, cpu: Cpu, sequences: int, depth: int) -> None:
        self._cpu = cpu
        self._sequences = sequences
        self._depth = depth

    @property
    def _context(self) -> int:
        return self._depth + max(PREFILL, ANSWER) + SPARE

    def check(self, info: GgufInfo) -> None:
        """Raise RayhostError for a depth that is beyond what the model was trained for."""
        if info.context_length is not None and self._context > info.context_length:
            raise RayhostError(
                f"--depth {self._depth} leaves no room for a turn of {self._context - self._depth} "
                f"tokens: the model was trained for {info.context_length:,}"
            )

    def quantize(self, source: Path, weights: Weights, folder: Path) -> Path:
        """Write the source in other weights into `folder`. Raises ChildFailed."""
        target = folder / f"{weights.label}.gguf"
        task = Quantize(
            str(source), str(target), weights.file_type, weights.embedding, self._cpu.cores
        )
        self._lab(task, Written)
        return target

    def judge(self, reference: Path, candidate: Path, settings: Settings) -> Judged:
        """Compare a file, run with these settings, to the reference. Raises ChildFailed."""
        plain = self._load(reference, Settings(), sequences=1, context=WINDOW)
        judged = self._load(candidate, settings, sequences=1, context=WINDOW)
        task = Judge(
            msgspec.structs.replace(plain, outputs=ROWS, batch=ROWS),
            msgspec.structs.replace(judged, outputs=ROWS, batch=ROWS),
            passage(),
        )
        answer = self._lab(task, Judged)
        if not isinstance(answer, Judged):
            raise ChildFailed(f"the lab answered {answer}")
        return answer

    def measure(self, path: Path, settings: Settings) -> Figures:
        """Time a file with some settings; the steadiest run counts. Raises ChildFailed.

        A run that other processes disturbed is repeated: it would refuse what is really better.
        """
        runs = [self._run(path, settings)]
        while runs[-1].noise > DISTURBED and len(runs) < MOST_RUNS:
            runs.append(self._run(path, settings))
        return min(runs, key=lambda run: run.noise)

    def _run(self, path: Path, settings: Settings) -> Figures:
        points = (
            Point("prefill", 1, self._depth, PREFILL),
            Point("generate", 1, self._depth),
            Point("generate", self._sequences, self._depth),
        )
        load = self._load(path, settings, sequences=self._sequences, context=self._context)
        rates: dict[int, Spread] = {}
        peak = 0
        for answer in bench.probe(Measure(load, points, POINT_S, TIMEOUT_S), TIMEOUT_S):
            if isinstance(answer, Timed):
                rates[answer.point] = spread(answer.tokens_s)
            elif isinstance(answer, Done):
                peak = answer.peak_bytes
        if set(rates) != {0, 1, 2}:
            raise ChildFailed("the probe did not time every point")
        return Figures(rates[0], rates[1], rates[2], peak)

    def pairs(
        self, goal: Goal, source: tuple[Path, Settings], chosen: tuple[Path, Settings], count: int
    ) -> tuple[Spread, Figures, Figures]:
        """Measure both in turn, `count` times; return the gain and the figures of the last pair.

        The gain is the ratio of costs, above 1 where the choice is better. Raises ChildFailed.
        """
        ratios = []
        befores, afters = [], []
        for _ in range(count):
            befores.append(self.measure(*source))
            afters.append(self.measure(*chosen))
            ratios.append(cost(goal, befores[-1]) / cost(goal, afters[-1]))
        return spread(ratios), _middle(befores), _middle(afters)

    def _lab(self, task: Quantize | Judge, last: type[Written | Judged]) -> Answer:
        answers = child.run(
            "rayhost.tuning.lab", task, _answers, last=last, refusal=Failed, timeout_s=TIMEOUT_S
        )
        return list(answers)[-1]

    def _load(self, path: Path, settings: Settings, *, sequences: int, context: int) -> Load:
        return Load(
            name="tuning",
            path=str(path),
            context=context,
            concurrency=sequences,
            batch=STEP_TOKENS,
            threads=settings.threads or self._cpu.cores,
            cpus=self._cpu.ids,
            kv_type=settings.kv_type,
            kv_layout=settings.kv_layout,
            inter_token_ms=100,
            log_format="json",
            ubatch=settings.ubatch,
            flash_attention=settings.flash,
        )


def _middle(runs: list[Figures]) -> Figures:
    """Return, figure by figure, the run in the middle of all."""

    def of(rates: Sequence[Spread]) -> Spread:
        return sorted(rates, key=lambda rate: rate.median)[len(rates) // 2]

    peak = int(statistics.median(run.peak_bytes for run in runs))
    return Figures(
        of([run.prefill for run in runs]),
        of([run.alone for run in runs]),
        of([run.together for run in runs]),
        peak,
    )

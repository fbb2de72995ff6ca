"""Tuning as a whole: weights first, judged and timed, then the knobs, then the choice against the
source in alternating pairs. Callers hand in a workplace; what they keep of the result is theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rayhost.baseline.calibration import Goal, Settings
from rayhost.baseline.child import ChildFailed
from rayhost.baseline.spread import Spread
from rayhost.errors import RayhostError
from rayhost.tuning import search
from rayhost.tuning.quality import Limits
from rayhost.tuning.search import Figures, Trial, Weights
from rayhost.tuning.tasks import Judged

PAIRS = 3
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})

Report = Callable[[str, float], None]


class Bench(Protocol):
    """What `trials.Trials` does; tests give another."""

    def quantize(self, source: Path, weights: Weights, folder: Path) -> Path:
        """Write the source in other weights."""
        ...

    def judge(self, reference: Path, candidate: Path, settings: Settings) -> Judged:
        """Compare a file's predictions to the reference's."""
        ...

    def measure(self, path: Path, settings: Settings) -> Figures:
        """Time a file."""
        ...

    def pairs(
        self, goal: Goal, source: tuple[Path, Settings], chosen: tuple[Path, Settings], count: int
    ) -> tuple[Spread, Figures, Figures]:
        """Time two in turn."""
        ...


@dataclass(frozen=True, slots=True)
class Tried:
    """One line of the table: what was tried, what it cost, and why it was not taken, if so."""

    label: str
    settings: Settings
    size_bytes: int
    figures: Figures | None
    judged: Judged | None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What tuning found. `path` None: the source's own file is the best."""

    weights: Weights | None
    path: Path | None
    settings: Settings
    gain: Spread | None  # None where the source with its defaults is the best
    before: Figures
    after: Figures
    judged: Judged | None
    tried: tuple[Tried, ...]


@dataclass(slots=True)
class Search:
    """One tuning run."""

    bench: Bench
    goal: Goal
    limits: Limits
    served: Path  # the file that is served now: what speed is compared with
    reference: Path  # what candidates are made of and judged by
    folder: Path
    weights: tuple[Weights, ...]
    report: Report
    _tried: list[Tried] = field(default_factory=list)
    _paths: dict[Weights | None, Path] = field(default_factory=dict)
    _too_costly: list[Trial] = field(default_factory=list)  # in quality

    def run(self, axes: tuple[tuple[dict[str, object], ...], ...]) -> Outcome:
        """Search. Raises RayhostError where the served file itself cannot be measured."""
        steps = len(self.weights) + sum(len(axis) for axis in axes) + 2
        self.report("the file as it is", 0.0)
        self._paths[None] = self.served
        try:
            source = Trial(None, Settings(), self.bench.measure(self.served, Settings()))
            own = self._own_quality()
        except ChildFailed as error:
            raise RayhostError(f"{self.served}: cannot be measured: {error}") from error
        if own is not None and self.limits.broken(own):
            raise RayhostError(
                f"{self.reference}: is not {self.served.name} in higher precision: their answers "
                f"differ too much ({', '.join(self.limits.broken(own))})"
            )
        self._note(source, own)
        trials = []
        for number, weights in enumerate(self.weights, 1):
            self.report(f"weights {weights.label}", number / steps)
            trial = self._try_weights(weights)
            trials += [trial] if trial else []
        start = search.best_of(self.goal, trials, source)
        done = len(self.weights)

        def attempt(settings: Settings) -> Trial | None:
            nonlocal done
            done += 1
            self.report(f"{start.label}: {describe(settings)}", min(done / steps, 0.9))
            return self._try_settings(start, settings)

        best = search.descend(self.goal, start, source, axes, attempt)
        self._try_refused(start, best.settings)
        self.report("the choice against the file as it is, in turn", 0.92)
        return self._outcome(source, best)

    def _own_quality(self) -> Judged | None:
        """Judge the served file, where candidates are made of a better one."""
        if self.served == self.reference:
            return None
        return self.bench.judge(self.reference, self.served, Settings())

    def _try_weights(self, weights: Weights) -> Trial | None:
        try:
            path = self.bench.quantize(self.reference, weights, self.folder)
            judged = self.bench.judge(self.reference, path, Settings())
        except ChildFailed as error:
            self._tried.append(Tried(weights.label, Settings(), 0, None, None, (str(error),)))
            return None
        self._paths[weights] = path
        if broken := self.limits.broken(judged):
            # Timed all the same: the operator is told what the limits cost.
            trial = self._timed(weights, Settings(), judged, broken)
            self._too_costly += [trial] if trial else []
            path.unlink()
            return None
        return self._timed(weights, Settings(), judged)

    def _try_refused(self, start: Trial, settings: Settings) -> None:
        """Time the best refused weights with the settings that were chosen, for the table."""
        best = search.best_of(self.goal, self._too_costly, start)
        if best is start or best.weights is None or settings == Settings():
            return
        self.report(f"{best.label}, which a limit refused: {describe(settings)}", 0.91)
        try:
            path = self.bench.quantize(self.reference, best.weights, self.folder)
            judged = self.bench.judge(self.reference, path, settings)
        except ChildFailed as error:
            self._tried.append(Tried(best.label, settings, 0, None, None, (str(error),)))
            return
        # Settings mend no weights: what was refused stays so, even where a last digit says less.
        why = self.limits.broken(judged) or ("the weights alone break a limit",)
        self._timed(best.weights, settings, judged, why)
        path.unlink()

    def _try_settings(self, start: Trial, settings: Settings) -> Trial | None:
        path, judged = self._paths[start.weights], None
        if changes_results(settings):
            try:
                judged = self.bench.judge(self.reference, path, settings)
            except ChildFailed as error:
                self._refuse(start.label, settings, path, None, (str(error),))
                return None
            if broken := self.limits.broken(judged):
                self._refuse(start.label, settings, path, judged, broken)
                return None
        return self._timed(start.weights, settings, judged)

    def _timed(
        self,
        weights: Weights | None,
        settings: Settings,
        judged: Judged | None,
        broken: tuple[str, ...] = (),
    ) -> Trial | None:
        path = self._paths[weights]
        try:
            trial = Trial(weights, settings, self.bench.measure(path, settings))
        except ChildFailed as error:
            label = weights.label if weights else "as it is"
            self._refuse(label, settings, path, judged, (*broken, str(error)))
            return None
        self._note(trial, judged, broken)
        return trial

    def _outcome(self, source: Trial, best: Trial) -> Outcome:
        unchanged = Outcome(
            None, None, source.settings, None, source.figures, source.figures, None,
            tuple(self._tried),
        )  # fmt: skip
        if best is source:
            return unchanged
        path = self._paths[best.weights]
        gain, before, after = self.bench.pairs(
            self.goal, (self.served, Settings()), (path, best.settings), PAIRS
        )
        if gain.median <= 1.0:  # what won a single trial lost in turn with the file as it is
            return unchanged
        judged = self.bench.judge(self.reference, path, best.settings)
        return Outcome(
            weights=best.weights,
            path=path if best.weights else None,
            settings=best.settings,
            gain=gain,
            before=before,
            after=after,
            judged=judged,
            tried=tuple(self._tried),
        )

    def _note(self, trial: Trial, judged: Judged | None, broken: tuple[str, ...] = ()) -> None:
        size = self._paths[trial.weights].stat().st_size
        self._tried.append(Tried(trial.label, trial.settings, size, trial.figures, judged, broken))

    def _refuse(
        self,
        label: str,
        settings: Settings,
        path: Path,
        judged: Judged | None,
        why: tuple[str, ...],
    ) -> None:
        size = path.stat().st_size
        self._tried.append(Tried(label, settings, size, None, judged, why))


def changes_results(settings: Settings) -> bool:
    """Tell whether settings change what a model computes, beyond the order of sums."""
    return settings.kv_type != "f16"


def describe(settings: Settings) -> str:
    """Name what differs from the defaults."""
    plain = Settings()
    changed = [
        f"{name.replace('_', ' ')} {getattr(settings, name)}"
        for name in Settings.__struct_fields__
        if getattr(settings, name) != getattr(plain, name)
    ]
    return ", ".join(changed) or "default settings"


def warning(quantization: str) -> str | None:
    """Return what to say of a source that has already lost precision."""
    if quantization in UNQUANTIZED:
        return None
    return (
        f"the source is {quantization}, already quantized: quantizing it again adds to its loss, "
        "and the quality figures compare with it, not with the original; "
        "give an F16 or BF16 file of the model with --source where you can"
    )

"""What is tried, what counts as better, and what is chosen. Pure: trials come in as a callable.

Every goal is a cost of one and the same request, so that no figure is won by ruining another: a
turn of `PROMPT` tokens behind a history, and an answer of `ANSWER` tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from rayhost.baseline.calibration import Goal, Settings
from rayhost.baseline.spread import Spread
from rayhost.baseline.tasks import PROMPT

ANSWER = 128  # tokens
PREFILL = 256  # tokens of a timed prefill: those of a turn would all fit the smaller micro-batches
MARGIN = 0.03  # a gain below this is not worth leaving the default for
SLOWER = 1.10  # for memory, a request may take this much longer than with the source


class Weights(msgspec.Struct, frozen=True):
    """A type for the weights; `embedding` is for token embeddings and output, None: the usual."""

    file_type: str
    embedding: str | None = None

    @property
    def label(self) -> str:
        """Name it for people and files."""
        return self.file_type + (f"+emb-{self.embedding}" if self.embedding else "")


WEIGHTS = (
    Weights("Q4_0", "Q4_0"),
    Weights("Q4_0"),
    Weights("Q4_0", "Q8_0"),
    Weights("Q4_K_M"),
    Weights("Q5_K_M"),
    Weights("Q6_K"),
    Weights("Q8_0", "Q4_0"),
    Weights("Q8_0"),
)


class Figures(msgspec.Struct, frozen=True):
    """What a trial measured: rates in tokens per second, the process's peak memory in bytes."""

    prefill: Spread
    alone: Spread  # generating for one sequence
    together: Spread  # for all of them
    peak_bytes: int

    @property
    def noise(self) -> float:
        """The widest relative spread of the rates."""
        return max(rate.relative for rate in (self.prefill, self.alone, self.together))


@dataclass(frozen=True, slots=True)
class Trial:
    """Some weights with some settings, and what they measured; weights None are the source's."""

    weights: Weights | None
    settings: Settings
    figures: Figures

    @property
    def label(self) -> str:
        """Name the weights."""
        return self.weights.label if self.weights else "as it is"


def request_s(figures: Figures, generate: Spread) -> float:
    """Return the seconds of compute that a request takes."""
    return PROMPT / figures.prefill.median + ANSWER / generate.median


def cost(goal: Goal, figures: Figures) -> float:
    """Return what the goal wants small: seconds for a request, or bytes."""
    match goal:
        case "latency":
            return request_s(figures, figures.alone)
        case "throughput":
            return request_s(figures, figures.together)
        case "memory":
            return float(figures.peak_bytes)


def admissible(goal: Goal, figures: Figures, source: Figures) -> bool:
    """Tell whether a trial may win at all: memory must not be bought with any loss of speed."""
    if goal != "memory":
        return True
    return request_s(figures, figures.together) <= SLOWER * request_s(source, source.together)


def better(goal: Goal, figures: Figures, than: Figures) -> bool:
    """Tell whether the cost is lower by more than the margin and more than both spreads."""
    noise = 0.0
    if goal != "memory":
        part = "alone" if goal == "latency" else "together"
        noise = max(getattr(each, part).relative for each in (figures, than))
    return cost(goal, figures) < cost(goal, than) * (1 - max(MARGIN, noise))


def axes(cores: int, cpus: int) -> tuple[tuple[dict[str, Any], ...], ...]:
    """Return, knob by knob, the changes that are tried, the most telling knob first.

    q8_0 cells need flash attention, so the two are one knob.
    """
    threads = sorted({1, max(1, cores // 2), cores, cpus})
    return (
        tuple({"threads": count} for count in threads if count != cores),
        ({"kv_layout": "unified"},),
        ({"kv_type": "q8_0"}, {"flash_attention": True}),
        ({"ubatch": 64}, {"ubatch": 128}),
    )


def neighbours(settings: Settings, axis: tuple[dict[str, Any], ...]) -> Iterator[Settings]:
    """Yield the settings with each change of a knob, but for those that are no change."""
    for change in axis:
        changed = msgspec.structs.replace(settings, **change)
        if changed != settings:
            yield changed


def best_of(goal: Goal, trials: list[Trial], source: Trial) -> Trial:
    """Return the admissible trial of the least cost, or the source where none beats it."""
    able = [trial for trial in trials if admissible(goal, trial.figures, source.figures)]
    best = min(able, key=lambda trial: cost(goal, trial.figures), default=source)
    return best if better(goal, best.figures, source.figures) else source


def descend(
    goal: Goal,
    start: Trial,
    source: Trial,
    knobs: tuple[tuple[dict[str, Any], ...], ...],
    attempt: Callable[[Settings], Trial | None],
) -> Trial:
    """Turn one knob after another, each time keeping what is better.

    `attempt` measures some settings with the weights of `start`; None is for what does not run or
    costs too much quality.
    """
    best = start
    for axis in knobs:
        for settings in neighbours(best.settings, axis):
            trial = attempt(settings)
            if (
                trial is not None
                and admissible(goal, trial.figures, source.figures)
                and better(goal, trial.figures, best.figures)
            ):
                best = trial
    return best

"""What tuning bought and what it cost, for a terminal. Pure but for rich."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rayhost.baseline.calibration import Goal, Settings
from rayhost.baseline.report import rate
from rayhost.baseline.tasks import PROMPT
from rayhost.tuning.search import ANSWER, PREFILL, Figures, cost
from rayhost.tuning.tasks import Judged
from rayhost.tuning.tune import Outcome, Tried, describe


def table(outcome: Outcome, sequences: int) -> Table:
    """Return every trial with its figures; `!` marks those that broke a limit."""
    view = Table(box=None, pad_edge=False, header_style="bold")
    view.add_column("weights, settings", overflow="fold", min_width=16)
    for name in ("file", "prompt", "1 seq", f"{sequences} seq", "RAM", "KL", "top-1", "ppl"):
        view.add_column(name, justify="right", no_wrap=True)
    for tried in outcome.tried:
        view.add_row(*(Text(cell) for cell in _cells(tried)))
    return view


LEGEND = (
    "file and RAM in MB; prompt and sequences in tokens/s, ± half the distance of the quartiles; "
    "KL in nats, top-1 agreement and the ratio of perplexities against the source; ! is refused"
)


def refusals(outcome: Outcome, goal: Goal, sequences: int) -> list[str]:
    """Return a line for each trial that was refused: why, and what it would have been worth."""
    lines = []
    widen = False
    for tried in outcome.tried:
        if tried.refused:
            worth = ""
            if tried.figures is not None:
                gain = cost(goal, outcome.before) / cost(goal, tried.figures)
                rates = tried.figures.together.median / outcome.before.together.median
                worth = (
                    f" ({gain:.2f} times as good for {goal}, "
                    f"{rates:.2f} times the tokens/s of {sequences} sequences)"
                )
                widen |= gain > (outcome.gain.median if outcome.gain else 1.0)
            lines.append(f"refused {_name(tried)}{worth}: {'; '.join(tried.refused)}")
    if widen:
        lines.append(
            "better for the goal, but another model than the source by the limits; they are yours "
            "to widen: --max-divergence, --min-agreement, --max-perplexity"
        )
    return lines


def summary(outcome: Outcome, goal: Goal, sequences: int, depth: int) -> list[str]:
    """Return what was bought and what it cost, one fact a line."""
    if outcome.gain is None:
        return [f"for {goal}, nothing is better than the file as it is with its defaults"]
    before, after = outcome.before, outcome.after
    label = outcome.weights.label if outcome.weights else "the file as it is"
    lines = [
        f"for {goal}: {label}, {describe(outcome.settings)}: {rate(outcome.gain, 1, 2)} times "
        "as good, median (quartiles) of alternating pairs",
        f"bought: prompts {_times(before, after, 'prefill')}, one sequence "
        f"{_times(before, after, 'alone')}, {sequences} sequences "
        f"{_times(before, after, 'together')} tokens/s; memory "
        f"{before.peak_bytes / 1e6:,.0f} to {after.peak_bytes / 1e6:,.0f} MB",
    ]
    if outcome.judged is not None:
        judged = outcome.judged
        lines.append(
            f"cost: KL divergence {judged.divergence:.4f} nats, the same most likely token at "
            f"{judged.agreement:.1%} of {judged.positions:,} positions, perplexity "
            f"{judged.reference_perplexity:.2f} to {judged.perplexity:.2f}"
        )
    lines.append(
        f"weighed as {PROMPT}-token turns with {ANSWER}-token answers, {depth} tokens deep; "
        f"prompts timed {PREFILL} tokens at a time"
    )
    return lines


def render(outcome: Outcome, goal: Goal, sequences: int, depth: int) -> RenderableType:
    """Return the table, what was refused, and the summary."""
    lines = [
        LEGEND,
        "",
        *refusals(outcome, goal, sequences),
        "",
        *summary(outcome, goal, sequences, depth),
    ]
    return Group(table(outcome, sequences), Text(), *(Text(line) for line in lines))


def _times(before: Figures, after: Figures, part: str) -> str:
    old, new = getattr(before, part).median, getattr(after, part).median
    return f"{old:,.0f} to {new:,.0f} ({new / old:.2f}x)"


def _cells(tried: Tried) -> tuple[str, ...]:
    figures: tuple[str, ...] = ("",) * 4
    if tried.figures is not None:
        rates = (tried.figures.prefill, tried.figures.alone, tried.figures.together)
        figures = (
            *(f"{figure.median:,.0f} ±{figure.relative:.0%}" for figure in rates),
            f"{tried.figures.peak_bytes / 1e6:,.0f}",
        )
    return (
        _name(tried) + (" !" if tried.refused else ""),
        f"{tried.size_bytes / 1e6:,.0f}" if tried.size_bytes else "",
        *figures,
        *_quality(tried.judged),
    )


def _name(tried: Tried) -> str:
    return (
        tried.label
        if tried.settings == Settings()
        else f"{tried.label}, {describe(tried.settings)}"
    )


def _quality(judged: Judged | None) -> tuple[str, str, str]:
    if judged is None:
        return ("", "", "")
    ratio = judged.perplexity / judged.reference_perplexity
    return (f"{judged.divergence:.3f}", f"{judged.agreement:.0%}", f"{ratio:.2f}x")

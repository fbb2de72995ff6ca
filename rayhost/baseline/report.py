"""A baseline for a terminal: tables of medians, each with its quartiles. Pure but for rich."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rayhost.baseline.records import Bandwidth, Baseline, ModelBaseline, Quiet
from rayhost.baseline.spread import Spread
from rayhost.baseline.tasks import PROMPT

NOISY = 0.05  # of the machine's CPU time; from there on a report says that it was not quiet


def rate(figure: Spread, scale: float = 1.0, digits: int = 0) -> str:
    """Return a figure with its quartiles, as `117 (110 to 121)`."""
    median, low, high = (
        f"{value / scale:,.{digits}f}" for value in (figure.median, figure.low, figure.high)
    )
    return f"{median} ({low} to {high})"


def host_lines(baseline: Baseline) -> list[str]:
    """Return what is known of the machine, one fact a line."""
    cpu = baseline.cpu
    cores = f"{cpu.cores} core{'s'[: cpu.cores > 1]}"
    lines = [
        f"{cpu.model}, {cpu.architecture}: {cores}, {cpu.cpus} usable CPUs",
        f"instruction sets: {', '.join(cpu.flags) or 'none of those that matter'}",
        *(read_line(read) for read in baseline.memory),
    ]
    if told := noise(baseline.quiet):
        lines.append(told)
    return [*lines, *baseline.failed]


def noise(quiet: Quiet) -> str | None:
    """Return what to say of a machine that did other work meanwhile."""
    if max(quiet.others, quiet.stolen) < NOISY:
        return None
    return (
        f"the machine was not quiet: other processes took {quiet.others:.0%} of its CPU time, "
        f"other machines {quiet.stolen:.0%}; measure again when it is"
    )


def read_line(read: Bandwidth) -> str:
    """Return one memory figure."""
    where = "beyond the caches" if read.beyond_cache else "which caches may hold"
    threads = f"{read.threads} thread{'s'[: read.threads > 1]}"
    return (
        f"memory read, {threads}: {rate(read.bytes_s, 1e9, 1)} GB/s "
        f"over {read.size_bytes / 1e6:,.0f} MB, {where}"
    )


def model_lines(model: ModelBaseline) -> list[str]:
    """Return what the tables do not show of a model, one fact a line."""
    lines = [
        f"{model.name}: {model.quantization}, {model.parameters / 1e6:,.0f} M parameters, "
        f"{model.weight_bytes / 1e6:,.1f} MB of weights, loads in {rate(model.load_ms)} ms"
    ]
    if model.memory is not None:
        lines.append(
            f"memory: {model.memory.at_rest / 1e6:,.0f} MB with one sequence of "
            f"{model.memory.context:,} tokens, {model.memory.per_sequence / 1e6:,.1f} MB for each "
            "further one"
        )
    if first := model.find("prefill", 1):
        lines.append(
            f"time to first token of a {PROMPT}-token prompt: {rate(first.step_ms, 1, 1)} ms"
        )
    if alone := model.find("generate", 1):
        lines.append(
            f"generation at batch 1 is at {alone.tokens_s.median / model.limit_tokens_s:.0%} of "
            f"{model.limit_tokens_s:,.0f} tokens/s, where reading the weights once for each token "
            f"would be all it took ({rate(model.weights_read.bytes_s, 1e9, 1)} GB/s over "
            f"{model.weights_read.size_bytes / 1e6:,.0f} MB)"
        )
    lines += [f"not measured: {what}" for what in model.missing]
    return lines


def table(model: ModelBaseline) -> Table:
    """Return every row that was timed."""
    view = Table(box=None, pad_edge=False, header_style="bold")
    # Narrow enough for 80 columns: the step is the rate again, so it goes without its spread.
    for name in ("", "depth", "batch", "thr.", "KV", "tokens/s", "step ms", "runs"):
        view.add_column(name, justify="left" if name in {"", "KV"} else "right", no_wrap=True)
    for row in sorted(
        model.rows, key=lambda row: (row.kind, row.depth, row.sequences, row.threads, row.kv_layout)
    ):
        view.add_row(
            row.kind,
            f"{row.depth:,}",
            f"{row.sequences}" if row.kind == "generate" else "",
            f"{row.threads}",
            row.kv_layout,
            rate(row.tokens_s),
            f"{row.step_ms.median:,.1f}",
            f"{row.tokens_s.runs}",
        )
    return view


def render(baseline: Baseline) -> RenderableType:
    """Return the whole report: medians, and in brackets the quartiles."""
    parts: list[RenderableType] = [Text(line) for line in host_lines(baseline)]
    for model in baseline.models:
        parts += [Text(), *(Text(line) for line in model_lines(model)), table(model)]
    parts += [
        Text(),
        Text(
            f"median (quartiles) of repeated runs; prefill is of {PROMPT} tokens; "
            f"{baseline.seconds:.0f} s in all"
        ),
    ]
    return Group(*parts)

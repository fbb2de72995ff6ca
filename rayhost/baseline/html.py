"""A baseline as one page that needs nothing else: no script, no font, no address. Pure."""

from html import escape

from rayhost import __version__
from rayhost.baseline.charts import Bar, Line, bars, lines
from rayhost.baseline.records import Baseline, ModelBaseline, Row
from rayhost.baseline.report import host_lines, model_lines, rate
from rayhost.baseline.spread import Spread
from rayhost.baseline.tasks import PROMPT

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fff; --faint: #d8dde6;
  --c0: #2563eb; --c1: #ea580c; --c2: #059669; --c3: #9333ea; --c4: #db2777; --c5: #b7950b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --paper: #14181f; --faint: #39414f;
  --c0: #6ea8fe; --c1: #fb923c; --c2: #34d399; --c3: #c084fc; --c4: #f472b6; --c5: #facc15; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1rem }
figure { margin: 0; max-width: 580px; border: 1px solid var(--faint); border-radius: 8px;
  padding: .8rem }
figcaption { font-weight: 600 } svg { width: 100%; height: auto }
.small { font-size: 11px; fill: var(--ink) }
.middle { text-anchor: middle } .end { text-anchor: end }
.grid { stroke: var(--faint) } .limit { stroke: var(--ink); stroke-dasharray: 5 4 }
.line { fill: none; stroke-width: 2.2 } .whisker { stroke-width: 1.4 } .ink { stroke: var(--ink) }
.key { margin-right: 1rem; font-size: 13px } .key i { display: inline-block; width: .8em;
  height: .8em; border-radius: 2px; margin-right: .35em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid var(--faint) }
"""
_COLOURS = "".join(
    f".line.s{n}, .whisker.s{n} {{ stroke: var(--c{n}) }} .dot.s{n}, .bar.s{n} "
    f"{{ fill: var(--c{n}) }} .key .s{n} {{ background: var(--c{n}) }}\n"
    for n in range(6)
)


def page(baseline: Baseline) -> str:
    """Return the page."""
    title = f"rayhost bench: {baseline.cpu.model}"
    facts = "".join(f"<li>{escape(line)}</li>" for line in host_lines(baseline))
    memory = bars(
        "Memory read, GB/s",
        [
            Bar(f"{read.threads} thread{'s'[: read.threads > 1]}", _scaled(read.bytes_s, 1e9))
            for read in baseline.memory
        ],
    )
    models = "".join(_model(model) for model in baseline.models)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{_COLOURS}</style></head><body>"
        f"<h1>{escape(title)}</h1><ul>{facts}</ul>"
        f'<div class="charts">{memory}</div>{models}'
        f"<p>Points and bars are medians, whiskers quartiles, of repeated runs. Taken "
        f"{escape(baseline.taken_at)} in {baseline.seconds:.0f} s by rayhost {__version__}.</p>"
        "</body></html>\n"
    )


def _model(model: ModelBaseline) -> str:
    facts = "".join(f"<li>{escape(line)}</li>" for line in model_lines(model))
    depths = sorted({row.depth for row in model.rows})
    charts = [
        *(_generation(model, depth) for depth in depths),
        _prefill(model),
        _alone(model),
    ]
    return (
        f"<h2>{escape(model.name)}</h2><ul>{facts}</ul>"
        f'<div class="charts">{"".join(charts)}</div>{_table(model)}'
    )


def _generation(model: ModelBaseline, depth: int) -> str:
    rows = {
        (row.threads, row.kv_layout, row.sequences): row.tokens_s
        for row in model.rows
        if row.kind == "generate" and row.depth == depth
    }
    batches = sorted({batch for _, _, batch in rows})
    kinds = sorted({(threads, layout) for threads, layout, _ in rows})
    drawn = [
        Line(
            f"{threads} thread{'s'[: threads > 1]}, {layout} KV",
            tuple(rows.get((threads, layout, batch)) for batch in batches),
        )
        for threads, layout in kinds
    ]
    title = f"Generated tokens/s, {depth:,} tokens deep"
    return lines(title, "sequences in the batch", [str(batch) for batch in batches], drawn)


def _prefill(model: ModelBaseline) -> str:
    rows = [row for row in model.rows if row.kind == "prefill" and row.kv_layout == "split"]
    drawn = [
        Bar(f"{row.threads} thr., {row.depth:,} deep", row.tokens_s)
        for row in sorted(rows, key=lambda row: (row.depth, row.threads))
    ]
    return bars(f"Prefill tokens/s, {PROMPT}-token prompt, split KV", drawn)


def _alone(model: ModelBaseline) -> str:
    best: dict[int, Row] = {}
    for row in model.rows:
        if (row.kind, row.sequences, row.depth) == ("generate", 1, 0):
            known = best.setdefault(row.threads, row)
            if row.tokens_s.median > known.tokens_s.median:
                best[row.threads] = row
    drawn = [
        Bar(f"{threads} thread{'s'[: threads > 1]}", row.tokens_s)
        for threads, row in sorted(best.items())
    ]
    limit = ("limit of reading the weights", model.limit_tokens_s)
    return bars("Generated tokens/s at batch 1 against memory", drawn, limit)


def _table(model: ModelBaseline) -> str:
    head = ("", "depth", "batch", "threads", "KV", "tokens/s", "step ms", "runs")
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)) + "</tr>"
        for row in model.rows
    )
    cells = "".join(f"<th>{name}</th>" for name in head)
    return (
        f"<details><summary>Every figure</summary><table><tr>{cells}</tr>{body}</table></details>"
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.kind,
        f"{row.depth:,}",
        str(row.sequences),
        str(row.threads),
        row.kv_layout,
        rate(row.tokens_s),
        rate(row.step_ms, 1, 1),
        str(row.tokens_s.runs),
    )


def _scaled(figure: Spread, unit: float) -> Spread:
    return Spread(figure.median / unit, figure.low / unit, figure.high / unit, figure.runs)

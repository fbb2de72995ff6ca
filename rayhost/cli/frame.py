"""One frame of `rayhost top`: pure, from one state of a host, or two for rates. For 80 columns."""

from collections import Counter
from textwrap import shorten

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rayhost.front.state import HostState, ModelState

_OTHER_LINES = 10  # title, totals, blank lines, and the headings of the two tables

_COLUMNS = 80
_FELT = 0.01  # of a CPU


def frame(now: HostState, before: HostState | None, height: int) -> RenderableType:
    """Return the frame, of at most `height` lines where the models leave room for requests."""
    lines = _OTHER_LINES + bool(now.memory.rungs) + bool(_waiting(now)) + len(now.models)
    lines += bool(_refused(now, before)) + bool(_kept_back(now, before))
    rows = max(1, height - lines)
    return Group(
        _title(now),
        _totals(now, before),
        Text(),
        _models(now, before),
        Text(),
        _requests(now, rows),
    )


def _title(now: HostState) -> Text:
    going = "  going down" if now.draining else ""
    return Text(f"rayhost {now.version}  {now.url}  up {_span(now.uptime_s)}{going}", "bold")


def _totals(now: HostState, before: HostState | None) -> Text:
    lookups = now.cache.lookups
    known = lookups.get("hit", 0) + lookups.get("joined", 0)
    asked = known + lookups.get("miss", 0)
    share = f", {known / asked:.0%} of {asked:,} reused" if asked else ""
    return Text(
        f"front {_size(now.front_rss_bytes)}  free {_size(now.available_bytes)}  "
        f"{now.connections} connections\n"
        f"cache {now.cache.entries:,} answers, {_size(now.cache.bytes)}{share}\n"
        f"{_memory(now)}{_kept_back(now, before)}{_waiting(now)}{_refused(now, before)}"
    )


def _memory(now: HostState) -> str:
    memory = now.memory
    given_up = f"\ngiven up: {', '.join(memory.rungs)} ({memory.reason})" if memory.rungs else ""
    return (
        f"memory {_size(memory.used_bytes)} of {_size(memory.limit_bytes)}, "
        f"need {_size(memory.needed_bytes)} of {_size(memory.allowed_bytes)}{given_up}"
    )


def _kept_back(now: HostState, before: HostState | None) -> str:
    """Return a line of what was kept from the host of its CPUs since `before`, where any was."""
    elapsed_s = now.uptime_s - before.uptime_s if before else 0.0
    if before is None or elapsed_s <= 0:
        return ""
    lost = {
        "stopped by quota": (now.cpu.throttled_s - before.cpu.throttled_s) / elapsed_s,
        "stolen": (now.cpu.stolen_s - before.cpu.stolen_s) / elapsed_s,
    }
    told = [f"{cores:.2f} {how}" for how, cores in lost.items() if cores >= _FELT]
    if told and now.cpu.waiting is not None:
        told.append(f"waited {now.cpu.waiting:.0%} of 10 s")
    return f"\ncpu of {now.memory.cores:g} cores: {', '.join(told)}" if told else ""


def _waiting(now: HostState) -> str:
    """Return a line of how many wait with which priority, where any do."""
    sums: Counter[str] = Counter()
    for model in now.models:
        sums.update(model.queued_by_priority)
    told = ", ".join(f"{count:,} {priority}" for priority, count in sums.items() if count)
    return f"\nwaiting: {told}" if told else ""


def _refused(now: HostState, before: HostState | None) -> str:
    """Return a line of the errors a second since `before`, where there were any, by their codes."""
    elapsed_s = now.uptime_s - before.uptime_s if before else 0.0
    if before is None or elapsed_s <= 0:
        return ""
    new = Counter(now.unanswered) - Counter(before.unanswered)
    told = ", ".join(f"{code} {count / elapsed_s:.1f}" for code, count in new.most_common())
    return "\n" + shorten(f"refused/s: {told}", _COLUMNS, placeholder=" ...") if told else ""


def _models(now: HostState, before: HostState | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("model", max_width=18, no_wrap=True, overflow="ellipsis")
    table.add_column("state", max_width=10, no_wrap=True)
    for heading in ("seq", "queue", "kv", "tok/s", "step ms", "rss"):
        table.add_column(heading, justify="right", no_wrap=True)
    earlier = {model.name: model for model in before.models} if before else {}
    for model in now.models:
        past = earlier.get(model.name)
        elapsed_s = now.uptime_s - before.uptime_s if before else 0
        table.add_row(
            *(Text(model.name), Text(model.state)),
            f"{model.active}/{model.concurrency}",
            str(model.queued),
            f"{model.kv_tokens / model.kv_cells:.0%}" if model.kv_cells else "-",
            *_rates(model, past, elapsed_s),
            _size(model.rss_bytes),
        )
    return table


def _rates(now: ModelState, past: ModelState | None, elapsed_s: float) -> tuple[str, str]:
    """Return generated tokens a second and milliseconds a step, since `past`."""
    if past is None or past.pid != now.pid or elapsed_s <= 0:
        return "-", "-"
    steps = now.steps - past.steps
    rate = (now.decode_tokens - past.decode_tokens) / elapsed_s
    return f"{rate:.0f}", f"{(now.step_s - past.step_s) / steps * 1e3:.1f}" if steps else "-"


def _requests(now: HostState, rows: int) -> RenderableType:
    all_of_them = [(model.name, request) for model in now.models for request in model.requests]
    if not all_of_them:
        return Text("no requests", "dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("request", max_width=20, no_wrap=True, overflow="ellipsis")
    table.add_column("model", max_width=14, no_wrap=True, overflow="ellipsis")
    for heading in ("phase", "prio"):
        table.add_column(heading, no_wrap=True)
    for heading in ("prompt", "out", "age"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = all_of_them if len(all_of_them) <= rows else all_of_them[: rows - 1]
    for name, request in shown:
        table.add_row(
            *(Text(request.id), Text(name), request.phase, request.priority),
            *(f"{request.prompt_tokens:,}", f"{request.generated_tokens:,}"),
            _span(request.age_s),
        )
    if len(shown) < len(all_of_them):
        table.add_row(f"and {len(all_of_them) - len(shown)} more")
    return table


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{seconds:.1f}s"

"""Shows a pull's progress on stderr: a bar on a terminal, a line now and then in a log.

Only the verbs that pull (`pull`, `serve`) use it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rayhost.models.fetch import Phase
from rayhost.models.fetch import Progress as Report

UNKNOWN_STEP = 64_000_000  # bytes between two lines where the total is not known
PHASE_TEXT: dict[Phase, str] = {
    "waiting": "waiting for another pull of it",
    "downloading": "downloading",
    "extracting": "extracting",
    "converting": "converting",
    "verifying": "verifying",
}


@contextmanager
def download_progress(name: str) -> Iterator[Report]:
    """Yield the callback that a pull of the model `name` reports to."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_report(name, console)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True
    ) as bar:
        task = bar.add_task(escape(name), total=None)
        shown: Phase | None = None

        def report(done: int, total: int | None, phase: Phase) -> None:
            nonlocal shown
            if phase != shown:
                shown = phase
                bar.reset(task, description=f"{escape(name)}: {PHASE_TEXT[phase]}", total=total)
            bar.update(task, completed=done, total=total)

        yield report


def plain_report(name: str, console: Console) -> Report:
    """A callback that prints a line at each new phase and after each tenth of a download."""
    said: tuple[Phase, int] | None = None

    def report(done: int, total: int | None, phase: Phase) -> None:
        nonlocal said
        step = done * 10 // total if total else done // UNKNOWN_STEP
        now = (phase, step if phase == "downloading" else 0)
        if now == said:
            return
        said = now
        size = f" {done / 1e6:,.0f}" + (f" of {total / 1e6:,.0f} MB" if total else " MB")
        line = f"{name}: {PHASE_TEXT[phase]}" + (size if phase == "downloading" else "")
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return report

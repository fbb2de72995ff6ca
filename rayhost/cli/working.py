"""Shows how far a long measurement is, on stderr: a bar on a terminal, a line a step in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def working(name: str) -> Iterator[Callable[[str, float], None]]:
    """Yield the callback that takes what is going on and the share of the work done."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def say(what: str, _done: float) -> None:
            console.print(f"{name}: {what}", markup=False, highlight=False, soft_wrap=True)

        yield say
        return
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(name), total=1.0)

        def show(what: str, done: float) -> None:
            bar.update(task, description=escape(what), completed=done)

        yield show

"""A pull in a process of its own that can be stopped at a known point and then killed.

    python -m tests.support.gated_pull ROOT NAME SOURCE GATE

Each phase is a line on stdout when it begins, then `done PATH`; in phase GATE it waits for a line
on stdin.
"""

import sys
from pathlib import Path

from rayhost.models.fetch import Phase
from rayhost.models.store import Store


def main(root: str, name: str, source: str, gate: str) -> None:
    """Pull, telling each phase."""
    phase_before: Phase | None = None

    def report(done: int, total: int | None, phase: Phase) -> None:
        nonlocal phase_before
        if phase == phase_before:
            return
        phase_before = phase
        sys.stdout.write(f"{phase}\n")
        sys.stdout.flush()
        if phase == gate:
            sys.stdin.readline()

    model = Store(Path(root)).pull(name, source, progress=report)
    sys.stdout.write(f"done {model.path}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A finding of the doctor, and what all of them together mean to a script. Pure."""

from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning", "note"]
_RANKS: dict[Severity, int] = {"error": 2, "warning": 1, "note": 0}


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be; a note is worth knowing, but no fault."""

    check: str  # what was looked at, in a word
    severity: Severity
    what: str
    why: str  # it matters
    fix: str  # the command that mends it, or shows what is to be decided; may be empty
    advice: str = ""  # what no command can do: to be done after it, or instead


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 2 with errors among them, 1 with warnings, 0 with neither."""
    return max((_RANKS[one.severity] for one in findings), default=0)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return them by severity; among equals the order stays."""
    return sorted(findings, key=lambda one: -_RANKS[one.severity])

"""Log lines for systemd's journal, with a field of their own for each thing said. A leaf.

Invariant: a line that the journal does not take goes to stderr, which the journal reads as well,
and nobody waits for either. `logs` asks it; the protocol is systemd's JOURNAL_NATIVE_PROTOCOL.
"""

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import Any

import structlog

ADDRESS = "/run/systemd/journal/socket"
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_ODD = re.compile(r"[^A-Z0-9_]")
_text = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def is_ours(environment: Mapping[str, str]) -> bool:
    """Tell whether the journal reads our stderr; systemd says which file that would be."""
    try:
        about = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return environment.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"


class Journal:
    """A logger for structlog: a method for each level, which takes the event's fields."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def msg(self, event: object = "", level: str = "info", **fields: Any) -> None:
        """Send one event."""
        fields.pop("timestamp", None)  # the journal has its own
        line = f"{event} {_logfmt(fields)}".rstrip()
        entry = {"MESSAGE": line, "PRIORITY": _PRIORITY.get(level, 6), "RAYHOST_EVENT": event}
        entry["SYSLOG_IDENTIFIER"] = "rayhost"
        for name, value in fields.items():
            entry[f"RAYHOST_{_ODD.sub('_', name.upper())}"] = value
        datagram = b"".join(_field(name, value) for name, value in entry.items())
        try:
            self._socket.sendto(datagram, self._address)
        except OSError:  # too long, no room, no journal
            with contextlib.suppress(OSError):
                sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    debug = info = warning = error = critical = exception = msg


class Handler(logging.Handler):
    """The same for libraries that use the standard `logging`."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        fields = {**structlog.contextvars.get_contextvars(), "logger": record.name}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        self._journal.msg(record.getMessage(), record.levelname.lower(), **fields)


def _logfmt(fields: dict[str, Any]) -> str:
    said = {name: value for name, value in fields.items() if value not in (None, "")}
    return str(_text(None, "", {name.replace(" ", "_"): value for name, value in said.items()}))


def _field(name: str, value: object) -> bytes:
    content = str(value).encode(errors="replace")
    if b"\n" not in content:
        return b"%b=%b\n" % (name.encode(), content)
    return b"%b\n%b%b\n" % (name.encode(), len(content).to_bytes(8, "little"), content)

"""Logging for the front and the workers: structlog, one line an event, to stderr. A leaf.

JSON for machines, console for people; where systemd's journal reads stderr, fields of the journal.
Libraries that use the standard `logging` (uvicorn, asyncio) come out in the same format, from
WARNING up. A log that cannot be written stops nobody's work.
"""

import contextlib
import logging
import os
import sys
from typing import Literal

import orjson
import structlog

from rayhost.journal import Handler, Journal, is_ours

LogFormat = Literal["json", "console"]


class _Lines(structlog.PrintLogger):
    """Prints to stderr, and goes on where that fails: a full disk, a pipe that nobody reads.

    The standard library's handlers do so, too; a request must not fail for want of its log line.
    """

    def msg(self, message: str) -> None:
        """Print one line."""
        with contextlib.suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


def configure(log_format: LogFormat, **fixed: str) -> None:
    """Set up logging for this process; `fixed` fields stand in every line (worker, model)."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Console output formats exceptions itself; JSON wants them as a field.
    last: list[structlog.typing.Processor] = (
        [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    sink: _Lines | Journal = _Lines(sys.stderr)
    if log_format == "json" and is_ours(os.environ):
        sink = Journal()
        handler = Handler(sink)
        last = [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**fixed)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _to_json(event: object, **_options: object) -> str:
    return orjson.dumps(event, default=str).decode()

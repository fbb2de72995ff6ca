"""The child process that renders a model's chat template: jinja2's sandbox inside real limits.

A template is code from strangers, and no sandbox bounds what an expression takes: `'a' * 10**9`, a
loop that prints nothing. Here the kernel does: memory by RLIMIT_AS, time by a timer that ends the
process. Run by `engine.template` alone; imports nothing but jinja2, so that it stays small (11 MB
of its own, 48 ms to start; 30 µs a rendering, the pipe included).
"""

import json
import resource
import select
import signal
import struct
import sys
from datetime import UTC, datetime, time
from typing import Any, BinaryIO, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 8 * 1024 * 1024
MAX_MEMORY = 256 << 20  # address space, of which Python has 25 MB
SIZE = struct.Struct("=I")


class Limits(NamedTuple):
    """Seconds: of a CPU for one rendering; without a question until the child ends by itself."""

    cpu_s: float = 2.0
    idle_s: float = 60.0


class Refusal(Exception):
    """Why there is no text: a message, and the error's code."""


class Generation(Extension):
    """`{% generation %}`, which transformers uses to tell what to train on: here, its body."""

    tags = {"generation"}  # noqa: RUF012 - what jinja2 declares it as

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compiled(source: str) -> jinja2.Template:
    """Return a template. Raises Refusal."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(source)
    except MemoryError as error:
        raise _too_much() from error
    # Besides its own errors, those of the Python that jinja2 writes: SyntaxError for too many
    # nested loops, RecursionError, ValueError for a number of 5,000 digits.
    except Exception as error:
        raise Refusal(
            f"the model's chat template does not compile: {error}", "chat_template_invalid"
        ) from error


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Return what the template prints. Raises Refusal."""
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise _too_much()
    except Refusal:
        raise
    except MemoryError as error:
        raise _too_much() from error
    # A template may fail in any way its Python expressions can: TypeError, KeyError, and so on.
    except Exception as error:
        raise Refusal(
            f"the model's chat template refused the messages: {error}", "chat_template_error"
        ) from error
    return "".join(pieces)


def _too_much() -> Refusal:
    return Refusal(
        f"the model's chat template printed more than {MAX_CHARACTERS} characters, or took more "
        f"than {MAX_MEMORY >> 20} MiB to do so",
        "chat_template_limit",
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    """Tell the day, at its midnight: what is asked twice on one has one prompt, and one answer."""
    return datetime.combine(datetime.now(UTC), time.min, UTC).strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` of transformers: plain JSON, not jinja2's HTML-safe one, and its parameters."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def pack(value: object) -> bytes:
    """Return a frame: its length, then JSON. ASCII, so that half a surrogate pair passes too."""
    raw = json.dumps(value).encode("ascii")
    return SIZE.pack(len(raw)) + raw


def _serve(asked: BinaryIO, told: BinaryIO, limits: Limits) -> None:
    """Answer the template's source, then every frame of variables, until nobody asks any more."""
    template: jinja2.Template | None = None
    while select.select([asked], [], [], limits.idle_s)[0]:
        head = asked.read(SIZE.size)
        if not head:
            return
        value = json.loads(asked.read(*SIZE.unpack(head)))
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)  # SIGPROF would end the process
        try:
            if template is None:
                template = compiled(value)
                answer = pack("")
            else:
                answer = pack(rendered(template, value))
        except Refusal as refusal:
            answer = pack(refusal.args)
        signal.setitimer(signal.ITIMER_PROF, 0)
        told.write(answer)
        told.flush()


def main() -> None:
    """Serve on standard input and output; the arguments are the limits."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(sys.stdin.buffer, sys.stdout.buffer, Limits(*map(float, sys.argv[1:])))


if __name__ == "__main__":
    main()

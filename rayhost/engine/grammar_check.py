"""The child process that reads a client's schema or grammar first: compiling it has no other limit.

llguidance bounds nearly everything by itself, but 22 patterns in one `allOf` take it 10 s (and each
further one 2.5 times as long), and a chain of 3,000 `$ref` more stack than a thread has. Here the
kernel ends both: time by a timer of the CPU's, memory by RLIMIT_AS, the stack by its own size, a
fraction of what the worker compiles with. Run by `engine.grammar_checker` alone; of rayhost it
imports only what makes a schema ready.
16 MB of its own, 70 ms to start, 1 to 10 ms a schema; it ends when nobody has asked for a while.
"""

import json
import resource
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits

from rayhost.engine.gbnf import in_lark
from rayhost.engine.schema import closed
from rayhost.engine.schema_numbers import InexactNumber, followable

if TYPE_CHECKING:  # only its stub has it
    from llguidance._lib import JsonCompileOptions

IDLE_S = 60.0
MAX_MEMORY = 768 << 20  # address space
MAX_STACK = 32 << 20
MAX_RULES = 1000  # of a GBNF grammar; its conversion takes time by their square

# A schema cannot change how it is written by an `x-guidance` of its own: these stand instead of it,
# as what they leave out (`whitespace_pattern`) would be the client's.
# Compact where the keys are given: of SmolLM2's answers to a schema of five properties 16 of 16
# ended, after 57 tokens in half the steps that it took with white space where the model likes it,
# which also wandered off into blank lines.
_JSON: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
# Where the keys are the model's own, what it writes without white space is poor: objects in objects
# without end. One space or one indented line is enough for it.
_OBJECT: "JsonCompileOptions" = {
    "whitespace_flexible": True,
    "whitespace_pattern": r" |\n {0,20}",
    "lenient": False,
}
LIMITS = LLParserLimits(
    # What a mask costs is the square of the items in a row. An object has 4 for each property that
    # is not required: 248 of those fit, and the worst ambiguous grammar known takes 50 ms a token.
    max_items_in_row=1000,
    step_max_items=20_000,
    step_lexer_fuel=100_000,
    max_lexer_states=10_000,  # 1 to 2 kB each, and each sequence has its own
    verbose_errors=False,
)


class Invalid(Exception):
    """Why a source is no grammar."""


class Unfinished(Invalid):
    """The time was over before it was known."""


def grammar_of(kind: str, source: str) -> str:
    """Return a constraint as llguidance's own text, not yet checked. Raises Invalid."""
    match kind:
        case "json_schema":
            return _of_schema(source)
        case "json_object":
            return LLMatcher.grammar_from_json_schema('{"type":"object"}', overrides=_OBJECT)
        case "regex":
            return LLMatcher.grammar_from_regex(source)
        case "lark":
            return LLMatcher.grammar_from_lark(source)
        case "gbnf":
            return LLMatcher.grammar_from_lark(_of_gbnf(source))
        case "calls":
            return LLMatcher.grammar_from_lark(_of_calls(source))
    raise Invalid(f"{kind!r} is no kind of grammar")


def _of_schema(source: str) -> str:
    try:
        schema = json.loads(source)
    except RecursionError as error:
        raise Invalid("it is nested too deeply") from error
    except ValueError as error:
        raise Invalid(f"it is no JSON: {error}") from error
    return LLMatcher.grammar_from_json_schema(_written(schema, _JSON))


def _of_calls(source: str) -> str:
    """Return the grammar of calls of functions, as `engine.tools` has it, in Lark."""
    return "".join(
        f"{_in_lark(line, number)}\n" for number, line in enumerate(source.split("\n"), 1)
    )


def _in_lark(line: str, number: int) -> str:
    try:
        rule = json.loads(line)
        if isinstance(rule, str):
            return rule
        head, schema, options = rule
        return f"{head} %json {_written(schema, options)}"
    except RecursionError as error:
        raise Invalid(f"at {number}(1): it is nested too deeply") from error
    except Invalid as error:  # told of its place as llguidance tells of one
        raise Invalid(f"at {number}(1): {error}") from error


def _written(schema: Any, options: "JsonCompileOptions") -> str:
    """Return a schema as it is compiled, with some options and no others. Raises Invalid."""
    if schema is True:
        schema = {}
    if schema is False:
        raise Invalid("no text can match it: it is false")
    if not isinstance(schema, dict):
        raise Invalid("a schema is a JSON object, or true")
    try:
        made = followable(closed(schema))
        return json.dumps({**made, "x-guidance": options}, ensure_ascii=False)
    except RecursionError as error:
        raise Invalid("it is nested too deeply") from error
    except InexactNumber as error:
        raise Invalid(str(error)) from error


def _of_gbnf(source: str) -> str:
    rules = source.count("::=")
    if rules > MAX_RULES:
        raise Invalid(f"it has {rules} rules, and at most {MAX_RULES} are allowed")
    try:
        return in_lark(source)
    except RecursionError as error:
        raise Invalid("it is nested too deeply") from error
    except Exception as error:  # it raises bare ones, for an unknown rule for one
        raise Invalid(str(error)) from error


def check(kind: str, source: str) -> tuple[str, str]:
    """Return llguidance's text of a constraint, or nothing and why there is none."""
    try:
        grammar = grammar_of(kind, source)
    except Invalid as reason:
        return "", str(reason)
    return grammar, LLMatcher.validate_grammar(grammar, limits=LIMITS)


def _serve(idle_s: float) -> None:
    """Answer every line on standard input, a kind, a source and CPU seconds, with a line."""
    while select.select([sys.stdin], [], [], idle_s)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        kind, source, cpu_s = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal, SIGPROF, ends the process
        answer = check(kind, source)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Serve within limits; the argument is how many seconds to wait for a question."""
    with suppress(OSError):  # where there is no memory left, this process is the first to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(MAX_STACK)
    thread = threading.Thread(target=_serve, args=(float(sys.argv[1]),))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()

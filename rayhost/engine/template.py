"""Chat templates: code from strangers, run in jinja2's immutable sandbox under limits.

The limits are checked each time the template yields output, so they stop a template that prints
for ever; a loop that prints nothing can only hold up its own worker's text thread.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rayhost import clock
from rayhost.engine.base import PromptError

MAX_CHARACTERS = 8 * 1024 * 1024
MAX_NS = 2_000_000_000


class ChatTemplate:
    """A compiled template. Raises PromptError where it cannot be compiled or rendered."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        self._special = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        # Besides its own errors, those of the Python that jinja2 writes: SyntaxError for too many
        # nested loops, RecursionError, ValueError for a number of 5,000 digits.
        except Exception as error:
            raise PromptError(
                f"the model's chat template does not compile: {error}", "chat_template_invalid"
            ) from error

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return the prompt text that asks for the assistant's next message."""
        pieces: list[str] = []
        size = 0
        give_up_ns = clock.now_ns() + MAX_NS
        try:
            for piece in self._template.generate(
                messages=list(messages), add_generation_prompt=True, **self._special
            ):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_CHARACTERS or clock.now_ns() > give_up_ns:
                    raise PromptError(
                        f"the model's chat template printed more than {MAX_CHARACTERS} characters "
                        f"or ran longer than {MAX_NS / 1e9:g} s",
                        "chat_template_limit",
                    )
        except PromptError:
            raise
        # A template may fail in any way its Python expressions can: TypeError, KeyError, and so on.
        except Exception as error:
            raise PromptError(
                f"the model's chat template refused the messages: {error}", "chat_template_error"
            ) from error
        return "".join(pieces)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now(UTC).strftime(pattern)


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

"""`chat_template_kwargs` of a body: variables for the model's chat template, in bounds. Pure."""

import re
from typing import Any

from rayhost.errors import InvalidRequest
from rayhost.http.json import encode
from rayhost.http.schema import shown

MAX_OPTIONS = 32
MAX_BYTES = 16 << 10  # as JSON
# What the host tells the template.
RESERVED = frozenset(
    ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "documents")
)
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")
_PARAM = "chat_template_kwargs"


def template_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return them checked. Raises InvalidRequest."""
    if len(given) > MAX_OPTIONS:
        raise _wrong(_PARAM, f"at most {MAX_OPTIONS} are allowed, not {len(given)}")
    for name in given:
        if not _NAME.fullmatch(name):
            raise _wrong(_PARAM, f"{shown(name)!r} cannot be the name of a variable")
        if name in RESERVED:
            raise _wrong(f"{_PARAM}.{name}", "the server says what that is")
    size = len(encode(given))
    if size > MAX_BYTES:
        raise _wrong(_PARAM, f"at most {MAX_BYTES} bytes are allowed, not {size}")
    return given


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}", param=param)

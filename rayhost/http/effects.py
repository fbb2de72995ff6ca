"""Which parameters of a body have no effect, with what else it asks for. Pure.

The rules are those by which `sampling` leaves a way of choosing out, and `canonical` a parameter
out of a key. Used by every shape of API that generates.
"""

from collections.abc import Iterator

import msgspec

from rayhost.http.sampling import XTC_MOST
from rayhost.http.schema import GenerationBody

_TRUNCATIONS = ("top_p", "top_k", "min_p", "typical_p")
_PENALTIES = ("presence_penalty", "frequency_penalty", "repeat_penalty", "repetition_penalty")
_DRY = ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers")

_DEFAULTS = {one.name: one.default for one in msgspec.structs.fields(GenerationBody)}
# Asks for as little as not being given.
_NEUTRAL = {**_DEFAULTS, "repeat_penalty": 1.0, "repetition_penalty": 1.0}


def unused(body: GenerationBody) -> tuple[str, ...]:
    """Return the parameters of a body that ask for something, and to no effect."""
    names = []
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        names.append("stream_options.include_obfuscation")
    if body.service_tier not in ("", "auto", "default"):
        names.append("service_tier")
    names += [name for name in _idle(body) if _asks(body, name)]
    return tuple(names)


def _asks(body: GenerationBody, name: str) -> bool:
    return getattr(body, name) not in (_DEFAULTS[name], _NEUTRAL[name])


def _idle(body: GenerationBody) -> Iterator[str]:
    """Yield the parameters without effect, given or not."""
    greedy = body.temperature == 0
    if greedy or body.mirostat:
        yield from (*_TRUNCATIONS, "xtc_probability", "xtc_threshold")
    elif body.xtc_probability == 0:
        yield "xtc_threshold"
    elif body.xtc_threshold > XTC_MOST:
        yield "xtc_probability"
    if greedy:
        yield "mirostat"
    if greedy or not body.mirostat:
        yield from ("mirostat_tau", "mirostat_eta")
    if body.dry_multiplier == 0:
        yield from (*_DRY, "dry_penalty_last_n")
    elif body.dry_penalty_last_n == 0:
        yield from _DRY
    if body.repeat_last_n == 0:
        yield from _PENALTIES
    elif not any(_asks(body, name) for name in _PENALTIES):
        yield "repeat_last_n"

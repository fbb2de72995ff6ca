"""DRY, "don't repeat yourself": takes from tokens that would make a repetition longer.

As in https://github.com/oobabooga/text-generation-webui/pull/5677 and llama.cpp: the longer the end
of the text that stood before, and was followed by a token, the less likely that token; a repetition
does not reach over a breaker. Changes a row in place; used by `sampling` alone.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from rayhost.engine.base import Logits
from rayhost.engine.penalties import window
from rayhost.ipc.sampling import Dry

_HOPELESS = 1000.0  # the largest penalty: no logit outweighs it
_LONGEST = 64  # tokens beyond the allowed length that are measured, whatever the penalty
_BREAKER = 40  # tokens that a breaker may be written with


def dry(row: Logits, tokens: Sequence[int], options: Dry, piece: Callable[[int], bytes]) -> None:
    """Apply the penalty; `piece` returns the bytes of a token.

    Costs as much as the repetition is long, at most `_LONGEST` times the tokens looked at.
    """
    allowed = options.allowed_length
    recent = np.asarray(tokens[window(tokens, options.last_n) :], np.int64)
    if len(recent) <= allowed:
        return
    breakers = [one.encode() for one in options.breakers]
    longest = allowed + _exponent(options)
    longest = min(longest, _unbroken(recent[-longest - _BREAKER :].tolist(), breakers, piece))
    if longest < allowed:
        return
    for token, length in _followers(recent, longest, allowed).items():
        text = piece(token)
        if not any(one in text for one in breakers):
            penalty = options.multiplier * options.base ** (length - allowed)
            row[token] -= min(penalty, _HOPELESS)


def _exponent(options: Dry) -> int:
    """Return the largest power of the base that is told apart from larger ones."""
    if options.base <= 1.0:
        return 0
    # For a multiplier near the smallest of floats the quotient is infinite.
    enough = math.log(max(1.0, _HOPELESS / options.multiplier)) / math.log(options.base)
    return math.ceil(min(_LONGEST, enough))


def _unbroken(tokens: list[int], breakers: list[bytes], piece: Callable[[int], bytes]) -> int:
    """Return how many of the last tokens come after the last breaker, whichever it is."""
    pieces = [piece(token) for token in tokens]
    text = b"".join(pieces)
    end = max((_end(text, one) for one in breakers), default=0)
    start = len(text)
    for count, one in enumerate(reversed(pieces)):
        start -= len(one)
        if start < end:
            return count
    return len(tokens)


def _end(text: bytes, breaker: bytes) -> int:
    """Return where the last occurrence ends, 0 without one."""
    at = text.rfind(breaker)
    return 0 if at < 0 else at + len(breaker)


def _followers(
    recent: np.ndarray[tuple[int], np.dtype[np.int64]], longest: int, least: int
) -> dict[int, int]:
    """Return the tokens that followed an earlier copy of the text's end, and its length.

    Of the copies that a token followed the longest counts, of at most `longest` tokens.
    """
    last = len(recent) - 1
    ends = np.arange(last)  # where a copy ends, of a length that grows by one each turn
    lengths = np.zeros(last, np.int64)
    for length in range(1, longest + 1):
        ends = ends[ends >= length - 1]
        ends = ends[recent[ends - (length - 1)] == recent[last - (length - 1)]]
        if not len(ends):
            break
        lengths[ends] = length
    ends = np.flatnonzero(lengths >= least)
    ends = ends[np.argsort(lengths[ends], kind="stable")]  # so that the longest is the last
    return dict(zip(recent[ends + 1].tolist(), lengths[ends].tolist(), strict=True))

"""llama.cpp's grammars as llguidance's: its own converter, mended where it refuses what is valid.

Run by the child that checks sources (`engine.grammar_check`), so of rayhost it imports nothing.
"""

import re

from llguidance.gbnf_to_lark import ASTNode, RepetitionNode, gbnf_to_lark

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


def in_lark(source: str) -> str:
    """Return a grammar in Lark. Raises what the converter does, which are bare exceptions too."""
    return gbnf_to_lark(_ESCAPE.sub(_plain, source))


def _plain(escape: re.Match[str]) -> str:
    r"""Return a character that was given by its number as the converter can take it.

    It writes `\u0042` as `\u42`, which is none. In ASCII a character may have a meaning of its own.
    """
    digits = escape[1] or escape[2]
    if digits is None:
        return escape[0]
    number = int(digits, 16)
    if number < 0x80:
        return f"\\x{number:02x}"
    if 0xD800 <= number < 0xE000 or number > 0x10FFFF:
        raise ValueError(f"{escape[0]} is no character")
    return chr(number)


def _is_atomic(_: ASTNode) -> bool:
    return False


# Its brackets are left out in `("a"{2}){2}`, as if a repetition could be repeated without.
RepetitionNode.is_atomic = _is_atomic  # type: ignore[assignment, method-assign]

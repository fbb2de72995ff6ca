"""Where a JSON object ends, in text that comes in pieces. Pure; used by `tool_calls`."""

import re

_TURNS = re.compile(r'[{}\[\]"\\]')
_IN_STRING = re.compile(r'["\\]')


class ObjectEnd:
    """Reads an object from its first brace, or from inside it, `depth` brackets deep."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int:
        """Read on; return where in this text the object is over, -1 while it is not.

        Only brackets and strings are looked at: what is between them need not be JSON.
        """
        at = 0
        if self._escaped and text:
            at, self._escaped = 1, False
        while found := (_IN_STRING if self._in_string else _TURNS).search(text, at):
            at = found.end()
            character = found[0]
            if character == '"':
                self._in_string = not self._in_string
            elif character == "\\":
                self._escaped = self._in_string and at == len(text)
                at += self._in_string
            elif character in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    return at
        return -1

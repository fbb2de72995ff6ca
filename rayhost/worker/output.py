"""From token bytes to text a client may see: whole characters, and never part of a stop string.

The text ends before the stop string that completes first, the longest where several do at once:
what a reader of single characters would see, wherever the borders between tokens lie. Pure state:
pushing the same bytes again gives the same text, so a resumed run rebuilds it from its tokens.
"""

import codecs


class TextStream:
    """The text of one run, up to the stop string that appears: it is never emitted."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self.stopped_by: str | None = None
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.emitted = 0  # characters that became final
        self.closed = False

    @property
    def decoded(self) -> int:
        """Characters so far, those held back included."""
        return self.emitted + len(self._held)

    @property
    def stopped(self) -> bool:
        """True once a stop string appeared."""
        return self.stopped_by is not None

    def push(self, piece: bytes) -> str:
        """Take a token's bytes; return the text that became final, perhaps none."""
        return self._count(self._release(self._decoder.decode(piece)))

    def close(self) -> str:
        """Return what was held back, the run having ended otherwise than by a stop string."""
        text = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        self.closed = True
        return self._count(text + held)

    def _count(self, text: str) -> str:
        self.emitted += len(text)
        return text

    def _release(self, new: str) -> str:
        if self.stopped or not new:
            return ""
        if not self._stop:
            return new
        text = self._held + new
        starts = ((text.find(stop), len(stop)) for stop in self._stop)
        found = [(at + length, at) for at, length in starts if at >= 0]
        if found:
            end, cut = min(found)
            self.stopped_by = text[cut:end]
            self._held = ""
            return text[:cut]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of `stop` that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

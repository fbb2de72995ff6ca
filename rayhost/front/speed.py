"""How fast runs go, measured on those that ended: what a wait or an answer will take. Pure.

The figures are of one run among as many as run together, so they hold the load that there is:
a token of an answer takes longer beside seven others than alone.
"""

_MEMORY = 0.9  # weight of the past: follows a change of load within some ten runs


class Speed:
    """Moving averages; times in nanoseconds, sizes in tokens. Zero until a run has ended."""

    def __init__(self) -> None:
        self._prompt = 0.0  # tokens of a prompt
        self._prefill_ns = 0.0  # a prompt token
        self._decode_ns = 0.0  # a token of an answer
        self._answer = 0.0  # tokens of an answer
        self._off = 0.0  # by how many tokens answers differ from that

    def learn(
        self, *, prompt: int, answer: int, started_ns: int, first_ns: int, ended_ns: int
    ) -> None:
        """Take in a run that ended by itself, computed by one worker without a pause."""
        self._prompt = _blend(self._prompt, prompt)
        self._prefill_ns = _blend(self._prefill_ns, (first_ns - started_ns) / prompt)
        if self._answer:
            self._off = _blend(self._off, abs(answer - self._answer))
        self._answer = _blend(self._answer, answer)
        if answer > 1:
            self._decode_ns = _blend(self._decode_ns, (ended_ns - first_ns) / (answer - 1))

    def expected(self, most: int) -> int:
        """Return how many tokens an answer that may have `most` will have; `most` at first."""
        return min(most, round(self._answer)) if self._answer else most

    def at_worst(self, most: int) -> int:
        """Return how many tokens few answers exceed, of those that may have `most`."""
        return min(most, round(self._answer + 2 * self._off)) if self._answer else most

    @property
    def usual_ns(self) -> float:
        """How long a run holds a sequence of which nothing is known; 0 while nothing is at all."""
        return self.run_ns(round(self._prompt), round(self._answer))

    def run_ns(self, prompt: int, answer: int) -> float:
        """Return how long a run holds a sequence; 0 while nothing is known."""
        return prompt * self._prefill_ns + answer * self._decode_ns


def _blend(past: float, new: float) -> float:
    return new if past == 0.0 else _MEMORY * past + (1.0 - _MEMORY) * new

"""What a box went through, as a plot: memory over time, and the sequences beside it. Pure."""

from collections.abc import Callable, Sequence

import msgspec

_WIDTH, _LEFT, _RIGHT = 720, 60, 20
_PANELS = ((20, 180), (230, 110))  # top and height of each
_MIB = 1 << 20


class Sample(msgspec.Struct, frozen=True):
    """One moment. `ours` is front and workers; sizes in bytes."""

    at_s: float
    working_set: int
    ours: int
    sequences: int
    level: int


def plot(samples: Sequence[Sample], limit_mib: int) -> str:
    """Return an SVG of two panels: MiB, with the limit, and sequences."""
    last_s = max(sample.at_s for sample in samples)
    widest = max(sample.sequences for sample in samples)
    memory = _Panel(*_PANELS[0], last_s, limit_mib * 1.08)
    width = _Panel(*_PANELS[1], last_s, widest * 1.15)
    parts = [
        memory.frame([*range(0, limit_mib, 200), limit_mib], "MiB"),
        width.frame(range(0, widest + 1, 2), "sequences"),
        width.seconds(),
        memory.line(samples, lambda _: limit_mib, "#c33", "limit", dashed=True),
        memory.line(samples, lambda one: one.working_set / _MIB, "#888", "all in the box"),
        memory.line(samples, lambda one: one.ours / _MIB, "#27c", "front and worker"),
        width.line(samples, lambda one: one.sequences, "#27c", "sequences"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} 380" '
        f'font-family="sans-serif" font-size="12"><rect width="{_WIDTH}" height="380" '
        f'fill="#fff"/>{"".join(parts)}</svg>\n'
    )


class _Panel:
    def __init__(self, top: int, height: int, last_s: float, most: float) -> None:
        self._top, self._height, self._last_s, self._most = top, height, last_s, most
        self._keys = 0

    def frame(self, marks: Sequence[int], unit: str) -> str:
        """Draw a line at each mark."""
        lines = "".join(
            f'<path d="M{_LEFT} {self._y(mark):.0f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{self._y(mark) + 4:.0f}" text-anchor="end">{mark}</text>'
            for mark in marks
        )
        return f'{lines}<text x="{_LEFT}" y="{self._top - 6}">{unit}</text>'

    def seconds(self) -> str:
        """Write the time below."""
        step = 10 if self._last_s < 120 else 30
        bottom = self._top + self._height + 16
        return "".join(
            f'<text x="{self._x(at):.0f}" y="{bottom}" text-anchor="middle">{at} s</text>'
            for at in range(0, int(self._last_s) + 1, step)
        )

    def line(
        self,
        samples: Sequence[Sample],
        value: Callable[[Sample], float],
        colour: str,
        name: str,
        *,
        dashed: bool = False,
    ) -> str:
        """Draw a value as steps, with its name."""
        path, last = "", -1.0
        for sample in samples:
            now = value(sample)
            if now != last:
                at = f"H{self._x(sample.at_s):.1f}V{self._y(now):.1f}"
                path += at if path else f"M{self._x(sample.at_s):.1f} {self._y(now):.1f}"
                last = now
        path += f"H{self._x(samples[-1].at_s):.1f}"
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        place = _LEFT + 90 + 130 * self._keys
        self._keys += 1
        return (
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'
            f'<text x="{place}" y="{self._top - 6}" fill="{colour}">{name}</text>'
        )

    def _x(self, at_s: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at_s / self._last_s

    def _y(self, value: float) -> float:
        return self._top + self._height * (1 - value / self._most)

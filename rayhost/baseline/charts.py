"""Charts as inline SVG: lines with their spread, and bars. Pure: figures in, markup out.

Colours are CSS classes (`s0` to `s5`) that the page defines, so that a dark page has dark charts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from rayhost.baseline.spread import Spread

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 46
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a figure at each place of the x axis, None where there is none."""

    name: str
    values: tuple[Spread | None, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar."""

    name: str
    value: Spread


def ticks(most: float) -> list[float]:
    """Return round steps from 0 to just past `most`, four to eight of them."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / 5
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    return [step * number for number in range(ceil(most / step) + 1)]


def lines(title: str, x_name: str, places: Sequence[str], drawn: Sequence[Line]) -> str:
    """Draw lines over named places, each point with its quartiles as a whisker."""
    highs = [value.high for line in drawn for value in line.values if value]
    y = _Axis(ticks(max(highs, default=0)))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(places))
    xs = [LEFT + step * (number + 0.5) for number in range(len(places))]
    parts = [y.markup()]
    parts += [_label(x, HEIGHT - BOTTOM + 18, place) for x, place in zip(xs, places, strict=True)]
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name))
    for number, line in enumerate(drawn):
        colour = f"s{number % COLOURS}"
        points = [(x, value) for x, value in zip(xs, line.values, strict=True) if value]
        path = " ".join(f"{x:.1f},{y.at(value.median):.1f}" for x, value in points)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        for x, value in points:
            parts.append(_whisker(x, y, value, colour))
            tip = f"{line.name}: {value.median:,.1f} ({value.low:,.1f} to {value.high:,.1f})"
            parts.append(
                f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y.at(value.median):.1f}" r="3.5">'
                f"<title>{escape(tip)}</title></circle>"
            )
    return _figure(title, parts, [line.name for line in drawn])


def bars(title: str, drawn: Sequence[Bar], limit: tuple[str, float] | None = None) -> str:
    """Draw bars with whiskers, and a dashed line at a limit."""
    highs = [bar.value.high for bar in drawn] + ([limit[1]] if limit else [])
    y = _Axis(ticks(max(highs, default=0)))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(drawn))
    parts = [y.markup()]
    for number, bar in enumerate(drawn):
        x, top = LEFT + step * (number + 0.5), y.at(bar.value.median)
        width = min(64.0, step * 0.6)
        parts.append(
            f'<rect class="bar s{number % COLOURS}" x="{x - width / 2:.1f}" y="{top:.1f}" '
            f'width="{width:.1f}" height="{y.at(0) - top:.1f}"/>'
        )
        parts.append(_whisker(x, y, bar.value, "ink"))
        parts.append(_label(x, HEIGHT - BOTTOM + 18, bar.name))
        parts.append(_label(x, HEIGHT - BOTTOM + 33, f"{bar.value.median:,.1f}"))
    if limit is not None:
        height = y.at(limit[1])
        parts.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" '
            f'y2="{height:.1f}"/><text class="small" x="{LEFT + 4}" y="{height - 4:.1f}">'
            f"{escape(limit[0])}</text>"
        )
    return _figure(title, parts, [])


class _Axis:
    """The y axis: from a value to a height."""

    def __init__(self, marks: list[float]) -> None:
        self._marks = marks

    def at(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / self._marks[-1]

    def markup(self) -> str:
        return "".join(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.at(mark):.1f}" '
            f'y2="{self.at(mark):.1f}"/><text class="small end" x="{LEFT - 6}" '
            f'y="{self.at(mark) + 4:.1f}">{mark:,g}</text>'
            for mark in self._marks
        )


def _whisker(x: float, y: _Axis, value: Spread, colour: str) -> str:
    return (
        f'<line class="whisker {colour}" x1="{x:.1f}" x2="{x:.1f}" '
        f'y1="{y.at(value.high):.1f}" y2="{y.at(value.low):.1f}"/>'
    )


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="small middle" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _figure(title: str, parts: Sequence[str], names: Sequence[str]) -> str:
    keys = "".join(
        f'<span class="key"><i class="s{number % COLOURS}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg><div>{keys}</div></figure>'
    )

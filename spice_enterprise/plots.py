"""Small plots as inline SVG: no script, no library, nothing fetched.

In: numbers and short names.
Out: SVG text; colours are the page's own CSS variables `--one`, `--two`, `--ink`, `--rule`, `--base`, `--paper`, and class `bad`.
Refuses: nothing; a value that is not finite becomes a red cross and a gap, never a point.
Not here: what the numbers are (`report.py`).
"""

import html
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

Series = tuple[str, Sequence[float | None]]
"""A name for the legend, and one value per step; None is a gap."""

Whisker = tuple[float | None, float, float | None]
"""Lower bound, value, upper bound; an open bound is None."""

COLOURS: Final = ("var(--one)", "var(--two)")
DASHES: Final = ("", ' stroke-dasharray="6 3"')
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 470, 190, 44, 10, 24, 26
WIDE, BAR = 964, 640
"""Width of a full-width plot and of its longest bar."""
WHISKER_GAP: Final = 8


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps steps and values to the points of a plot."""

    first: int
    last: int
    low: float
    high: float

    def x(self, step: float) -> float:
        share = (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def line_plot(
    label: str,
    steps: Sequence[int],
    series: Sequence[Series],
    *,
    marks: Collection[int] = (),
    is_share: bool = False,
) -> str:
    """Return one plot over steps: at most two lines, and an arrow at every step in `marks`.

    Args:
        label: what a screen reader says.
        steps: ascending step numbers, at least one.
        series: the lines, each with one value per step.
        marks: steps after which the run went back.
        is_share: draw on the whole scale from 0 to 1.
    """
    finite = [v for _, values in series for v in values if v is not None and math.isfinite(v)]
    scale = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else ticks(min(finite, default=0.0), max(finite, default=1.0))
    frame = _Frame(steps[0], steps[-1], scale[0], scale[-1])
    parts = [*_axes(frame, scale), *_marks(frame, marks)]
    for (_, values), colour, dash in zip(series, COLOURS, DASHES, strict=False):
        parts += _line(frame, list(zip(steps, values, strict=True)), f'stroke="{colour}"{dash}', colour)
    if len(series) > 1:
        parts += _legend([name for name, _ in series])
    return _svg(WIDTH, HEIGHT, label, parts)


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round values that enclose the range."""
    if high - low < 1e-12:
        pad = abs(high) * 0.5 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(raw))
    size = next((m * power for m in (1, 2, 5) if m * power >= raw), 10 * power)
    return [round(i * size, 12) for i in range(math.floor(low / size), math.ceil(high / size) + 1)]


def compare_plot(label: str, base: float, adapter: float, bounds: tuple[float | None, float | None]) -> str:
    """Return two bars; `bounds` of adapter minus base are drawn as a whisker, seen from the base."""
    ends = [base + bound for bound in bounds if bound is not None and math.isfinite(bound)]
    shown = [value for value in (base, adapter, *ends) if math.isfinite(value)]
    most = max([1.0 if max(shown, default=0.0) <= 1.0 else 0.0, *shown])
    parts = []
    for y, name, value, colour in ((6, "base", base, "var(--base)"), (34, "adapter", adapter, "var(--one)")):
        width = max(0.0, value) / most * BAR if math.isfinite(value) else 0.0
        parts.append(_text(84, y + 15, name, "end"))
        parts.append(f'<rect x="92" y="{y}" width="{width:.1f}" height="22" fill="{colour}"/>')
        parts.append(_text(WIDE - 4, y + 15, f"{value:.3g}", "end"))
    if len(ends) == 2:
        left, right = (92 + max(0.0, end) / most * BAR for end in ends)
        path = f"M{left:.1f} 45H{right:.1f}M{left:.1f} 39v12M{right:.1f} 39v12"
        for colour, width in (("--paper", 4.5), ("--ink", 1.6)):
            parts.append(f'<path d="{path}" stroke="var({colour})" stroke-width="{width}"/>')
    return _svg(WIDE, 62, label, parts)


def interval_plot(label: str, steps: Sequence[int], series: Sequence[tuple[str, Sequence[Whisker | None]]]) -> str:
    """Return one plot of shares over steps: at most two lines, each value with its interval. None is a gap.

    The lines stand a little apart, so that whiskers of one step do not hide each other.
    """
    scale = [0.0, 0.25, 0.5, 0.75, 1.0]
    frame = _Frame(steps[0], steps[-1], scale[0], scale[-1])
    parts = [*_axes(frame, scale)]
    for i, ((_, values), colour, dash) in enumerate(zip(series, COLOURS, DASHES, strict=False)):
        means = [(step, value[1] if value else None) for step, value in zip(steps, values, strict=True)]
        drawn = [*_line(frame, means, f'stroke="{colour}"{dash}', colour)]
        for step, value in zip(steps, values, strict=True):
            drawn += _whisker(frame, step, value, colour) if value else ()
        parts.append(f'<g transform="translate({(i - (len(series) - 1) / 2) * WHISKER_GAP:g} 0)">{"".join(drawn)}</g>')
    if len(series) > 1:
        parts += _legend([name for name, _ in series])
    return _svg(WIDTH, HEIGHT, label, parts)


def _whisker(frame: _Frame, step: int, value: Whisker, colour: str) -> Iterator[str]:
    low, mean, high = value
    if not math.isfinite(mean):
        return
    x, y = frame.x(step), frame.y(mean)
    top, bottom = (frame.y(min(1.0, max(0.0, mean if bound is None else bound))) for bound in (high, low))
    yield f'<path d="M{x - 4:.1f} {top}h8M{x} {top}V{bottom}M{x - 4:.1f} {bottom}h8" fill="none" stroke="{colour}"/>'
    yield f'<circle cx="{x}" cy="{y}" r="2.6" fill="{colour}"/>'


def difference_plot(label: str, rows: Sequence[tuple[str, Whisker]]) -> str:
    """Return one line per row: a difference with its interval, around a line at zero. An open bound runs to the edge."""
    ends = [end for _, row in rows for end in row if end is not None and math.isfinite(end)]
    most = max((abs(end) for end in ends), default=0.0) or 0.01
    zero, height = 212 + BAR / 2, 24 * len(rows) + 18
    parts = [f'<line x1="{zero}" x2="{zero}" y1="0" y2="{height - 18}" stroke="var(--soft)"/>']
    for end in (-most, most):
        parts.append(f'<text x="{zero + end / most * BAR / 2:.1f}" y="{height - 3}" text-anchor="middle">{end:+.2g}</text>')
    for i, (name, row) in enumerate(rows):
        y = 24 * i + 12
        low, mean, high = (zero + BAR / 2 * _within(end, most, edge) for end, edge in zip(row, (-1.0, 0.0, 1.0), strict=True))
        parts.append(_text(204, y + 4, name, "end"))
        parts.append(f'<path d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 5}v10M{high:.1f} {y - 5}v10" stroke="var(--one)"/>')
        parts.append(f'<circle cx="{mean:.1f}" cy="{y}" r="3.2" fill="var(--one)"/>')
    return _svg(WIDE, height, label, parts)


def _within(end: float | None, most: float, edge: float) -> float:
    return edge if end is None or not math.isfinite(end) else end / most


def bar_plot(label: str, counts: Sequence[tuple[str, int]]) -> str:
    """Return one bar per name, the largest first."""
    ordered = sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    most = max(1, *(count for _, count in ordered))
    parts = []
    for i, (name, count) in enumerate(ordered):
        y, width = i * 22, count / most * BAR
        parts.append(_text(204, y + 15, name, "end"))
        parts.append(f'<rect x="212" y="{y + 3}" width="{width:.1f}" height="15" fill="var(--one)"/>')
        parts.append(f'<text x="{218 + width:.1f}" y="{y + 15}">{count}</text>')
    return _svg(WIDE, len(ordered) * 22, label, parts)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    name = html.escape(label, quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="label" x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _axes(frame: _Frame, scale: Sequence[float]) -> Iterator[str]:
    for tick in scale:
        y = frame.y(tick)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="var(--rule)"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for step in sorted({frame.first, (frame.first + frame.last) // 2, frame.last}):
        name = f"step {step}" if step == frame.first else str(step)
        yield f'<text x="{frame.x(step)}" y="{HEIGHT - 8}" text-anchor="middle">{name}</text>'


def _marks(frame: _Frame, marks: Collection[int]) -> Iterator[str]:
    for step in sorted(marks):
        x = frame.x(step)
        yield f'<line class="bad" x1="{x}" x2="{x}" y1="{TOP - 5}" y2="{HEIGHT - BOTTOM}" stroke-dasharray="2 3"/>'
        yield f'<text class="bad" x="{x}" y="{TOP - 9}" text-anchor="middle">↩</text>'


def _line(frame: _Frame, points: Sequence[tuple[int, float | None]], stroke: str, colour: str) -> Iterator[str]:
    """Yield the line in pieces: it breaks where a value is missing or not finite."""
    piece: list[tuple[float, float]] = []
    for step, value in points:
        if value is not None and math.isfinite(value):
            piece.append((frame.x(step), frame.y(value)))
            continue
        if value is not None:
            yield f'<text class="bad" x="{frame.x(step)}" y="{HEIGHT - BOTTOM - 3}" text-anchor="middle">✕</text>'
        yield from _piece(piece, stroke, colour)
        piece = []
    yield from _piece(piece, stroke, colour)


def _piece(piece: Sequence[tuple[float, float]], stroke: str, colour: str) -> Iterator[str]:
    if len(piece) == 1:
        yield f'<circle cx="{piece[0][0]}" cy="{piece[0][1]}" r="3" fill="{colour}"/>'
    elif piece:
        points = " ".join(f"{x},{y}" for x, y in piece)
        yield f'<polyline points="{points}" fill="none" {stroke} stroke-width="1.8" stroke-linejoin="round"/>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    for i, (name, colour, dash) in enumerate(zip(names, COLOURS, DASHES, strict=False)):
        x = LEFT + 100 * i
        yield f'<line x1="{x}" x2="{x + 18}" y1="7" y2="7" stroke="{colour}" stroke-width="2"{dash}/>'
        yield _text(x + 23, 11, name, "start")

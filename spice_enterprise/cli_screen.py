"""Progress on stderr: a live bar on a terminal, else thin plain lines.

In: `Progress` events.
Out: what people watch while a verb works.
Refuses: nothing; a closed terminal ends the show, not the job.
Not here: what happens (`job.py`), results (`cli_frame.py`).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from spice_enterprise.protocols import Progress

PLAIN_EVERY_S: Final = 1.0
"""Seconds between progress lines when stderr is not a terminal."""
HIGHLIGHTS: Final = (
    (r"\b(PASS|ok)\b", "bold green"),
    (r"\b(FAIL|missing|problem)\b", "bold red"),
    (r"\b(INCONCLUSIVE|warn|warning)\b", "bold yellow"),
)


def coloured(text: str) -> Text:
    """Return `text` with verdicts and states in colour."""
    shown = Text(text)
    for pattern, style in HIGHLIGHTS:
        shown.highlight_regex(pattern, style)
    return shown


@dataclass(frozen=True, slots=True)
class _Line:
    """A progress event in words."""

    stage: str
    count: str
    rest: str

    @classmethod
    def of(cls, event: Progress) -> Self:
        count = f"{event.done}/{event.total}" if event.total else ""
        ordered = sorted(event.numbers, key=lambda pair: pair[0] != "left_s")  # what a narrow terminal must not cut off
        return cls(event.stage, count, "  ".join([event.message, *(_number_text(name, value) for name, value in ordered)]))

    def __str__(self) -> str:
        return f"{self.stage:<10} {self.count:>9}  {self.rest}".rstrip()


def _number_text(name: str, value: float) -> str:
    if name == "left_s":
        return f"left {_minutes(value)}"
    if name == "seconds":
        return f"{value:.1f} s"
    if name.endswith("_rate"):
        return f"{name.removesuffix('_rate')} {value:.0%}"
    return f"{name.removesuffix('_reward').replace('_per_s', '/s').replace('_', ' ')} {value:.3g}"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Screen:
    """Draws progress on stderr: a live bar on a terminal, else one line per event and second. Never raises."""

    every_s = PLAIN_EVERY_S

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown_at = -self.every_s
        self._task: TaskID | None = None
        self._bars = self._make_bars() if sys.stderr.isatty() else None

    def _make_bars(self) -> Bars:
        return Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=5)),
            TextColumn("{task.fields[rest]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, event: Progress) -> None:
        """Show one event. A stage's end stays on the screen; what happens inside it moves."""
        try:
            if self._bars:
                self._draw(self._bars, event)
            else:
                self._print(event)
        except (OSError, ValueError):
            # nobody looks any more (a closed terminal): the job goes on without a screen
            self._bars = None

    def _draw(self, bars: Bars, event: Progress) -> None:
        if event.message == "done" and not event.total and self._task is not None:
            bars.remove_task(self._task)
            self._task = None
            bars.console.print(coloured(f"{event.stage:<10} ok  {_Line.of(event).rest.removeprefix('done').strip()}"))
            return
        if event.message == "begin" or self._task is None:
            if self._task is not None:
                bars.remove_task(self._task)
            self._task = bars.add_task(event.stage, total=event.total or None, rest="")
        line = _Line.of(event)
        bars.update(self._task, description=event.stage, completed=event.done, total=event.total or None, rest=line.rest)

    def _print(self, event: Progress) -> None:
        is_edge = not event.total or event.done == event.total
        if is_edge or self._is_due():
            self._write(_Line.of(event))

    def _is_due(self) -> bool:
        return self._clock() - self._shown_at >= self.every_s

    def _write(self, line: _Line) -> None:
        self._shown_at = self._clock()
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class IngestScreen(Screen):
    """Draws reading a corpus: one bar for the whole way, with speeds of this very run."""

    every_s = 2.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._begun_at = clock()
        self._first: tuple[float, dict[str, float]] | None = None
        """When the first documents were done, and the numbers then: what an earlier run did is no speed of this one."""

    def _make_bars(self) -> Bars:
        return Bars(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=5),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=5)),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rest]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )

    def _draw(self, bars: Bars, event: Progress) -> None:
        line = self._line(event)
        if self._task is None:
            self._task = bars.add_task(line.stage, total=None, rest="")
        bars.update(self._task, description=line.stage, completed=event.done, total=event.total or None, rest=line.rest)

    def _print(self, event: Progress) -> None:
        line = self._line(event)
        if event.message in _PASSES and not self._is_due():
            return
        elapsed = f"  {_minutes(self._clock() - self._begun_at)}"
        self._write(_Line(line.stage, line.count, line.rest + elapsed))

    def _line(self, event: Progress) -> _Line:
        count = f"{event.done}/{event.total}" if event.total else ""
        if event.message != _READING:
            return _Line(_PASSES.get(event.message, event.stage), count, "" if event.message in _PASSES else event.message)
        numbers = dict(event.numbers)
        rest = f"{numbers.get('removed', 0):,.0f} removed  {numbers.get('quarantined', 0):,.0f} left out"
        return _Line(_PASSES[_READING], count, f"{rest}{self._speeds(numbers)}")

    def _speeds(self, numbers: dict[str, float]) -> str:
        now = self._clock()
        if self._first is None:
            self._first = (now, numbers)
        since_s = now - self._first[0]
        if since_s <= 0:
            return ""
        pages, size = (numbers.get(name, 0.0) - self._first[1].get(name, 0.0) for name in ("pages", "size_bytes"))
        return f"  {pages / since_s:.3g} pages/s  {size / since_s / 1000:.0f} KB/s"


_READING: Final = "scrubbed"
_PASSES: Final = {_READING: "reading", "swept": "comparing", "cut": "cutting"}
"""What the stage says of each pass over the documents, in words for people."""

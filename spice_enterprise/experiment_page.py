"""An experiment for people: tables as text, and one page with the differences drawn.

In: an `Experiment`.
Out: text for a terminal; HTML without scripts.
Refuses: nothing.
Not here: the numbers (`comparison.py`). No question, answer or document text is known here.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from spice_enterprise.comparison import AS_CONFIGURED, UNTRAINED, Bar, ClaimSize, Estimate, SettingResult
from spice_enterprise.experiment import Experiment
from spice_enterprise.outcomes import EDGE_STEPS
from spice_enterprise.page import aligned, document, duration, escape, table, terms
from spice_enterprise.plots import difference_plot

NOTHING: Final = "–"
_BAR_HEADS: Final = ("setting", "seeds", "right", f"minus {UNTRAINED}", f"minus {AS_CONFIGURED}")
_PLAY_TITLE: Final = f"play at the start, after the warm-up where there was one, at the end; {EDGE_STEPS} steps each"
_PLAY_HEADS: Final = ("setting", "readable", "admitted", "base agrees", "right answers", "applied", "tokens", "took")


def render_text(experiment: Experiment) -> str:
    """Return the tables and what failed."""
    lines = [f"experiment {experiment.name}: {_size(experiment)}"]
    for size in experiment.comparison.sizes:
        lines.append(f"{size.claim}: {_questions(size)}")
        for is_with_passage in (True, False):
            rows = [_bar_cells(r, _bar_of(r, size, is_with_passage=is_with_passage)) for r in experiment.comparison.results]
            lines += ["", _title(size, is_with_passage=is_with_passage), *aligned(_BAR_HEADS, rows)]
    lines += ["", _PLAY_TITLE, *aligned(_PLAY_HEADS, map(_play_cells, _played(experiment)))]
    failures = list(_failures(experiment))
    lines += ["", "not finished (the same command tries again)", *failures] if failures else []
    return "\n".join(line.rstrip() for line in lines)


def render_html(experiment: Experiment) -> str:
    """Return the page."""
    body = "".join(
        (
            f'<h1>Experiment: {escape(experiment.name)}</h1><p class="soft">{escape(_size(experiment))}</p>',
            *(_claim_section(experiment, size) for size in experiment.comparison.sizes),
            _play_section(experiment),
            _failure_section(experiment),
            _reading_section(experiment),
        )
    )
    return document(f"Experiment: {experiment.name}", body)


# --- cells ------------------------------------------------------------------------------------------------------------


def _size(experiment: Experiment) -> str:
    seeds, settings = len(experiment.seeds), len(experiment.settings)
    return (
        f"{settings} setting{'s' * (settings != 1)}, {seeds} seed{'s' * (seeds != 1)}, {experiment.steps} self-play steps, "
        f"base model {experiment.base_model}"
    )


def _questions(size: ClaimSize) -> str:
    left_out = f", {size.dropped} left out since a run trained on their words" if size.dropped else ""
    return f"{size.questions} questions on {size.documents} documents{left_out}"


def _title(size: ClaimSize, *, is_with_passage: bool) -> str:
    return f"{size.claim}, {'with' if is_with_passage else 'without'} the passage"


def _bar_of(result: SettingResult, size: ClaimSize, *, is_with_passage: bool) -> Bar | None:
    wanted = (size.claim, is_with_passage)
    return next((bar for bar in result.bars if (bar.claim, bar.is_with_passage) == wanted), None)


def _bar_cells(result: SettingResult, bar: Bar | None) -> tuple[str, ...]:
    seeds = str(len(result.seeds)) if result.setting != UNTRAINED else NOTHING
    if bar is None:
        return (result.setting, seeds, NOTHING, NOTHING, NOTHING)
    differences = (_points(estimate) for estimate in (bar.minus_untrained, bar.minus_spice))
    return (result.setting, seeds, _percent(bar.accuracy), *differences)


def _percent(estimate: Estimate) -> str:
    return f"{estimate.mean:.1%} {_between(estimate, lambda bound: f'{bound * 100:.1f}')}"


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    return f"{estimate.mean * 100:+.1f} {_between(estimate, lambda bound: f'{bound * 100:+.1f}')}"


def _between(estimate: Estimate, shown: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return "[open]"
    return f"[{shown(estimate.low)}, {shown(estimate.high)}]"


def _played(experiment: Experiment) -> list[SettingResult]:
    return [result for result in experiment.comparison.results if result.setting != UNTRAINED]


def _play_cells(result: SettingResult) -> tuple[str, ...]:
    names = ("readable", "admitted", "open_book", "right")
    return (
        result.setting,
        *(_road([getattr(rates, name, None) for rates in (result.start, result.warmed, result.end)]) for name in names),
        NOTHING if result.steps_applied is None else f"{result.steps_applied:.0f}",
        NOTHING if result.sampled_tokens is None else f"{result.sampled_tokens:,.0f}",
        NOTHING if result.seconds is None else duration(result.seconds),
    )


def _road(rates: Sequence[float | None]) -> str:
    """Return start, after the warm-up, end; two values where play began with the first step or never."""
    start, warmed, end = ((NOTHING if rate is None else f"{rate:.0%}") for rate in rates)
    shown = (start, end) if warmed in (start, NOTHING) else (start, warmed, end)
    return NOTHING if set(shown) == {NOTHING} else " -> ".join(shown)


def _failures(experiment: Experiment) -> Iterator[str]:
    for result in experiment.comparison.results:
        for failure in result.failures:
            yield f"{result.setting} seed {failure.seed}: {failure.code}  ({failure.run})"


# --- the page ---------------------------------------------------------------------------------------------------------


def _claim_section(experiment: Experiment, size: ClaimSize) -> str:
    parts = [f"<h2>{escape(size.claim.capitalize())}</h2><p>{escape(_questions(size))}.</p>"]
    for is_with_passage in (True, False):
        found = [(r, _bar_of(r, size, is_with_passage=is_with_passage)) for r in experiment.comparison.results]
        title = _title(size, is_with_passage=is_with_passage)
        rows = [tuple(map(escape, _bar_cells(result, bar))) for result, bar in found]
        parts.append(f"<h3>{escape(title.capitalize())}</h3>{_differences(title, found)}")
        parts.append(table(_BAR_HEADS, rows, numbers=range(1, 5)))
    return "".join(parts)


def _differences(title: str, found: Sequence[tuple[SettingResult, Bar | None]]) -> str:
    rows = [
        (result.setting, (bar.minus_untrained.low, bar.minus_untrained.mean, bar.minus_untrained.high))
        for result, bar in found
        if bar is not None and bar.minus_untrained is not None and math.isfinite(bar.minus_untrained.mean)
    ]
    if not rows:
        return ""
    plot = difference_plot(f"{title}: difference to {UNTRAINED}", rows)
    caption = f"Difference to {UNTRAINED} <span>share of right answers, with its 95 % interval</span>"
    return f"<figure><figcaption>{caption}</figcaption>{plot}</figure>"


def _play_section(experiment: Experiment) -> str:
    rows = [tuple(map(escape, _play_cells(result))) for result in _played(experiment)]
    return f"<h2>Play</h2><p>{escape(_PLAY_TITLE.capitalize())}.</p>{table(_PLAY_HEADS, rows, numbers=range(1, 8))}"


def _failure_section(experiment: Experiment) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in _failures(experiment))
    return f"<h2>Not finished</h2><p>The same command tries them again.</p><ul>{lines}</ul>" if lines else ""


def _reading_section(experiment: Experiment) -> str:
    words = (
        ("Interval", "95 %, for other documents and other seeds at once. With one seed it is for other documents only."),
        (
            "Several comparisons",
            "Each interval stands for itself. Of twenty settings without effect, one will seem to have one.",
        ),
        (UNTRAINED, "The base model as it was. It is the same for every seed, so it is asked once."),
        (
            "Base agrees",
            "Of the frozen base's answers with the passage, those that agree with the reference answer of a proposal.",
        ),
        ("Tokens", "Of recorded proposals and answers, per run. What the frozen base wrote for admission is not among them."),
    )
    digests = [("exam", experiment.exam_digest), ("corpus", experiment.corpus_digest)]
    rows = [(name, f"<code>{escape(digest)}</code>") for name, digest in digests]
    return f"<h2>How to read this</h2>{terms(words)}<h3>Digests</h3>{table(('of', 'digest'), rows)}"

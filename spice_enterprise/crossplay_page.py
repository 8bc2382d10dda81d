"""A cross-play for people: a table as text, and one page with both curves.

In: a `CrossPlay`.
Out: text for a terminal; HTML without scripts.
Refuses: nothing.
Not here: the numbers (`crossplay.py`). No question, answer or document text is known here.
"""

from collections.abc import Sequence
from typing import Final

from spice_enterprise.comparison import Estimate
from spice_enterprise.crossplay import Checkpoint, CrossPlay
from spice_enterprise.page import aligned, document, escape, table, terms
from spice_enterprise.plots import Whisker, interval_plot

NOTHING: Final = "–"
HEADS: Final = (
    "step",
    "questions",
    "documents",
    "(a) anchor answers it",
    "(b) it answers anchor",
    "base with passage",
    "admitted",
)
COLUMNS: Final = ("asked", "answered", "open_book", "admitted")
_CHANGES: Final = (
    ("(a) anchor on questions of the last version", "asked_change"),
    ("(b) last version on questions of the anchor", "answered_change"),
    ("base with the passage on those of the last version", "open_book_change"),
    ("proposals admitted", "admitted_change"),
)


def render_text(found: CrossPlay) -> str:
    """Return the table, and what changed from the anchor to the last version."""
    lines = [f"crossplay {found.run}: {_size(found)}", "", *aligned(HEADS, [_cells(c) for c in found.checkpoints])]
    lines += ["", "from the anchor to the last version, in points", *aligned(("", ""), _changes(found))]
    return "\n".join(line.rstrip() for line in lines)


def render_html(found: CrossPlay) -> str:
    """Return the page."""
    rows = [tuple(map(escape, _cells(checkpoint))) for checkpoint in found.checkpoints]
    changes = [tuple(map(escape, pair)) for pair in _changes(found)]
    body = "".join(
        (
            f'<h1>Cross-play: {escape(found.run)}</h1><p class="soft">{escape(_size(found))}</p>',
            f'<div class="plots">{_passes(found)}{_soundness(found)}</div>',
            f"<h2>By version</h2>{table(HEADS, rows, numbers=range(7))}",
            f"<h2>From the anchor to the last version</h2><p>In points, over documents that both have.</p>"
            f"{table(('', 'change'), changes, numbers=(1,))}",
            _reading_section(),
            f"<h2>Digests</h2>{table(('of', 'digest'), _digests(found))}",
        )
    )
    return document(f"Cross-play: {found.run}", body)


def _size(found: CrossPlay) -> str:
    sizes = found.sizes
    return (
        f"{len(found.checkpoints)} versions, {found.chunks} chunks of {found.documents} unseen documents, "
        f"{sizes.attempts} proposals a chunk, {sizes.answers} answers a question"
    )


def _cells(checkpoint: Checkpoint) -> tuple[str, ...]:
    shares = (_percent(getattr(checkpoint, name)) for name in COLUMNS)
    return (str(checkpoint.step), str(checkpoint.questions), str(checkpoint.documents), *shares)


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.0%} [open]"
    return f"{estimate.mean:.0%} [{estimate.low * 100:.0f}, {estimate.high * 100:.0f}]"


def _changes(found: CrossPlay) -> list[tuple[str, str]]:
    return [(name, _points(getattr(found.checkpoints[-1], field))) for name, field in _CHANGES]


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean * 100:+.1f} [open]"
    return f"{estimate.mean * 100:+.1f} [{estimate.low * 100:+.1f}, {estimate.high * 100:+.1f}]"


def _passes(found: CrossPlay) -> str:
    series = (("questions", _whiskers(found, "asked")), ("answers", _whiskers(found, "answered")))
    return _figure("Right answers", "the anchor on later questions, later versions on the anchor's", found, series)


def _soundness(found: CrossPlay) -> str:
    series = (("base", _whiskers(found, "open_book")), ("admitted", _whiskers(found, "admitted")))
    return _figure("Are the questions sound?", "the frozen base with the passage; proposals admitted", found, series)


def _whiskers(found: CrossPlay, name: str) -> list[Whisker | None]:
    estimates = (getattr(checkpoint, name) for checkpoint in found.checkpoints)
    return [(e.low, e.mean, e.high) if e is not None else None for e in estimates]


def _figure(title: str, unit: str, found: CrossPlay, series: Sequence[tuple[str, Sequence[Whisker | None]]]) -> str:
    plot = interval_plot(f"{title} by step, {unit}", [checkpoint.step for checkpoint in found.checkpoints], series)
    return f"<figure><figcaption>{escape(title)} <span>{escape(unit)}</span></figcaption>{plot}</figure>"


def _digests(found: CrossPlay) -> list[tuple[str, str]]:
    shown = [("corpus", found.corpus_digest), *((f"step {c.step}", c.adapter_digest) for c in found.checkpoints)]
    return [(escape(name), f"<code>{escape(digest)}</code>") for name, digest in shown]


def _reading_section() -> str:
    words = (
        ("Anchor", "The first version shown, at about 30 % of self-play. Both curves begin with it answering its own questions."),
        ("(a) falls", "The anchor gets fewer of a later version's questions right: they became harder, or their answers wrong."),
        (
            "Base with passage",
            "Tells the two apart: the untrained base answers the same questions with the passage in front of it. If this falls as"
            " much as (a), the questions became unsound, not harder. The answers are drawn apart from the votes of admission.",
        ),
        ("(b) rises", "A later version gets more of the anchor's questions right: it learned to answer."),
        (
            "Intervals",
            "95 %, over documents. They say what other documents would have shown, not what another training run would.",
        ),
    )
    return f"<h2>How to read this</h2>{terms(words)}"

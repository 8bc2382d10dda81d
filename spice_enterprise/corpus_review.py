"""The review by hand: a random sample of chunks that a person checks, and what their marks prove.

In: the folder of a corpus, the size of the sample and a seed; then the reviewer's marks.
Out: `review.html` to read or print, `review.jsonl` to mark, the share of bad chunks with exact bounds, an audit event.
Refuses: marks for another corpus, for chunks that were not drawn, or with anything but a closed word (`E_REVIEW`).
Not here: asking at the terminal (`cli_corpus.py`), the report about the whole corpus (`corpus_page.py`).

A mark is an id and one word: no note, so that nothing personal can get into the marks.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from spice_enterprise import durable
from spice_enterprise.corpus.corpus_files import read_chunks, read_manifest
from spice_enterprise.corpus_page import draw, place_of
from spice_enterprise.errors import ConfigError
from spice_enterprise.page import document, escape, hues, with_placeholders
from spice_enterprise.records import AuditEvent, Chunk, NamedDigest, canonical_json, sha256_hex

PAGE: Final = "review.html"
MARKS: Final = "review.jsonl"
RISK: Final = 0.05
"""Each bound of a share is wrong with at most this probability."""
Verdict = Literal["", "clean", "left", "too_much", "both"]
"""What a reviewer says of a chunk; empty: not looked at yet."""
_BISECTIONS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The chunks to be checked. Whoever has the corpus, the size and the seed draws the same ones."""

    corpus_digest: str
    size: int
    seed: int
    chunks: tuple[Chunk, ...] = field(repr=False)

    def header(self) -> dict[str, Any]:
        """Return what the first line of the marks says: which sample they are about."""
        return {"corpus_digest": self.corpus_digest, "sample": self.size, "seed": self.seed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of the checked chunks with exact (Clopper-Pearson) bounds, each at 95 %."""

    count: int
    of: int
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a review came to."""

    corpus_digest: str
    seed: int
    sample: int
    checked: int
    left: Share
    """Chunks in which something personal is left."""
    too_much: Share
    """Chunks from which too much was removed."""
    left_ids: tuple[str, ...]
    marks_digest: str

    @property
    def is_complete(self) -> bool:
        """True when every chunk of the sample was looked at: only then is it a random sample."""
        return self.checked == self.sample

    def event(self, run: str) -> AuditEvent:
        """Return the record of the review: digests and counts."""
        return AuditEvent(
            event="corpus.reviewed",
            run=run,
            subject=(NamedDigest(role="corpus", name="corpus", digest=self.corpus_digest),),
            inputs=(NamedDigest(role="marks", name="marks", digest=self.marks_digest),),
            data=(
                ("sample", self.sample),
                ("checked", self.checked),
                ("left", self.left.count),
                ("too_much", self.too_much.count),
                ("left_upper_bound", self.left.high),
                ("seed", self.seed),
            ),
        )


def draw_sample(folder: Path, size: int, seed: int) -> Sample:
    """Draw chunks at random. Raises `IntegrityError` E_CORPUS_FILES when the folder is not what its manifest says."""
    manifest = read_manifest(folder)
    chunks = draw(read_chunks(folder), size, seed=seed)
    return Sample(corpus_digest=manifest.corpus_digest, size=len(chunks), seed=seed, chunks=tuple(chunks))


# --- marks ------------------------------------------------------------------------------------------------------------


def write_marks(path: Path, sample: Sample, marks: Mapping[str, Verdict]) -> None:
    """Write the marks: a line that names the sample, then a line per chunk."""
    lines = [sample.header(), *({"chunk_id": c.chunk_id, "verdict": marks.get(c.chunk_id, "")} for c in sample.chunks)]
    durable.write_file(path, b"".join(canonical_json(line) + b"\n" for line in lines))


def read_marks(path: Path, sample: Sample) -> dict[str, Verdict]:
    """Return the verdicts of a marked file by chunk, empty ones left out. Raises `ConfigError` E_REVIEW naming the line."""
    header, *lines = _lines(path)
    if header != sample.header():
        raise _wrong(path, 1, "marks of another corpus or another sample")
    open_ids = {chunk.chunk_id for chunk in sample.chunks}
    marks: dict[str, Verdict] = {}
    for number, line in enumerate(lines, 2):
        if not isinstance(line, dict) or set(line) != {"chunk_id", "verdict"}:
            raise _wrong(path, number, "expected chunk_id and verdict, nothing else")
        if line["chunk_id"] not in open_ids:
            raise _wrong(path, number, "a chunk that was not drawn, or that was marked before")
        if line["verdict"] not in get_args(Verdict):
            raise _wrong(path, number, f"verdict is none of {', '.join(filter(None, get_args(Verdict)))}")
        open_ids.remove(line["chunk_id"])
        if line["verdict"]:
            marks[line["chunk_id"]] = line["verdict"]
    return marks


def standing_marks(path: Path, sample: Sample) -> dict[str, Verdict]:
    """Return the marks that stand already; none when the file is of another sample but nobody has marked anything in it."""
    if not path.exists():
        return {}
    is_marked = any(isinstance(line, dict) and line.get("verdict") for line in _lines(path))
    return read_marks(path, sample) if is_marked else {}


def sample_of_marks(path: Path, folder: Path) -> Sample:
    """Return the sample that a file of marks says it is about, drawn again from the corpus."""
    header = _lines(path)[0]
    size, seed = (header.get("sample"), header.get("seed")) if isinstance(header, dict) else (None, None)
    if type(size) is not int or type(seed) is not int or size < 1:
        raise _wrong(path, 1, "does not say which sample it is about")
    return draw_sample(folder, size, seed)


def _lines(path: Path) -> list[Any]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})", hint="check the path") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise _wrong(path, number, "not valid JSON") from None
    return found or [None]


def _wrong(path: Path, number: int, problem: str) -> ConfigError:
    hint = f"`spice-enterprise ingest review DIR` writes a fresh {MARKS}"
    return ConfigError(f"{path.name}:{number}: {problem}", code="E_REVIEW", hint=hint)


# --- what the marks prove ---------------------------------------------------------------------------------------------


def findings_of(sample: Sample, marks: Mapping[str, Verdict]) -> Findings:
    """Return the shares that the marks show. Raises `ConfigError` E_REVIEW when nothing was marked."""
    if not marks:
        raise ConfigError("no chunk has been marked", code="E_REVIEW", hint=f"fill in the verdicts in {MARKS}")
    said = Counter(marks.values())
    return Findings(
        corpus_digest=sample.corpus_digest,
        seed=sample.seed,
        sample=sample.size,
        checked=len(marks),
        left=share_of(said["left"] + said["both"], len(marks)),
        too_much=share_of(said["too_much"] + said["both"], len(marks)),
        left_ids=tuple(sorted(chunk_id for chunk_id, verdict in marks.items() if verdict in ("left", "both"))),
        marks_digest="sha256:" + sha256_hex(canonical_json(dict(sorted(marks.items())))),
    )


def share_of(count: int, of: int) -> Share:
    """Return `count` out of `of` with one-sided Clopper-Pearson bounds. 0 of 500 has the upper bound 0.6 %."""
    low = 0.0 if count == 0 else _solve(lambda p: 1.0 - _at_most(count - 1, of, p) < RISK)
    high = 1.0 if count == of else _solve(lambda p: _at_most(count, of, p) > RISK)
    return Share(count=count, of=of, low=low, high=high)


def _solve(is_below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def _at_most(count: int, of: int, share: float) -> float:
    """Return the probability of at most `count` hits in `of` draws."""
    if share <= 0.0:
        return 1.0
    if share >= 1.0:
        return float(count >= of)
    log_p, log_q, log_all = math.log(share), math.log1p(-share), math.lgamma(of + 1)
    return math.fsum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * log_p + (of - k) * log_q) for k in range(count + 1)
    )


# --- the page ---------------------------------------------------------------------------------------------------------


def write_review_page(folder: Path, sample: Sample) -> Path:
    """Write the page with the sample and return its path."""
    hue_of = hues(r.entity for chunk in sample.chunks for r in chunk.redactions)
    cards = "".join(_card(number, chunk, hue_of) for number, chunk in enumerate(sample.chunks, 1))
    body = (
        f'<h1>Review by hand</h1><p class="soft">{sample.size} chunks drawn at random, seed {sample.seed}</p>'
        '<p class="note">This page shows scrubbed text only. It belongs to the corpus '
        f"<code>{escape(sample.corpus_digest)}</code></p>"
        "<p>Read every passage as somebody who knows the people in it. Is there a word by which a reader could tell who is meant:"
        " a name, a number, an address, a nickname, a rare office? Then something personal is left. Is a word covered that names "
        "no person, such as a law, a product or a defined term? Then too much was removed. Coloured words stand for removed "
        "values and are no finding.</p>"
        f"<p>The ticks are for paper; this page cannot save them. Write one word per chunk into <code>{MARKS}</code> beside it: "
        f"<code>clean</code>, <code>left</code>, <code>too_much</code> or <code>both</code>. Then run "
        f"<code>spice-enterprise ingest review DIR --record DIR/{MARKS}</code></p>"
        f"{cards}"
    )
    path = folder / PAGE
    durable.write_file(path, document("Review by hand", body).encode())
    return path


def _card(number: int, chunk: Chunk, hue_of: Mapping[str, int]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox"> {words}</label>'
        for words in ("looked at", "something personal is left", "too much was removed")
    )
    return (
        f'<section class="card"><p class="soft small">{number}. <code>{escape(chunk.chunk_id)}</code> {escape(place_of(chunk))}'
        f" &nbsp; removed: {escape(kinds_of(chunk))}</p>"
        f'<p class="passage">{with_placeholders(chunk.text, chunk.redactions, hue_of)}</p><p class="boxes">{boxes}</p></section>'
    )


def kinds_of(chunk: Chunk) -> str:
    """Return what was removed from a chunk, by kind."""
    counts = Counter(redaction.entity for redaction in chunk.redactions)
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "nothing"


def render_findings(findings: Findings) -> str:
    """Return the findings as text for people."""
    rows = [
        f"checked        {findings.checked} of {findings.sample} chunks, drawn by seed {findings.seed}",
        f"personal left  {_share_line(findings.left)}",
        f"too much gone  {_share_line(findings.too_much)}",
        *(f"  left in {chunk_id}" for chunk_id in findings.left_ids),
    ]
    if not findings.is_complete:
        rows.append("not complete: the bounds hold for the whole sample only, look at the rest")
    return "\n".join(rows)


def _share_line(share: Share) -> str:
    bounds = f"of all chunks at least {share.low:.1%} and at most {share.high:.1%}"
    return f"{share.count} of {share.of} ({share.count / share.of:.1%}); {bounds}, each at 95 %"

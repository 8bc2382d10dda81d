"""The corpus page: what `ingest` read, removed and left out, for the person who answers for the documents.

In: the folder of a finished corpus, and the PII policy.
Out: a card; `report.html` beside the files: counts, reasons with what to do, passages before and after with the values masked.
Refuses: a folder whose files are not the ones its manifest names (`E_CORPUS_FILES`).
Not here: the sample for a reviewer (`corpus_review.py`), the look (`page.py`). No original value is known here.

The same corpus gives the same bytes: what is shown is drawn from the corpus digest.
"""

import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from spice_enterprise import durable, seeding
from spice_enterprise.advice import for_chunk, for_file, for_flag
from spice_enterprise.corpus.corpus_files import REJECTIONS, read_chunks, read_documents, read_manifest
from spice_enterprise.page import code as code_cell
from spice_enterprise.page import (
    document,
    escape,
    file_name,
    hues,
    size_text,
    table,
    terms,
    tiles,
    with_blocks,
    with_placeholders,
)
from spice_enterprise.plots import bar_plot
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.protocols import Manifest
from spice_enterprise.records import Chunk, Document, Redaction, Rejection, decode

PAGE: Final = "report.html"
EXCERPTS: Final = 12
_EXCERPT_CHARS: Final = 1_200
_KINDS_PER_LINE: Final = 5
_MOST_FILES: Final = 500
_MOST_ODD: Final = 100
_FIRST_LINE_CHARS: Final = 200
"""How much text is shown before the first removed value of an excerpt."""


def write_page(folder: Path, policy: PiiPolicy) -> Path:
    """Write the page into the folder of a corpus and return its path. Raises `IntegrityError` E_CORPUS_FILES, `OSError`."""
    manifest = read_manifest(folder)
    body = "".join(
        (
            _head(manifest),
            _read_section(manifest, policy),
            _removed_section(manifest, policy),
            _quarantine_section(manifest, folder),
            _hidden_section(manifest, folder),
            _dropped_section(manifest),
            _excerpt_section(manifest, folder),
            _words_section(),
        )
    )
    path = folder / PAGE
    durable.write_file(path, document("Corpus report", body).encode())
    return path


# --- as text ----------------------------------------------------------------------------------------------------------


def render_text(manifest: Manifest, folder: Path, *, connections_attempted: int) -> str:
    """Return the card that `ingest` ends with: counts, codes with what to do, where the files are, the next command."""
    title = " spice-enterprise  ingest"
    attempted = f"{connections_attempted} outside connection{'' if connections_attempted == 1 else 's'} attempted"
    lines = [f"{title:<66}{attempted}"]
    for name, rows in (
        ("read", _read_rows(manifest)),
        ("chunks", _chunk_rows(manifest)),
        ("removed", _removed_rows(manifest)),
        ("left out", _rejected_rows(manifest)),
        ("isolation", [manifest.isolation or "none"]),
        ("names by", [manifest.ner_model]),
        ("files", [str(folder / entry.path) for entry in manifest.files]),
        ("page", [str(folder / PAGE)]),
        ("next", [f"spice-enterprise ingest review {folder}"]),
    ):
        lines += [f" {name if i == 0 else '':<10} {row}" for i, row in enumerate(rows)]
    return "\n".join(line.rstrip() for line in lines)


def _read_rows(manifest: Manifest) -> list[str]:
    rows = [f"{manifest.documents:,} documents, {manifest.pages:,} pages, {size_text(manifest.size_bytes)}"]
    if manifest.hidden:
        listed = ", ".join(f"{_words(kind)} {count:,}" for kind, count in manifest.hidden)
        rows.append(f"invisible text dropped: {total(manifest.hidden):,} characters ({listed})")
    rows += [f"{count:,} with {code}: {for_flag(code)}" for code, count in manifest.flags]
    return rows


def _chunk_rows(manifest: Manifest) -> list[str]:
    rows = [f"{manifest.chunks:,}: {', '.join(f'{name} {count:,}' for name, count in manifest.splits)}"]
    if manifest.dropped_chunks:
        listed = ", ".join(f"{_words(reason)} {count:,}" for reason, count in manifest.dropped_chunks)
        rows.append(f"dropped {total(manifest.dropped_chunks):,}: {listed}")
    return rows


def _removed_rows(manifest: Manifest) -> list[str]:
    ordered = sorted(manifest.removed, key=lambda pair: (-pair[1], pair[0]))
    listed = [f"{kind.lower().replace('_', ' ')} {count:,}" for kind, count in ordered]
    head = f"{total(manifest.removed):,} values of {len(listed)} kinds"
    return [head, *("  " + ", ".join(listed[i : i + _KINDS_PER_LINE]) for i in range(0, len(listed), _KINDS_PER_LINE))]


def _rejected_rows(manifest: Manifest) -> list[str]:
    if not manifest.rejected:
        return ["no file"]
    return [f"{code:<20} {count:>5,}  {for_file(code)}" for code, count in manifest.rejected]


# --- as a page --------------------------------------------------------------------------------------------------------


def total(counts: Sequence[tuple[str, int]]) -> int:
    """Return the sum of named counts."""
    return sum(count for _, count in counts)


def _head(manifest: Manifest) -> str:
    splits = dict(manifest.splits)
    shown = (
        (f"{manifest.documents:,}", f"documents read, {total(manifest.rejected):,} files left out"),
        (f"{manifest.pages:,}", f"pages, {size_text(manifest.size_bytes)}"),
        (f"{manifest.chunks:,}", f"chunks, {splits.get('train', 0):,} for training"),
        (f"{total(manifest.removed):,}", f"personal values removed, of {len(manifest.removed)} kinds"),
    )
    return (
        '<h1>Corpus report</h1><p class="soft">What was read, what was removed, what was left out</p>'
        '<p class="note">This page shows scrubbed text only; no original value was kept to make it. It belongs to the corpus '
        f"<code>{escape(manifest.corpus_digest)}</code></p>{tiles(shown)}"
    )


def _read_section(manifest: Manifest, policy: PiiPolicy) -> str:
    is_this_policy = policy.digest() == manifest.pii_policy_digest
    name = f"{policy.metadata.name}, version {policy.metadata.version}" if is_this_policy else "not the one at hand"
    made = (
        ("parser isolation", escape(manifest.isolation or "none")),
        ("name recogniser", escape(manifest.ner_model)),
        ("PII policy", f"{escape(name)}<br><code>{escape(manifest.pii_policy_digest)}</code>"),
        ("pipeline", f"<code>{escape(manifest.pipeline_digest)}</code>"),
        ("languages", escape(", ".join(f"{code} {count}" for code, count in manifest.languages) or "none")),
    )
    documents = dict(manifest.split_documents)
    splits = [(escape(name), f"{documents.get(name, 0):,}", f"{count:,}") for name, count in manifest.splits]
    return (
        f"<h2>What was read</h2>{table(('', ''), [(escape(key), value) for key, value in made])}"
        f"<h3>Parts</h3>{table(('part', 'documents', 'chunks'), splits, numbers=(1, 2))}"
        '<p class="soft small">Training never sees the unseen part. Documents that resemble one another are in the same part.</p>'
    )


def _removed_section(manifest: Manifest, policy: PiiPolicy) -> str:
    if not manifest.removed:
        return '<h2>What was removed</h2><p class="soft">Nothing was found that the policy removes.</p>'
    ordered = sorted(manifest.removed, key=lambda pair: (-pair[1], pair[0]))
    actions = {name: label.action for name, label in policy.labels.items()}
    rows = [(escape(kind), f"{count:,}", escape(actions.get(kind, ""))) for kind, count in ordered]
    return (
        f'<h2>What was removed</h2><figure class="wide">{bar_plot("values removed by kind", ordered)}</figure>'
        f"{table(('kind', 'values', 'what the policy does'), rows, numbers=(1,))}"
    )


def _quarantine_section(manifest: Manifest, folder: Path) -> str:
    if not manifest.rejected:
        return '<h2>Files left out</h2><p class="soft">None.</p>'
    reasons = [(code_cell(code), f"{count:,}", escape(for_file(code))) for code, count in manifest.rejected]
    rejections = [decode(Rejection, json.loads(line)) for line in durable.read_lines(folder / REJECTIONS)]
    files = [
        (f"<bdi>{file_name(r.uri)}</bdi>", code_cell(r.code), escape(r.reason), size_text(r.size_bytes))
        for r in rejections[:_MOST_FILES]
    ]
    return (
        f"<h2>Files left out</h2>{table(('code', 'files', 'what to do'), reasons, numbers=(1,))}"
        f"<h3>Which files</h3>{table(('name, scrubbed', 'code', 'reason', 'size'), files, numbers=(3,))}"
        f"{_more(len(rejections) - len(files), REJECTIONS)}"
    )


def _hidden_section(manifest: Manifest, folder: Path) -> str:
    if not manifest.hidden and not manifest.flags:
        return '<h2>Invisible text and odd files</h2><p class="soft">None.</p>'
    hidden = [(escape(_words(kind)), f"{count:,}") for kind, count in manifest.hidden]
    flags = [(code_cell(code), f"{count:,}", escape(for_flag(code))) for code, count in manifest.flags]
    odd = heapq.nlargest(_MOST_ODD, (d for d in read_documents(folder) if d.hidden or d.flags), key=_oddness)
    rows = [
        (
            f"<bdi>{file_name(d.uri)}</bdi>",
            escape(", ".join(f"{_words(k)} {n:,}" for k, n in d.hidden)),
            " ".join(map(code_cell, d.flags)),
        )
        for d in odd
    ]
    return (
        "<h2>Invisible text and odd files</h2>"
        "<p>Text that a reader does not see can carry private data or orders to a model. It was dropped, never learned.</p>"
        f"{table(('kind of invisible text', 'characters dropped'), hidden, numbers=(1,)) if hidden else ''}"
        f"{table(('flag', 'documents', 'what it says'), flags, numbers=(1,)) if flags else ''}"
        f"<h3>Which documents</h3>{table(('name, scrubbed', 'characters dropped', 'flags'), rows)}"
    )


def _oddness(item: Document) -> tuple[int, int, str]:
    return total(item.hidden), len(item.flags), item.document_id


def _dropped_section(manifest: Manifest) -> str:
    if not manifest.dropped_chunks:
        return '<h2>Passages left out</h2><p class="soft">None.</p>'
    rows = [(escape(_words(reason)), f"{count:,}", escape(for_chunk(reason))) for reason, count in manifest.dropped_chunks]
    return f"<h2>Passages left out</h2>{table(('reason', 'chunks', 'what it means'), rows, numbers=(1,))}"


# --- excerpts ---------------------------------------------------------------------------------------------------------


def _excerpt_section(manifest: Manifest, folder: Path) -> str:
    drawn = draw(read_chunks(folder), EXCERPTS, seed=_seed_of(manifest), is_redacted_first=True)
    hue_of = hues(kind for kind, _ in manifest.removed)
    return (
        f"<h2>Before and after</h2><p>{len(drawn)} passages, drawn by the corpus digest among those where something was removed. "
        "A block stands where a value stood; it is always of the same length.</p>"
        + "".join(_excerpt(chunk, hue_of) for chunk in drawn)
    )


def draw(chunks: Iterator[Chunk], count: int, *, seed: int, is_redacted_first: bool = False) -> list[Chunk]:
    """Return `count` chunks drawn at random by `seed`: the same for every order of the chunks, in one pass.

    A larger draw under the same seed holds the smaller one.
    """
    return heapq.nsmallest(
        count,
        chunks,
        key=lambda c: (is_redacted_first and not c.redactions, seeding.derive(seed, "corpus-sample", c.chunk_id)),
    )


def _seed_of(manifest: Manifest) -> int:
    return int(manifest.corpus_digest.removeprefix("sha256:")[:15], 16)


def _excerpt(chunk: Chunk, hue_of: dict[str, int]) -> str:
    text, redactions = _window(chunk)
    return (
        f'<p class="soft small"><code>{escape(chunk.chunk_id)}</code> {escape(place_of(chunk))}</p><div class="pair">'
        f"{_side('before', with_blocks(text, redactions))}{_side('after', with_placeholders(text, redactions, hue_of))}</div>"
    )


def _side(name: str, passage: str) -> str:
    return f'<div><span class="soft small">{name}</span><p class="passage">{passage}</p></div>'


def place_of(chunk: Chunk) -> str:
    """Return where a chunk stands, in ids and numbers."""
    pages = f", page {chunk.page}" if chunk.page is not None else ""
    through = f" to {chunk.last_page}" if chunk.last_page is not None and chunk.last_page != chunk.page else ""
    return f"{chunk.document_id}{pages}{through}, {chunk.split}"


def _window(chunk: Chunk) -> tuple[str, list[Redaction]]:
    """Return a part of a long chunk around its first removed value, cut at a space, with the redactions inside it."""
    if len(chunk.text) <= _EXCERPT_CHARS:
        return chunk.text, list(chunk.redactions)
    first = min((r.start for r in chunk.redactions), default=0)
    start = chunk.text.rfind(" ", 0, max(first - _FIRST_LINE_CHARS, 0) + 1) + 1
    inside = [r for r in chunk.redactions if start <= r.start and r.end <= start + _EXCERPT_CHARS]
    crossing = min(
        (r.start for r in chunk.redactions if r.start < start + _EXCERPT_CHARS < r.end), default=start + _EXCERPT_CHARS
    )
    shown = chunk.text[start:crossing]
    return shown, [Redaction(start=r.start - start, end=r.end - start, entity=r.entity) for r in inside]


def _words_section() -> str:
    words = (
        (
            "Pseudonymised, not anonymous",
            "Names and numbers are gone, the rest of the text is not. Rare facts together can still point to a person.",
        ),
        (
            "Placeholder",
            "A value has the same placeholder wherever it stands, so that the text stays readable. It is made with a secret key.",
        ),
        ("Before", "The original text is not kept. What is shown is the scrubbed text with every placeholder covered."),
        ("Files left out", "They are not in the corpus, and nothing of them is. The other files are complete without them."),
        (
            "What this page cannot show",
            "A value that nobody recognised looks like any other word. Have a person check a sample: ingest review.",
        ),
    )
    return f"<h2>How to read this</h2>{terms(words)}"


def _more(count: int, where: str) -> str:
    return f'<p class="soft small">and {count:,} more in {escape(where)}</p>' if count > 0 else ""


def _words(name: str) -> str:
    return name.replace("_", " ")

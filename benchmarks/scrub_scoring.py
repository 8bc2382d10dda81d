"""How much personal data a detector finds in annotated texts, and how much else it takes: the metrics, without any detector.

In: the annotated development data, and for each text the places that a system would mask.
Out: shares with bootstrap intervals by document; kinds of misses as type and shape, never as values.
Refuses: nothing.
Not here: the systems, the tables and the clock (`scrub_quality.py`).

A word is masked when all its characters are. A span is masked when every word is; titles and function words in it do not
count (as in the Text Anonymization Benchmark), unless it has no others. An entity is masked when all its spans are.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

WORD: Final = re.compile(r"[^\W_]+")
_TITLES: Final = frozenset({"mr", "mrs", "ms", "miss", "dr", "prof", "sir", "herr", "frau", "mme"})
_FUNCTION_WORDS: Final = frozenset(
    {"the", "a", "an", "of", "and", "or", "in", "on", "at", "to", "for", "by", "with", "from", "de", "la", "le", "du", "der",
     "die", "das", "s", "approximately", "approx", "about"}
)  # fmt: skip
_PASSED_OVER: Final = _TITLES | _FUNCTION_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """One annotated span."""

    start: int
    end: int
    kind: str
    klass: str
    """`direct`, `quasi`, `no_mask`, `org` or `negative`."""
    entity: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One annotated text."""

    item_id: str
    text: str = field(repr=False)
    golds: tuple[Gold, ...] = field(repr=False)
    is_held_out: bool
    """Held-out items are never looked at while rules are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """What a system would mask in one item."""

    places: tuple[tuple[int, int, str], ...]
    """(start, end, label)"""
    canonical: Callable[[str], str] | None = None
    """One spelling for all mentions of a person, for systems that have it."""


def tab(folder: Path, name: str, *, is_held_out: bool) -> list[Item]:
    """Return court judgments with direct and indirect identifiers."""
    items = []
    for row in _rows(folder / "tab" / name):
        golds = tuple(
            Gold(start=s["start"], end=s["end"], kind=s["type"], klass=s["identifier_type"].lower(), entity=s["entity_id"])
            for s in row["spans"]
        )
        items.append(Item(item_id=row["doc_id"], text=row["text"], golds=golds, is_held_out=is_held_out))
    return items


def presidio_research(folder: Path) -> list[Item]:
    """Return short sentences from templates; templates with an odd number are held out."""
    items = []
    for i, row in enumerate(json.loads((folder / "presidio_research" / "generated_large.json").read_text(encoding="utf-8"))):
        golds = tuple(
            Gold(start=s["start_position"], end=s["end_position"], kind=s["entity_type"], klass="direct", entity=f"{i}-{j}")
            for j, s in enumerate(row["spans"])
        )
        items.append(
            Item(item_id=f"synth-{i}", text=row["full_text"], golds=golds, is_held_out=int(row["template_id"] or 0) % 2 == 1)
        )
    return items


def bizdocs(folder: Path) -> list[Item]:
    """Return generated business documents; every second one is held out. An entity is one person of one document."""
    items = []
    for i, row in enumerate(_rows(folder / "bizdocs" / "bizdocs_dev.jsonl")):
        golds = [
            Gold(
                start=s["start"],
                end=s["end"],
                kind=s["type"],
                klass="direct" if s["klass"] == "secret" else s["klass"],
                entity=s["group"] or s["value"],
                group=s["group"] or "",
            )
            for s in row["spans"]
        ]
        golds += [
            Gold(start=n["start"], end=n["end"], kind="NEGATIVE", klass="negative", entity=f"n{j}")
            for j, n in enumerate(row["negatives"])
        ]
        items.append(Item(item_id=row["doc_id"], text=row["text"], golds=tuple(golds), is_held_out=i % 2 == 1))
    return items


def _rows(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]  # rows of foreign JSON
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _cover(text: str, masked: Masked) -> bytearray:
    cover = bytearray(len(text))
    for start, end, _ in masked.places:
        cover[start:end] = b"\1" * (end - start)
    return cover


def _words(text: str, start: int, end: int) -> list[tuple[int, int]]:
    words = [match.span() for match in WORD.finditer(text, start, end)]
    return [(s, e) for s, e in words if text[s:e].casefold() not in _PASSED_OVER] or words


def is_masked(text: str, gold: Gold, cover: bytearray) -> bool:
    """True when every word of the span that counts is masked."""
    return all(all(cover[s:e]) for s, e in _words(text, gold.start, gold.end))


def entity_recall(
    items: Sequence[Item], systems: Sequence[Masked], klass: str, kinds: Iterable[str] = ()
) -> list[tuple[int, int]]:
    """Return (masked, all) entities per item."""
    counts = []
    wanted = frozenset(kinds)
    for item, masked in zip(items, systems, strict=True):
        cover = _cover(item.text, masked)
        entities: dict[str, bool] = {}
        for gold in item.golds:
            if gold.klass == klass and (not wanted or gold.kind in wanted):
                entities[gold.entity] = entities.get(gold.entity, True) and is_masked(item.text, gold, cover)
        counts.append((sum(entities.values()), len(entities)))
    return counts


def span_recall(items: Sequence[Item], systems: Sequence[Masked], klass: str, kind: str = "") -> list[tuple[int, int]]:
    """Return (masked, all) spans per item."""
    counts = []
    for item, masked in zip(items, systems, strict=True):
        cover = _cover(item.text, masked)
        golds = [gold for gold in item.golds if gold.klass == klass and kind in {"", gold.kind}]
        counts.append((sum(is_masked(item.text, gold, cover) for gold in golds), len(golds)))
    return counts


def leaked(items: Sequence[Item], systems: Sequence[Masked], klass: str = "direct", kind: str = "") -> list[tuple[int, int]]:
    """Return (still readable after masking, all) distinct strings per item; titles at the front do not count."""
    counts = []
    for item, masked in zip(items, systems, strict=True):
        cover = _cover(item.text, masked)
        rest = "".join("\n" if hidden else char for char, hidden in zip(item.text, cover, strict=True))
        golds = [gold for gold in item.golds if gold.klass == klass and kind in {"", gold.kind}]
        values = {item.text[words[0][0] : words[-1][1]] for gold in golds if (words := _words(item.text, gold.start, gold.end))}
        counts.append((sum(_is_readable(value, rest) for value in values), len(values)))
    return counts


def _is_readable(value: str, rest: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", rest, re.IGNORECASE) is not None


def token_precision(items: Sequence[Item], systems: Sequence[Masked]) -> list[tuple[int, int]]:
    """Return (masked words inside direct or quasi spans, masked words) per item; NO_MASK words count as wrongly masked."""
    counts = []
    for item, masked in zip(items, systems, strict=True):
        cover = _cover(item.text, masked)
        right = bytearray(len(item.text))
        for gold in item.golds:
            if gold.klass in {"direct", "quasi"}:
                right[gold.start : gold.end] = b"\1" * (gold.end - gold.start)
        hidden = [s for s, e in _words(item.text, 0, len(item.text)) if any(cover[s:e])]
        counts.append((sum(right[s] for s in hidden), len(hidden)))
    return counts


def negatives_masked(items: Sequence[Item], systems: Sequence[Masked]) -> list[tuple[int, int]]:
    """Return (touched, all) strings that must survive, per item."""
    counts = []
    for item, masked in zip(items, systems, strict=True):
        cover = _cover(item.text, masked)
        golds = [gold for gold in item.golds if gold.klass == "negative"]
        counts.append((sum(any(cover[gold.start : gold.end]) for gold in golds), len(golds)))
    return counts


def same_surrogate(items: Sequence[Item], systems: Sequence[Masked]) -> list[tuple[int, int]]:
    """Return (mentions under the person's most frequent canonical spelling, mentions) per person, across documents."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for item, masked in zip(items, systems, strict=True):
        for gold in item.golds:
            if gold.kind == "PERSON" and gold.group and masked.canonical is not None:
                spellings[gold.group].append(masked.canonical(item.text[gold.start : gold.end]))
    return [(max(map(found.count, set(found))), len(found)) for found in spellings.values()]


def misses(items: Sequence[Item], systems: Sequence[Masked], klass: str) -> Mapping[str, int]:
    """Return the frequent kinds of misses as type and shape of the value: `PERSON Aa A.`."""
    kinds: dict[str, int] = defaultdict(int)
    for item, masked in zip(items, systems, strict=True):
        cover = _cover(item.text, masked)
        for gold in item.golds:
            if gold.klass == klass and not is_masked(item.text, gold, cover):
                kinds[f"{gold.kind} {shape(item.text[gold.start : gold.end])}"] += 1
    return dict(sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0])))


def shape(value: str) -> str:
    """Return the shape of a value: runs of letters as `Aa`, `a` or `A`, digits as `9`, at most 40 characters."""
    value = re.sub(r"\s+", " ", value)
    value = re.sub(r"[^\W\d_]+", lambda m: "A" if m.group().isupper() else "a" if m.group().islower() else "Aa", value)
    return re.sub(r"\d+", "9", value)[:40]


def share(counts: Sequence[tuple[int, int]]) -> float:
    """Return the pooled share."""
    hits, total = sum(h for h, _ in counts), sum(n for _, n in counts)
    return hits / total if total else float("nan")


def interval(counts: Sequence[tuple[int, int]], *, rounds: int = 1_000, seed: int = 7) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the pooled share, items resampled."""
    table = np.asarray(counts, dtype=float)
    picks = np.random.default_rng(seed).integers(len(table), size=(rounds, len(table)))
    sums = table[picks].sum(axis=1)
    shares = sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)

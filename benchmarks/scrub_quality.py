"""Measure detection: what is found, what leaks, what is taken needlessly, and how fast, with intervals by document.

    python -m benchmarks.scrub_quality --data /path/to/data [--rival] [--json FILE] [--misses]

In: the annotated development data (`tab`, `presidio_research`, `bizdocs`) and plain contracts (`corpus_contracts`).
Out: tables on standard output, the figures as JSON.
Refuses: to run without the data or without the NER model.
Not here: the metrics (`scrub_scoring.py`).

Every label that detection reports counts as masked: this measures detection, not a policy. `--rival` runs Presidio as it is
shipped, on the same texts with the same model, with and without organisations.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import scrub_scoring as scoring
from benchmarks.scrub_scoring import Item, Masked
from spice_enterprise.corpus.detectors import ALL_RULES, PatternDetector
from spice_enterprise.corpus.finding import find_all
from spice_enterprise.corpus.people import linked
from spice_enterprise.corpus.presidio import PresidioDetector, resolve_ner_model
from spice_enterprise.corpus.second_look import SecondLook

Counts = list[tuple[int, int]]
Find = Callable[[str], Masked]
_SPEED_CHARS: Final = 400_000
_TARGETS: Final[dict[str, str]] = {
    "tab DIRECT entity recall": ">= 0.98",
    "tab DIRECT leak": "<= 0.01",
    "tab QUASI entity recall": ">= 0.88",
    "tab token precision": ">= 0.50",
    "synth span recall": ">= 0.80",
    "synth leak": "<= 0.10",
    "biz DIRECT entity recall": ">= 0.95",
    "biz DIRECT leak": "<= 0.01",
    "biz negatives masked": "<= 0.15",
    "biz same surrogate": ">= 0.95",
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rival", action="store_true", help="also run Presidio as shipped")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--misses", action="store_true", help="list kinds of misses, as type and shape")
    args = parser.parse_args()
    corpora = _corpora(args.data)
    figures: dict[str, Any] = {"spice": _measure(_ours(), corpora, show_misses=args.misses)}
    figures["speed"] = _speeds(args.data)
    _print_speeds(figures["speed"])
    if args.rival:
        for name, find in _rivals():
            figures[name] = _measure(find, corpora, name=name, show_misses=False)
        _print_ratios(figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _corpora(data: Path) -> dict[str, list[Item]]:
    return {
        "tab": [
            *scoring.tab(data, "tab_train_92.jsonl", is_held_out=False),
            *scoring.tab(data, "tab_dev_21.jsonl", is_held_out=True),
        ],
        "synth": scoring.presidio_research(data),
        "biz": scoring.bizdocs(data),
    }


def _ours() -> Find:
    detector = PresidioDetector(resolve_ner_model("embedded"))
    detector.detect("The model is loaded before the clock runs.")

    def find(text: str) -> Masked:
        found = find_all(text, detector)
        places = tuple((span.start, span.end, span.entity) for span in found.spans)
        return Masked(places=places, canonical=lambda value: found.mentions.canonical(value, "PERSON"))

    return find


def _rivals() -> Iterable[tuple[str, Find]]:
    """Yield Presidio with its own defaults over the same model, and the same with organisations."""
    from presidio_analyzer import AnalyzerEngine  # noqa: PLC0415 - only when asked for
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine  # noqa: PLC0415

    models = [{"lang_code": "en", "model_name": str(resolve_ner_model("embedded"))}]
    for name, has_organisations in (("presidio", False), ("presidio+org", True)):
        ignored = sorted(NerModelConfiguration().labels_to_ignore or ())
        ignored = [label for label in ignored if label not in {"ORG", "ORGANIZATION"}] + ([] if has_organisations else ["ORG"])
        configuration = NerModelConfiguration(labels_to_ignore=ignored)
        engine = AnalyzerEngine(nlp_engine=SpacyNlpEngine(models=models, ner_model_configuration=configuration))

        def find(text: str, engine: Any = engine) -> Masked:
            return Masked(places=tuple((r.start, r.end, r.entity_type) for r in engine.analyze(text, language="en")))

        yield name, find


def _measure(
    find: Find, corpora: Mapping[str, Sequence[Item]], *, name: str = "spice", show_misses: bool
) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    for corpus, every in corpora.items():
        started = time.process_time()
        found = [find(item.text) for item in every]
        seconds = time.process_time() - started
        print(f"\n## {name}, {corpus}: {len(every)} texts, {sum(len(i.text) for i in every) / 1000 / seconds:.1f} KB/cpu-s\n")
        print("| figure | target | all | 95 % | tuned on | held out | n |\n|---|---|---|---|---|---|---|")
        for row, counts in _rows(corpus, every, found).items():
            figures[row] = _figure(counts, every)
            _print_row(row, figures[row])
        if show_misses:
            for klass in ("direct", "quasi"):
                kinds = list(scoring.misses(every, found, klass).items())[:25]
                print(f"\nmissed {klass}: " + "; ".join(f"{kind} x{count}" for kind, count in kinds))
    return figures


def _rows(corpus: str, items: Sequence[Item], found: Sequence[Masked]) -> dict[str, Counts]:
    return {"tab": _tab_rows, "synth": _synth_rows, "biz": _biz_rows}[corpus](items, found)


def _tab_rows(items: Sequence[Item], found: Sequence[Masked]) -> dict[str, Counts]:
    rows = {
        "tab DIRECT entity recall": scoring.entity_recall(items, found, "direct"),
        "tab DIRECT entity recall, PERSON": scoring.entity_recall(items, found, "direct", ("PERSON",)),
        "tab DIRECT entity recall, CODE": scoring.entity_recall(items, found, "direct", ("CODE",)),
        "tab DIRECT leak": scoring.leaked(items, found),
        "tab QUASI entity recall": scoring.entity_recall(items, found, "quasi"),
        "tab token precision": scoring.token_precision(items, found),
    }
    for kind in _kinds(items, "quasi"):
        rows[f"tab QUASI entity recall, {kind}"] = scoring.entity_recall(items, found, "quasi", (kind,))
    return rows


def _synth_rows(items: Sequence[Item], found: Sequence[Masked]) -> dict[str, Counts]:
    rows = {
        "synth span recall": scoring.span_recall(items, found, "direct"),
        "synth leak": scoring.leaked(items, found),
        "synth token precision": scoring.token_precision(items, found),
    }
    for kind in _kinds(items, "direct"):
        rows[f"synth span recall, {kind}"] = scoring.span_recall(items, found, "direct", kind)
        rows[f"synth leak, {kind}"] = scoring.leaked(items, found, "direct", kind)
    return rows


def _biz_rows(items: Sequence[Item], found: Sequence[Masked]) -> dict[str, Counts]:
    rows = {
        "biz DIRECT entity recall": scoring.entity_recall(items, found, "direct"),
        "biz DIRECT span recall": scoring.span_recall(items, found, "direct"),
        "biz DIRECT leak": scoring.leaked(items, found),
        "biz negatives masked": scoring.negatives_masked(items, found),
    }
    if all(masked.canonical for masked in found):
        rows["biz same surrogate, each document by itself"] = scoring.same_surrogate(items, found)
        rows["biz same surrogate"] = scoring.same_surrogate(items, _linked(items, found))
    for kind in _kinds(items, "direct"):
        rows[f"biz span recall, {kind}"] = scoring.span_recall(items, found, "direct", kind)
    return rows


def _linked(items: Sequence[Item], found: Sequence[Masked]) -> list[Masked]:
    """Return the same findings with names linked across the documents, as a run does."""
    names = {
        masked.canonical(item.text[start:end])
        for item, masked in zip(items, found, strict=True)
        for start, end, label in masked.places
        if label == "PERSON" and masked.canonical is not None
    }
    links = linked(names)

    def across(own: Callable[[str], str]) -> Callable[[str], str]:
        return lambda value: links.get(own(value), own(value))

    return [dataclasses.replace(masked, canonical=across(masked.canonical)) for masked in found if masked.canonical is not None]


def _kinds(items: Sequence[Item], klass: str) -> list[str]:
    return sorted({gold.kind for item in items for gold in item.golds if gold.klass == klass})


def _figure(counts: Counts, items: Sequence[Item]) -> dict[str, Any]:
    figure: dict[str, Any] = {"all": scoring.share(counts), "n": sum(total for _, total in counts)}
    figure["low"], figure["high"] = scoring.interval(counts)
    if len(counts) == len(items):
        for part, is_held_out in (("tuned_on", False), ("held_out", True)):
            of_part = [count for count, item in zip(counts, items, strict=True) if item.is_held_out == is_held_out]
            figure[part] = scoring.share(of_part)
    return figure


def _print_row(row: str, figure: Mapping[str, Any]) -> None:
    parts = [f"{figure[part]:.3f}" if part in figure else "-" for part in ("all", "tuned_on", "held_out")]
    bounds = f"{figure['low']:.3f}-{figure['high']:.3f}"
    print(f"| {row} | {_TARGETS.get(row, '')} | {parts[0]} | {bounds} | {parts[1]} | {parts[2]} | {figure['n']} |")


def _speeds(data: Path) -> dict[str, float]:
    """Return KB per CPU-second on running text, one BLAS thread assumed (OPENBLAS_NUM_THREADS=1)."""
    files = sorted((data / "corpus_contracts" / "text").iterdir())
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)[:_SPEED_CHARS]
    ours = _ours()
    rules = PatternDetector(ALL_RULES)
    second = SecondLook()
    second.detect("warm")
    return {
        "detection, end to end": _rate(lambda: ours(text), text),
        "rules alone": _rate(lambda: rules.detect(text), text),
        "second look": _rate(lambda: second.detect(text), text),
    }


def _rate(work: Callable[[], object], text: str) -> float:
    started = time.process_time()
    work()
    return len(text) / 1000 / (time.process_time() - started)


def _print_speeds(speeds: Mapping[str, float]) -> None:
    print("\n## Speed on contracts\n\n| what | target | KB/cpu-s |\n|---|---|---|")
    targets = {"detection, end to end": ">= 35", "rules alone": ">= 300", "second look": ">= 200"}
    for name, speed in speeds.items():
        print(f"| {name} | {targets[name]} | {speed:.0f} |")


def _print_ratios(figures: Mapping[str, Any]) -> None:
    print("\n## Against Presidio as shipped, same run\n\n| figure | ours | presidio | presidio+org |\n|---|---|---|---|")
    for row in _TARGETS:
        shown = [figures[name].get(row, {}).get("all") for name in ("spice", "presidio", "presidio+org")]
        print(f"| {row} | " + " | ".join("-" if value is None else f"{value:.3f}" for value in shown) + " |")


if __name__ == "__main__":
    main()

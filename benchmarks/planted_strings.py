"""Do strings that were planted in business files stand in anything that ingestion writes?

`python -m benchmarks.planted_strings --data DATA` ingests `DATA/bizfiles/files` with the shipped policy (its limit on bad
files lifted, because four of them are scans) and searches every file of the result for the strings of
`DATA/bizfiles/manifest.jsonl`: as written, and with case, blanks and punctuation ignored. `--ocr` reads the scans too.
It ends with 1 when one is found.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spice_enterprise.job import SpiceAdapterJob

SHORTEST_LOOSE = 7
"""Shorter strings stand in other words when blanks and punctuation are ignored."""


def lenient_policy(folder: Path) -> Path:
    """Write the shipped policy without its limits, and return its path."""
    shipped = (Path(__file__).parents[1] / "policies" / "pii.yaml").read_text(encoding="utf-8")
    lifted = re.sub(r"quarantine_share: [\d.]+", "quarantine_share: 1.0", shipped)
    path = folder / "lenient.yaml"
    path.write_text(re.sub(r"residual_documents: \d+", "residual_documents: 1000", lifted), encoding="utf-8")
    return path


def planted(manifest: Path) -> Iterator[tuple[str, str]]:
    """Yield (format, string)."""
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        values = [*entry["must_not_leak"], *(hidden["value"] for hidden in entry["hidden"])]
        yield from ((entry["format"], value) for value in values)


def squeezed(text: str) -> str:
    """Return letters and digits only, in lower case."""
    return re.sub(r"\W+", "", text).casefold()


def main() -> int:
    """Print a table by format; return 1 when a string is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ocr", action="store_true")
    told = parser.parse_args()
    source = told.data / "bizfiles"
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        out = Path(folder) / "out"
        settings: dict[str, Any] = {
            "policies": {"pii": str(lenient_policy(Path(folder)))},
            "ingest": {"ocr": "auto" if told.ocr else "off"},
        }
        job = SpiceAdapterJob(corpus=str(source / "files"), workspace=str(Path(folder) / "runs"), **settings)
        manifest = job.ingest_to(out)
        written = "\n".join(p.read_text(encoding="utf-8") for p in out.iterdir() if p.is_file())
    loose = squeezed(written)
    counts: dict[str, Counter[str]] = {}
    for kind, value in planted(source / "manifest.jsonl"):
        is_loose = len(squeezed(value)) >= SHORTEST_LOOSE and squeezed(value) in loose
        counts.setdefault(kind, Counter()).update(planted=1, exact=value in written, loose=is_loose)
    print(f"{manifest.documents} documents, {manifest.chunks} chunks; left out: {dict(manifest.rejected)}\n")
    print("| format | planted | found as written | found loosely |")
    print("|---|---|---|---|")
    for kind, count in sorted(counts.items()):
        print(f"| {kind} | {count['planted']} | {count['exact']} | {count['loose']} |")
    return int(any(count["exact"] or count["loose"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())

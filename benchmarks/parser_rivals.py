"""The native parsers beside unstructured (`fast`), on the same PDF and DOCX files in the same run.

`python -m benchmarks.parser_rivals --data DATA --cache FOLDER [--rounds 3]` prints one table per format: documents with text,
characters, CPU-seconds for all files after the imports and one warm-up file, peak resident memory, and how many times the
native parser's time the rival takes.

unstructured's PDF part wants CUDA builds of torch, so it gets a virtual environment of its own under `--cache`: this
environment's packages, and what `strategy="fast"` imports installed by name without dependencies (59 MB). Telemetry is off,
and the language model is the one of examples/models_unstructured.txt.
"""

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
NEEDED = ("pdfminer.six", "pi_heif", "unstructured_inference", "unstructured.pytesseract", "onnx", "ml_dtypes", "pikepdf",
          "pdf2image")  # fmt: skip
MEASURE = """
import json, resource, sys, warnings
import logging
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
suffix, files = sys.argv[1], sys.argv[2:]
def clock():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
{setup}
def text_of(name):
    try:
        with open(name, "rb") as file:
            return sum(map(len, read(file.read())))
    except Exception:
        return 0
text_of(files[0])
before = clock()
found = [text_of(name) for name in files]
peak_mib = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([sum(n > 0 for n in found), sum(found), clock() - before, peak_mib]))
"""
NATIVE = "from spice_enterprise.corpus.parsers import parse\ndef read(data): return parse(data, suffix).pages"
RIVAL = "from spice_enterprise.corpus import unstructured_backend\ndef read(data): return unstructured_backend.read(data, suffix)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One system over all files of one format."""

    documents: int
    characters: int
    cpu_s: float
    peak_mib: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with PDF and DOCX files, searched below")
    parser.add_argument("--cache", type=Path, required=True, help="folder that holds the rival's virtual environment")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rival = rival_python(args.cache)
    for suffix in (".pdf", ".docx"):
        files = sorted(path for path in args.data.rglob(f"*{suffix}") if not path.name.endswith(".scan.pdf"))
        if files:
            print_table(suffix, files, rival, args.rounds)


def rival_python(cache: Path) -> Path:
    """Return the interpreter of the rival's environment, made on the first call."""
    home = cache / "unstructured"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=False)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
        paths = (sysconfig.get_path("purelib"), REPOSITORY)
        (packages / "shared.pth").write_text("\n".join(map(str, paths)), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
        subprocess.run([*command, "-c", str(REPOSITORY / "constraints.txt"), *NEEDED], check=True)  # noqa: S603
    return python


def print_table(suffix: str, files: Sequence[Path], rival: Path, rounds: int) -> None:
    """Measure both systems in turns and print their medians."""
    systems = {"spice": (sys.executable, NATIVE), "unstructured fast": (str(rival), RIVAL)}
    runs: dict[str, list[Measured]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, (python, setup) in systems.items():
            runs[name].append(measure(python, setup, suffix, files))
    ours = statistics.median(run.cpu_s for run in runs["spice"])
    print(f"{suffix[1:].upper()}: {len(files)} files, median of {rounds} rounds")
    print(f"{'system':<20}{'with text':>10}{'characters':>12}{'CPU s':>9}{'peak MiB':>10}{'times':>8}")
    for name, found in runs.items():
        cpu_s = statistics.median(run.cpu_s for run in found)
        peak = statistics.median(run.peak_mib for run in found)
        last = found[-1]
        print(f"{name:<20}{last.documents:>10}{last.characters:>12}{cpu_s:>9.2f}{peak:>10.0f}{cpu_s / ours:>8.1f}")


def measure(python: str, setup: str, suffix: str, files: Sequence[Path]) -> Measured:
    """Run one system once over all files."""
    command = [python, "-c", MEASURE.format(setup=setup), suffix, *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    documents, characters, cpu_s, peak_mib = json.loads(run.stdout.splitlines()[-1])
    return Measured(documents=documents, characters=characters, cpu_s=cpu_s, peak_mib=peak_mib)


if __name__ == "__main__":
    main()

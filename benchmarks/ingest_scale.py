"""How fast ingestion is from end to end, whether it always gives the same bytes, and whether memory stays flat.

`python -m benchmarks.ingest_scale --data DATA` prints four tables:

- speed: KB of text per CPU-second, and pages per second, over contracts as text and as PDF;
- equality: one against two workers, and runs killed with SIGKILL at random instants against an uninterrupted one;
- memory: peak resident memory of the largest process over 1, 10 and 100 times the example corpus, all documents different;
- silence: connections and name look-ups outside loopback, of every process, by `strace`, with a control that must trip it.

Every run is the command that users have, in processes of its own.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spice_enterprise.demo import write_corpus

EXAMPLE_DOCUMENTS = 24
STAGED = ".staged"


@dataclass(frozen=True)
class Run:
    """One ingestion."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    """Resident memory of the largest process of the run."""
    manifest: dict[str, Any]


def command(source: Path, out: Path, workspace: Path, *flags: str) -> list[str]:
    """Return the user's command."""
    return [sys.executable, "-m", "spice_enterprise", "ingest", str(source), "--out", str(out), "--workspace", str(workspace),
            "--json", *flags]  # fmt: skip


def ingest(source: Path, out: Path, workspace: Path, *flags: str) -> Run:
    """Run the command and measure all its processes, in a child so that the numbers are of this run alone."""
    begun = time.monotonic()
    measure = (
        "import json,resource,subprocess,sys;"
        "done=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,stderr=subprocess.PIPE);"
        "used=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(json.dumps([done.returncode,used.ru_utime+used.ru_stime,used.ru_maxrss/1024,done.stderr.decode()[-400:]]))"
    )
    outer = [sys.executable, "-c", measure, *command(source, out, workspace, *flags)]
    code, cpu_s, peak_mib, said = json.loads(subprocess.run(outer, check=True, capture_output=True).stdout)  # noqa: S603 - our own command
    if code:
        raise SystemExit(f"ingest ended with {code}: {said}")
    return Run(time.monotonic() - begun, cpu_s, peak_mib, json.loads((out / "manifest.json").read_bytes()))


def digests(out: Path) -> dict[str, str]:
    """Return the digest of every file of a corpus."""
    files = sorted(p for p in out.iterdir() if p.is_file() and not p.name.startswith("."))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def speed(data: Path, work: Path, workspace: Path) -> Iterator[str]:
    """Yield KB of text and pages per CPU-second, the start of the program counted apart."""
    yield "| input | documents | pages | KB of text | CPU s | of that start | KB/CPU-s | pages/CPU-s |"
    yield "|---|---|---|---|---|---|---|---|"
    (work / "one").mkdir()
    sentence = "The supplier delivers the goods to the buyer on working days, as the order says. "
    (work / "one" / "a.txt").write_text(sentence * 3, encoding="utf-8")
    start_s = ingest(work / "one", work / "out-one", workspace).cpu_s
    for name, folder, pattern in (
        ("contracts, text", data / "corpus_contracts" / "text", "*.txt"),
        ("contracts, PDF", data / "corpus_contracts" / "pdf", "*.pdf"),
    ):
        source = work / name.replace(", ", "-")
        source.mkdir()
        files = sorted(folder.glob(pattern))
        for file in files:
            shutil.copy(file, source)
        out = work / f"out-{source.name}"
        run = ingest(source, out, workspace)
        kb = sum(f.stat().st_size for f in files) / 1024 if pattern == "*.txt" else _written_kb(out)
        spent = run.cpu_s - start_s
        pages = run.manifest["pages"]
        yield (
            f"| {name} | {len(files)} | {pages} | {kb:,.0f} | {run.cpu_s:.1f} | {start_s:.1f} | {kb / spent:.1f} "
            f"| {pages / spent:.1f} |"
        )


def _written_kb(out: Path) -> float:
    with (out / "corpus.jsonl").open() as lines:
        return sum(len(json.loads(line)["text"].encode()) for line in lines) / 1024


def equality(work: Path, workspace: Path, kills: int) -> Iterator[str]:
    """Yield whether other ways to run give the same bytes."""
    source = work / "example"
    write_corpus(source, documents=120)
    whole = ingest(source, work / "whole", workspace)
    expected = digests(work / "whole")
    yield "| run | same bytes |"
    yield "|---|---|"
    ingest(source, work / "two", workspace, "--workers", "2")
    yield f"| two workers | {digests(work / 'two') == expected} |"
    rng = random.Random(11)  # noqa: S311 - instants, no secret
    same = 0
    for number in range(kills):
        out = work / f"killed-{number}"
        for _ in range(2):
            _kill_after(rng.uniform(0.2, 1.0) * whole.wall_s, command(source, out, workspace))
        ingest(source, out, workspace)
        same += digests(out) == expected
    yield f"| killed twice at random instants, {kills} runs | {same} of {kills} |"


def _kill_after(seconds: float, words: Sequence[str]) -> None:
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own command
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def memory(work: Path, workspace: Path, factors: Sequence[int]) -> Iterator[str]:
    """Yield the peak memory of growing corpora."""
    yield "| documents | chunks | peak MiB of the largest process | wall s |"
    yield "|---|---|---|---|"
    for factor in factors:
        source = work / f"times-{factor}"
        write_corpus(source, documents=EXAMPLE_DOCUMENTS * factor)
        run = ingest(source, work / f"out-{factor}", workspace, "--workers", "1")
        yield f"| {run.manifest['documents']} | {run.manifest['chunks']} | {run.peak_mib:.0f} | {run.wall_s:.0f} |"
        shutil.rmtree(source)


def silence(data: Path, work: Path, workspace: Path) -> Iterator[str]:
    """Yield how often anything reached for the network, by system call."""
    if shutil.which("strace") is None:
        yield "strace is not installed: not measured"
        return
    source = work / "mixed"
    source.mkdir()
    for folder in ("office_samples", "pdf_samples", "bizfiles/files"):
        for file in sorted((data / folder).glob("*.*")):
            shutil.copy(file, source / f"{folder.split('/')[0]}-{file.name}")
    lenient = work / "lenient.yaml"
    shipped = Path(__file__).parents[1] / "policies" / "pii.yaml"
    lenient.write_text(re.sub(r"quarantine_share: [\d.]+", "quarantine_share: 1.0", shipped.read_text(encoding="utf-8")))
    yield "| run | attempts outside loopback |"
    yield "|---|---|"
    plain = command(source, work / "out-mixed", workspace, "--policy", str(lenient))
    yield f"| ingest of {len(list(source.iterdir()))} files of every kind | {_attempts(plain, work / 'trace')} |"
    every = command(source, work / "out-every", workspace, "--policy", str(lenient), "--set", "ingest.parser=unstructured",
                    "--set", "ingest.ocr=auto")  # fmt: skip
    yield f"| the same, by unstructured and with OCR | {_attempts(every, work / 'trace-every')} |"
    control = [sys.executable, "-c", "import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('192.0.2.1', 80))"]
    yield f"| control: a program that connects once | {_attempts(control, work / 'trace-control')} |"


def _attempts(words: Sequence[str], trace: Path) -> int:
    """Count connects and datagrams to addresses that are not loopback."""
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    subprocess.run(["strace", "-f", "-qq", "-e", calls, "-o", str(trace), *words], check=True, capture_output=True)  # noqa: S603, S607 - our own command
    internet = re.compile(r"sa_family=AF_INET6?, .*")
    lines = [line for line in trace.read_text(encoding="utf-8", errors="replace").splitlines() if internet.search(line)]
    return sum(not re.search(r'inet_addr\("127\.|"::1"', line) for line in lines)


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=["speed", "equality", "memory", "silence"], action="append")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10, 100])
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ingest-scale-") as folder:
        work = Path(folder)
        workspace = work / "runs"
        tables = {
            "speed": lambda: speed(told.data, work, workspace),
            "equality": lambda: equality(work, workspace, told.kills),
            "memory": lambda: memory(work, workspace, told.factors),
            "silence": lambda: silence(told.data, work, workspace),
        }
        for name, table in tables.items():
            if told.only is None or name in told.only:
                print(f"\n## {name}\n", flush=True)
                for line in table():
                    print(line, flush=True)


if __name__ == "__main__":
    main()

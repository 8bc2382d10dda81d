"""Two or more systems side by side: each in a process of its own, commanded one iteration at a time, in turns.

In: `Arm`s, each a function that sets a system up once and returns one that runs an iteration.
Out: per arm the useful tokens per second, seconds and peak memory; ratios of pairs that ran beside each other.
Refuses: a child that dies, hangs or answers with something else (`ArmError`, one line).
Not here: what is compared (the other modules of this folder).

An arm's function takes the settings (a mapping of JSON values) and returns `run(number) -> Work`. Its process sets up, waits,
and runs one iteration whenever it is told to, so that every pair sees the same machine: A B, B A, A B, ... Warm-ups are run
and thrown away. A child's standard output goes to standard error: only this module speaks on the pipe.
"""

import argparse
import importlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

REPOSITORY: Final = Path(__file__).parent.parent
GIB: Final = 1 << 30
QUIET: Final = ("HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HF_HUB_DISABLE_TELEMETRY=1", "TOKENIZERS_PARALLELISM=false",
                "TRANSFORMERS_VERBOSITY=error", "HF_HUB_DISABLE_PROGRESS_BARS=1", "TQDM_DISABLE=1")  # fmt: skip

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one iteration did."""

    tokens: float
    """Useful tokens (or whatever the benchmark counts)."""
    wall_s: float | None = None
    """Seconds that count; `None`: the whole iteration."""
    cpu_s: float | None = None
    """The same in CPU seconds of all threads (`time.process_time`)."""
    inputs: str = ""
    """A digest of what was worked on; arms whose digests differ in a round are refused."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Anything else worth reporting, by name: seconds of a phase, a loss, a gap."""


Run = Callable[[int], Work]
SetUp = Callable[[Settings], Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a comparison."""

    name: str
    function: str
    """`package.module:function`, a `SetUp`."""
    settings: Settings = field(default_factory=dict)
    python: str = sys.executable
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration, as its process measured it."""

    tokens: float
    wall_s: float
    cpu_s: float
    inputs: str
    figures: Mapping[str, float]

    @property
    def tokens_per_s(self) -> float:
        """Useful tokens per second; NaN when it took no time."""
        return self.tokens / self.wall_s if self.wall_s > 0 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One arm over all rounds that count."""

    name: str
    iterations: tuple[Iteration, ...]
    loaded_bytes: int
    """Resident memory once set up."""
    peak_bytes: int
    """Most resident memory since it was set up."""

    @property
    def tokens_per_s(self) -> float:
        """Median over the iterations."""
        return statistics.median(each.tokens_per_s for each in self.iterations)

    @property
    def wall_s(self) -> float:
        """Median over the iterations."""
        return statistics.median(each.wall_s for each in self.iterations)

    @property
    def cpu_s(self) -> float:
        """Median over the iterations."""
        return statistics.median(each.cpu_s for each in self.iterations)

    def figure(self, name: str) -> float:
        """Return the median of a figure of its own."""
        return statistics.median(each.figures[name] for each in self.iterations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


class ArmError(RuntimeError):
    """A child did not do its work; the message is one line."""


# --- the child --------------------------------------------------------------------------------------------------------


def serve(function: str, pipe: IO[str]) -> None:
    """Set the arm up and run an iteration for each number that comes in; ends with the input."""
    settings = json.loads(sys.stdin.readline())
    module, _, name = function.partition(":")
    run: Run = getattr(importlib.import_module(module), name)(settings)
    loaded = _memory("VmRSS")
    _reset_peak()
    _answer(pipe, {"loaded_bytes": loaded})
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        work = run(int(line))
        whole = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        _answer(pipe, {**whole, **{k: v for k, v in asdict(work).items() if v is not None}, "peak_bytes": _memory("VmHWM")})


def _memory(key: str) -> int:
    """Return a line of /proc/self/status in bytes. `ru_maxrss` will not do: it begins at the size of the parent."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _reset_peak() -> None:
    """Forget what loading took, so that the peak is that of the iterations."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # not allowed here: then the peak includes loading


def _answer(pipe: IO[str], content: Mapping[str, object]) -> None:
    pipe.write(json.dumps(content) + "\n")
    pipe.flush()


# --- the parent -------------------------------------------------------------------------------------------------------


class Child:
    """One arm's process, set up and waiting."""

    def __init__(self, arm: Arm, *, timeout_s: float) -> None:
        """Start it and wait until it is set up. Raises `ArmError`."""
        self._arm = arm
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        pinned = [f"{name}={arm.threads}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            ["/usr/bin/env", *pinned, *QUIET, arm.python, "-m", "benchmarks.arms", arm.function],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0, cwd=REPOSITORY,
        )  # fmt: skip
        try:
            self.loaded_bytes = int(self._ask(json.dumps({**arm.settings, "threads": arm.threads}))["loaded_bytes"])
        except ArmError:
            self.close()
            raise
        self.peak_bytes = 0

    def run(self, number: int) -> Iteration:
        """Run one iteration. Raises `ArmError`."""
        answer = self._ask(str(number))
        self.peak_bytes = int(answer["peak_bytes"])
        return Iteration(**{name: value for name, value in answer.items() if name != "peak_bytes"})

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _ask(self, line: str) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise self._dead() from None
        if not select.select([stdout], [], [], self._timeout_s)[0]:
            raise ArmError(f"arm {self._arm.name}: no answer in {self._timeout_s:.0f} s")
        answer = stdout.readline()
        if not answer:
            raise self._dead()
        found: dict[str, Any] = json.loads(answer)
        return found

    def _dead(self) -> ArmError:
        code = self._process.wait()
        if code < 0:  # what it said last has nothing to do with it
            return ArmError(f"arm {self._arm.name}: killed by signal {-code}" + (" (out of memory?)" if code == -9 else ""))
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return ArmError(f"arm {self._arm.name}: ended with status {code}: {said[-1] if said else 'no message'}")


def compare(arms: Sequence[Arm], *, pairs: int = 5, warmups: int = 2, timeout_s: float = 600.0) -> list[Measured]:
    """Run every arm `warmups + pairs` times, in turns, the order reversed each round; the warm-ups do not count.

    Iteration numbers are the same for all arms, so that drawn inputs are. Raises `ArmError`.
    """
    with ExitStack() as stack:
        children = []
        for arm in arms:
            children.append(Child(arm, timeout_s=timeout_s))
            stack.callback(children[-1].close)
        found: list[list[Iteration]] = [[] for _ in arms]
        for number in range(warmups + pairs):
            for index in turn(len(arms), number):
                iteration = children[index].run(number)
                found[index].append(iteration)
            _require_same([its[-1].inputs for its in found], arms)
        return [
            Measured(name=arm.name, iterations=tuple(its[warmups:]), loaded_bytes=child.loaded_bytes, peak_bytes=child.peak_bytes)
            for arm, its, child in zip(arms, found, children, strict=True)
        ]


def _require_same(inputs: Sequence[str], arms: Sequence[Arm]) -> None:
    if len(set(inputs)) > 1:
        raise ArmError(f"arms {', '.join(arm.name for arm in arms)} did not work on the same input")


def turn(arms: int, number: int) -> Sequence[int]:
    """Return the order in round `number`: forwards, then backwards, so that a drift of the machine cancels."""
    return range(arms) if number % 2 == 0 else range(arms - 1, -1, -1)


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of at least one value."""
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=middle, low=low, high=high)


def speed_ratio(ours: Measured, rival: Measured) -> Spread:
    """Return how many times the rival's tokens per second ours has, pair by pair."""
    pairs = zip(ours.iterations, rival.iterations, strict=True)
    return spread([a.tokens_per_s / b.tokens_per_s for a, b in pairs])


def cpu_ratio(ours: Measured, rival: Measured) -> Spread:
    """Return the same by CPU seconds, which other load on the machine hardly changes."""
    pairs = zip(ours.iterations, rival.iterations, strict=True)
    return spread([(a.tokens / a.cpu_s) / (b.tokens / b.cpu_s) for a, b in pairs])


def memory_ratio(ours: Measured, rival: Measured) -> float:
    """Return the peak of ours as a share of the rival's."""
    return ours.peak_bytes / rival.peak_bytes


# --- what is printed --------------------------------------------------------------------------------------------------


def table(measured: Sequence[Measured], *, rival: Measured, unit: str = "useful tok/s") -> str:
    """Return a markdown table; ratios are to `rival`."""
    names = ("arm", f"{unit} (quartiles)", "s", "CPU s", "peak GiB", "of it since loading",
             f"times {rival.name}'s speed", "by CPU time", "times its peak")  # fmt: skip
    rows = [names, ("---",) * len(names), *(_row(each, rival) for each in measured)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(each: Measured, rival: Measured) -> tuple[str, ...]:
    speeds = spread([iteration.tokens_per_s for iteration in each.iterations])
    grown = max(0, each.peak_bytes - each.loaded_bytes) / GIB
    own = (each.name, str(speeds), f"{each.wall_s:.2f}", f"{each.cpu_s:.2f}", f"{each.peak_bytes / GIB:.2f}", f"{grown:.2f}")
    if each is rival:
        return (*own, "1", "1", "1")
    return (*own, str(speed_ratio(each, rival)), str(cpu_ratio(each, rival)), f"{memory_ratio(each, rival):.2f}")


def figures(measured: Sequence[Measured]) -> str:
    """Return one line per arm with the medians of its own figures."""
    lines = []
    for each in measured:
        names = sorted(each.iterations[0].figures)
        if names:
            lines.append(f"{each.name}: " + ", ".join(f"{name} {each.figure(name):.4g}" for name in names))
    return "\n".join(lines)


def require(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """End the program with one line unless `value` is within the limits."""
    if (at_least is not None and not value >= at_least) or (at_most is not None and not value <= at_most):
        limit = f"at least {at_least:.2f}" if at_least is not None else f"at most {at_most:.2f}"
        raise SystemExit(f"{what}: {value:.2f}, expected {limit}")


def add_arguments(parser: argparse.ArgumentParser, *, pairs: int = 5) -> None:
    """Add what every comparison takes."""
    parser.add_argument("--rival-python", default=sys.executable, help="interpreter that has the rival installed")
    parser.add_argument("--pairs", type=int, default=pairs, help="iterations of each arm that count")
    parser.add_argument("--warmups", type=int, default=2, help="iterations of each arm before that")
    parser.add_argument("--threads", type=int, default=1, help="of each arm")
    parser.add_argument("--small", action="store_true", help="a small case; fails below 60 %% of the target")
    parser.add_argument("--json", type=Path, help="write what was measured here")


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return everything measured as plain data."""
    return [asdict(each) for each in measured]


def main() -> None:
    """Be a child: the pipe is the standard output this process was started with."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not reach the pipe
    serve(sys.argv[1], pipe)


if __name__ == "__main__":
    main()

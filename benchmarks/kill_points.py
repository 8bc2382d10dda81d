"""Is anything lost? A small run on real parts is stopped, torn, starved and damaged, resumed, and compared.

In: nothing but this package and the tiny model of the tests.
Out: a table: how many trials of each fault came to the very same adapter, records, commits, audit events and metrics.
Refuses: nothing.
Not here: the faults themselves (`file_faults.py`).

    OMP_NUM_THREADS=1 python -m benchmarks.kill_points [--random 50] [--flips 500] [--sample 1] [--overlap]
"""

import argparse
import dataclasses
import errno
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import torch

from benchmarks.file_faults import FileOperations, Images, failing
from spice_enterprise import durable
from spice_enterprise.audit.log import TransparencyLog
from spice_enterprise.audit.records import parse
from spice_enterprise.config import TrainingConfig
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.errors import SpiceError, boundary
from spice_enterprise.guardrails.drift import HardRuleMonitor
from spice_enterprise.guardrails.leaks import LeakMonitor
from spice_enterprise.loop import LoopParts, LoopSettings, self_play
from spice_enterprise.policy import load_guardrails
from spice_enterprise.protocols import Played, PlayedRollout, Progress, Sampler, Window
from spice_enterprise.records import AdapterVersion, Chunk, RolloutGroup, Step, Task, canonical_json, digest_of
from spice_enterprise.seeding import stream
from spice_enterprise.store import RunStore
from spice_enterprise.testing import LineIngestor, MemorySource, StepMonitor
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.delivery import MAX_GAP_NATS, ProvenSampler
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.hf_twin import load_twin
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.trainer import QloraTrainer, Sampling

STEPS: Final = 3
ALARM: Final = 2
"""This step goes back to the version before it."""
TESTS: Final = Path(__file__).resolve().parent.parent / "tests" / "torch" / "conftest.py"


def load_tools() -> Any:
    """Return the tests' helpers: the tiny model and its world."""
    spec = importlib.util.spec_from_file_location("tiny_world", TESTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Rig:
    """A learner and a tokenizer that every trial inherits by fork, fresh."""

    def __init__(self, folder: Path, *, is_overlapped: bool = False) -> None:
        torch.set_num_threads(1)
        self.tools = load_tools()
        self.base = self.tools.resolve(self.tools.write_model(folder / "tiny"))
        self.config = TrainingConfig(
            lora_rank=2, lora_alpha=2, learning_rate=1e-2, warmup_steps=0, compute_dtype="float32", quantization="none",
            max_staleness=1 if is_overlapped else 0, mask_truncated=False,
        )  # fmt: skip
        self.learner = LearnerModel.load(self.base, self.config, seed=11)
        self.tokenizer = ChatTokenizer(self.base.path)
        # with one step of overlap the sampler needs weights of its own
        self.twin = load_twin(self.base, self.config, dtype="auto", seed=11) if is_overlapped else self.learner
        self._warm_up(folder)
        files = {f"{i}.txt": f"fact {i}\n".encode() for i in range(5)}
        self.chunks = LineIngestor().ingest(MemorySource(files), lambda _: None).train

    def _warm_up(self, folder: Path) -> None:
        """Load once what libraries load at first use, so that no trial pays for it."""
        tools = self.tools
        world = tools.World(self.base, folder / "warm", self.config)
        world.step(world.trainer.start(), 1)

    def run(self, root: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Run or resume the run in `root` to its end. Raises what the loop raises, classified as a job does."""
        run_dir = root / "run"
        sampler = self._sampler(run_dir)
        log = TransparencyLog(root / "audit", origin="spice.audit", key=b"k" * 32, actor="test", clock=clock)
        parts = LoopParts(
            player=SmallPlayer(self.tools, sampler, root / "sampled"),
            sampler=sampler,
            trainer=self._trainer(run_dir),
            monitors=(self.rules(), LeakMonitor(PatternDetector()), StepMonitor((ALARM,))),
            audit=log,
            window=cast("Window", SpoolWindow(root / "spool.jsonl")),
        )
        settings = LoopSettings(
            run="r", steps=STEPS, chunks_per_step=2, seed=0, max_restores=3, max_staleness=self.config.max_staleness,
            identity=(("config", "sha256:k"),),
        )  # fmt: skip
        store = RunStore(run_dir)
        with boundary("training"), store.lock():
            self_play(self.chunks, parts, store, settings, on_progress)

    def _sampler(self, run_dir: Path) -> Sampler:
        """Return the learner's own sampler, or one on the twin that serves only what the canary has seen arrive."""
        own = HfSampler(self.learner, self.tokenizer, run_dir=run_dir)
        if self.twin is self.learner:
            return own
        return ProvenSampler(HfSampler(self.twin, self.tokenizer, run_dir=run_dir), own, limit_nats=MAX_GAP_NATS["float32"])

    def rules(self) -> HardRuleMonitor:
        """Return the hard rules, blind to steep gradients: random weights have them."""
        return HardRuleMonitor(load_guardrails().model_copy(update={"max_grad_norm": 1e9}))

    def _trainer(self, run_dir: Path) -> Any:
        sampling = Sampling(l_max={"challenger": 20, "reasoner": 10})
        digests = {name: digest_of(name) for name in ("corpus_digest", "config_digest")}
        lineage = dataclasses.replace(self.tools.lineage_of(self.base), **digests)
        return Timeless(self.learner, run_dir=run_dir, config=self.config, sampling=sampling, lineage=lineage)


class Timeless(QloraTrainer):
    """The real trainer; times differ between runs, nothing else may."""

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        """Update, and say that it took no time."""
        return dataclasses.replace(super().update(groups, number=number), duration_s=0.0)


class SmallPlayer:
    """Plays two groups and one task per step with the real sampler, and notes each play outside the run."""

    def __init__(self, tools: Any, sampler: Any, notes: Path) -> None:
        self._tools, self._sampler, self._notes = tools, sampler, notes
        self._tasks: tuple[str, ...] = ()

    def entries(self, played: Played, *, step: int) -> tuple[str, ...]:
        """Remember a task by its id and step."""
        return tuple(f"{task.task_id} {step}" for task in played.tasks)

    def remember(self, tasks: Sequence[str]) -> None:
        """Keep the tasks of before."""
        self._tasks = tuple(tasks)

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Sample two groups; the rewards depend on the tokens."""
        with self._notes.open("a") as file:
            file.write(f"{step}\n")
        prompts = [self._tools.ask(f"question {step} {i}", 4) for i in range(2)]
        sampled = self._sampler.sample(prompts, n=2, seed=100 + step)
        roles = ("challenger", "reasoner")
        groups = [
            self._tools.make_group(version, c, step=step, role=r, rewards=[0.0, 1.0]) for r, c in zip(roles, sampled, strict=True)
        ]
        task = Task(
            chunk_id=chunks[0].chunk_id, rollout_id=groups[0].rollouts[0].rollout_id, question=f"what {step}", answer="a",
            answer_kind="text", task_format="free_form", regime="open_book",
        )  # fmt: skip
        played = tuple(PlayedRollout(group=group, is_trained=True) for group in groups)
        return Played(groups=tuple(groups), tasks=(task,), rollouts=played)


class SpoolWindow:
    """Keeps one line per step id, as the spool of the MLflow mirror does."""

    def __init__(self, path: Path) -> None:
        durable.drop_torn_tail(path)
        self._path = path

    def log_step(self, step: Step, extra: dict[str, float]) -> None:
        """Keep the metrics of a step, once."""
        line = canonical_json({"step_id": step.step_id, **step.metrics(), **extra})
        if line not in durable.read_lines(self._path):
            durable.append_lines(self._path, [line])


def clock() -> datetime:
    """Return one moment: time stamps are the only thing that may differ."""
    return datetime(2026, 1, 1, tzinfo=UTC)


def outcome(root: Path) -> dict[str, Any]:
    """Return everything that must be equal: bytes of records, commits, plays, adapters, metrics; what the log says.

    What a killed process left half written is part of it: text of documents may be in there.
    """
    run = root / "run"
    files = [*run.glob("records/*"), run / "commits.jsonl", *run.glob("journal/s*"), root / "spool.jsonl"]
    files += [*run.glob("adapters/*/*"), *run.glob("states/*/*")]
    events = [parse(line) for line in durable.read_lines(root / "audit" / "records.jsonl")]
    said = [
        [e.event, [s.digest for s in e.subject], [i.digest for i in e.inputs], canonical_json(e.data).decode()]
        for e in events
        if e.event != "incident.opened"
    ]
    state = json.loads(max(run.glob("run_states/s*")).read_bytes().splitlines()[0])
    for name in ("audit_size", "audit_root"):
        del state[name]  # a torn line is noted in the log, so later places shift
    return {
        "files": {str(file.relative_to(root)): file.read_bytes().hex() for file in sorted(files)},
        "audit": said,
        "state": state,
        "left": sorted(str(path.relative_to(root)) for path in run.rglob(".*")),
        "played": sorted((root / "sampled").read_text().split()),
    }


# --- trials -----------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], str]) -> str:
    """Return what `work` returns in a process of its own; `died` when it did not come back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            said = work()
        except SpiceError as error:
            said = f"refused {error.code} {error.exit_status()} {error.message}"
        except BaseException:  # noqa: BLE001 - a child must not fall into its parent's code
            said = "broke " + traceback.format_exc()
        os.write(writer, said.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said or "died"


class Trials:
    """Trials of one rig against its uninterrupted run."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig, self.folder = rig, folder
        self.reference: dict[str, Any] = {}
        self.operations = 0
        self.images: dict[str, list[tuple[str, int]]] = {}
        self.names: list[str] = []

    def record(self) -> None:
        """Run once without a fault, taking the image before every operation."""
        root = self.folder / "reference"
        images = self.folder / "images"
        for path in (root, images):
            path.mkdir()
        (root / "sampled").touch()
        notes = self.folder / "found.json"

        def work() -> str:
            taken, names = Images(root, images), []

            def before(number: int, name: str, args: tuple[Any, ...]) -> None:
                names.append(name)
                taken.before(number, name, args)

            with FileOperations(root, before, taken.after).watched():
                self.rig.run(root)
            notes.write_text(json.dumps({"found": taken.found, "names": names}))
            return "done"

        said = in_child(work)
        if said != "done":
            raise RuntimeError(said)
        found = json.loads(notes.read_text())
        self.reference = outcome(root)
        self.images, self.names = found["found"], found["names"]
        self.operations = len(self.names)

    def resumed(self, root: Path) -> str:
        """Resume the run in `root`: `equal`, `refused CODE ...`, or how it differs."""
        said = in_child(lambda: self._finish(root))
        return self.compare(root) if said == "done" else said

    def _finish(self, root: Path) -> str:
        """Resume to the end, and read every play as the gate and the report do."""
        self.rig.run(root)
        return "done" if len(list(RunStore(root / "run").played())) == STEPS else "lost a play"

    def compare(self, root: Path) -> str:
        """Compare with the uninterrupted run; a step whose play was journalled must not have been sampled again."""
        found = outcome(root)
        differing = [key for key in self.reference if key != "played" and found[key] != self.reference[key]]
        if not differing:
            return "equal"
        if differing == ["files"]:
            ours, theirs = found["files"], self.reference["files"]
            return "differs " + " ".join(n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n))
        return "differs " + " ".join(differing)

    def resume_images(self, faults: Sequence[str], every: int = 1) -> Counter[tuple[str, str]]:
        """Resume every image of these faults (each different one once); return (fault, result) over all operations."""
        results: Counter[tuple[str, str]] = Counter()
        for position, (name, leavers) in enumerate(sorted(self.images.items(), key=lambda item: item[1][0][1])):
            wanted = [(fault, number) for fault, number in leavers if fault in faults]
            if not wanted or position % every:
                continue
            root = self.folder / "trial"
            shutil.copytree(self.folder / "images" / name, root)
            (root / "sampled").touch()
            journalled = {int(path.stem[5:]) for path in (root / "run" / "journal").glob("step-*")}
            before = len((root / "sampled").read_text().split())
            said = self.resumed(root)
            again = {int(step) for step in (root / "sampled").read_text().split()[before:]} & journalled
            if again:
                said += f" sampled-again {sorted(again)}"
            for fault, number in wanted:
                results[fault, said if said == "equal" else f"{said} at {number} {self.names[number]}"] += 1
            shutil.rmtree(root)
        return results

    def fail_at(self, number: int, code: int, *, is_lasting: bool) -> str:
        """Let operations fail from `number` on, then resume with a healthy disk."""
        root = self.folder / "trial"
        root.mkdir()
        (root / "sampled").touch()
        names = frozenset({"fsync"}) if code == errno.EIO else None
        options = {"names": names} if names else {}

        def work() -> str:
            with FileOperations(root, failing(number, code, is_lasting=is_lasting, **options)).watched():
                self.rig.run(root)
            return "done"

        said = in_child(work)
        wanted = "refused E_DISK_FULL 75" if code == errno.ENOSPC else "refused"
        # a failure of the last clean-up is no failure of the run
        result = self.resumed(root) if said.startswith(wanted) or said == "done" else f"stopped with {said}"
        shutil.rmtree(root)
        return result

    def killed_at_random(self, random: Random, longest_s: float, stop: int = signal.SIGKILL) -> str:
        """Stop a process that runs by a signal at a random instant, then resume."""
        root = self.folder / "trial"
        root.mkdir()
        (root / "sampled").touch()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                self.rig.run(root)
            os._exit(0)
        time.sleep(random.uniform(0, longest_s))
        os.kill(child, stop)
        os.waitpid(child, 0)
        result = self.resumed(root)
        shutil.rmtree(root)
        return result


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGED: Final = ("states", "adapters", "journal", "records", "run_states", "commits.jsonl")


def files_of(root: Path) -> list[Path]:
    """Return every file that carries the run, in order."""
    files = [file for name in DAMAGED for file in [root / "run" / name, *(root / "run" / name).rglob("*")]]
    return sorted(file for file in files if file.is_file() and file.stat().st_size)


def flip(file: Path, random: Random) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(bytes(data))


def truncate(file: Path, random: Random) -> None:
    """Cut at a random place."""
    data = file.read_bytes()
    file.write_bytes(data[: random.randrange(len(data))])


def zero(file: Path, _: Random) -> None:
    """Replace every byte by zero."""
    file.write_bytes(bytes(file.stat().st_size))


def delete(file: Path, _: Random) -> None:
    """Remove it."""
    file.unlink()


def damage_trials(
    trials: Trials, image: Path, jobs: Iterable[tuple[Callable[[Path, Random], None], int]], random: Random
) -> Counter[str]:
    """Damage one file of a copy of `image` at a time and resume; `jobs` are (damage, index of the file).

    Damage to the newest run state, learner state or adapter must be made good; anything else may be refused.
    """
    results: Counter[str] = Counter()
    files = [file.relative_to(image) for file in files_of(image)]
    newest = newest_of(image)
    for damage, index in jobs:
        root = trials.folder / "trial"
        shutil.copytree(image, root)
        (root / "sampled").touch()
        file = files[index % len(files)]
        damage(root / file, random)
        said = trials.resumed(root)
        may_refuse = not any(file.is_relative_to(folder) for folder in newest)
        is_fine = said == "equal" or (may_refuse and said.startswith("refused"))
        results[said.split()[0] if is_fine else f"{damage.__name__} {file}: {said}"] += 1
        shutil.rmtree(root)
    return results


def newest_of(image: Path) -> list[Path]:
    """Return the newest run state, learner state and adapter of an image, relative to it."""
    run = image / "run"
    versions = RunStore(run).all(AdapterVersion)
    paths = (max(run.glob("run_states/s*")), max(run.glob("states/s*")), run / "adapters" / versions[-1].adapter_id)
    return [path.relative_to(image) for path in paths]


def image_before(trials: Trials, number: int) -> Path:
    """Return the image that a kill before operation `number` leaves."""
    name = next(name for name, leavers in trials.images.items() if ["kill", number] in [list(item) for item in leavers])
    return trials.folder / "images" / name


def sizes_of_damage(trials: Trials, image: Path, flips: int, random: Random) -> list[tuple[Callable[[Path, Random], None], int]]:
    """Return `flips` bit flips, spread over bytes, then every other damage once per file."""
    files = files_of(image)
    weights = [file.stat().st_size for file in files]
    chosen = [*range(len(files)), *random.choices(range(len(files)), weights, k=max(0, flips - len(files)))][:flips]
    return [(flip, index) for index in chosen] + [(d, i) for d in (truncate, zero, delete) for i in range(len(files))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run all trials and print the table; 1 when any trial is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=50, help="SIGKILLs at random instants")
    parser.add_argument("--flips", type=int, default=500, help="bit flips")
    parser.add_argument("--sample", type=int, default=1, help="take every n-th operation")
    parser.add_argument("--overlap", action="store_true", help="with max_staleness 1")
    options = parser.parse_args(argv)
    folder = scratch()
    try:
        return _report(Trials(Rig(folder, is_overlapped=options.overlap), folder), options)
    finally:
        shutil.rmtree(folder)


def scratch() -> Path:
    """Return a new folder, in memory where there is some: what a trial leaves is no business of a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - made by mkdtemp, private
    return Path(tempfile.mkdtemp(prefix="kill-points-", dir=memory if memory.is_dir() else None))


def _report(trials: Trials, options: argparse.Namespace) -> int:
    random = stream(0, "places")
    begun = time.monotonic()
    trials.record()
    once_s = time.monotonic() - begun
    _say(f"K = {trials.operations} file operations: {dict(Counter(trials.names))}; {len(trials.images)} different images")
    bad = 0
    for fault in ("kill", "torn", "lost"):
        results = trials.resume_images((fault,), options.sample)
        bad += _line(fault, Counter({said: count for (_, said), count in results.items()}))
    numbers = range(0, trials.operations, options.sample)
    for label, code, is_lasting in (
        ("ENOSPC once", errno.ENOSPC, False),
        ("ENOSPC lasting", errno.ENOSPC, True),
        ("EIO at fsync", errno.EIO, False),
    ):
        bad += _line(label, Counter(trials.fail_at(number, code, is_lasting=is_lasting) for number in numbers))
    bad += _line("SIGKILL at random", Counter(trials.killed_at_random(random, once_s / 4) for _ in range(options.random)))
    image = image_before(trials, trials.operations - 12)
    damaged = damage_trials(trials, image, sizes_of_damage(trials, image, options.flips, random), random)
    bad += _line("damage", damaged, good=("equal", "refused"))
    return 1 if bad else 0


def _line(label: str, results: Counter[str], good: tuple[str, ...] = ("equal",)) -> int:
    total, fine = sum(results.values()), sum(results[key] for key in good)
    _say(f"{label:20} {fine} of {total}   " + ", ".join(f"{count} {key[:300]}" for key, count in results.most_common(8)))
    return total - fine


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

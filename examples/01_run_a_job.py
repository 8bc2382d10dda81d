"""A whole job on fakes: the real order, store and report, with no model and no library heavier than pydantic.

In: documents as a mapping of name to bytes.
Out: a `JobResult` and its report card.
Refuses: nothing.
Not here: learning. `FakeTrainer` keeps the books of a learner; the verdict is the one that `FixedJudge` was given.
"""

import sys
import tempfile
from pathlib import Path

from spice_enterprise import JobResult, Parts, SpiceAdapterJob
from spice_enterprise.protocols import Progress
from spice_enterprise.testing import (
    FakePlayer,
    FakeTrainer,
    FixedExaminer,
    FixedJudge,
    LineIngestor,
    MemoryAudit,
    MemoryRegistry,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)

FILES = {f"lease-{i}.txt": f"Lease {i} runs for {i + 12} months\nIts deposit is {i + 3} rents\n".encode() for i in range(10)}


def show(event: Progress) -> None:
    """Print the stages as they begin and end."""
    if event.message in ("begin", "done"):
        sys.stderr.write(f"{event.stage} {event.message}\n")


def main(workspace: Path) -> JobResult:
    """Run one job in `workspace`."""
    parts = Parts(
        source=MemorySource(FILES),
        ingestor=LineIngestor(),
        examiner=FixedExaminer(),
        player=FakePlayer(),
        sampler=ScriptedSampler(lambda prompt, random: "12 months"),
        base_sampler=ScriptedSampler(lambda prompt, random: "12 months", is_base=True),
        trainer=FakeTrainer(),
        monitors=(),
        judge=FixedJudge("PASS"),
        registry=MemoryRegistry(),
        audit=MemoryAudit(),
        window=MemoryWindow(),
    )
    selfplay = {"steps": 3, "chunks_per_step": 2}
    job = SpiceAdapterJob("memory", parts=parts, on_progress=show, workspace=str(workspace), selfplay=selfplay)
    result = job.run()
    result.show()
    return result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))

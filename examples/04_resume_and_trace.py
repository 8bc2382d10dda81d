"""A job is interrupted, continues, and one record is followed back to its document.

In: a job on fakes whose player is interrupted once, in step 3.
Out: the ids on the road from the adapter to a document.
Refuses: nothing.
Not here: `spice-enterprise trace ID`, which does the same for every run of a workspace.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from spice_enterprise import AdapterVersion, Chunk, Parts, SpiceAdapterJob, SpiceError
from spice_enterprise.protocols import Played
from spice_enterprise.records import id_of
from spice_enterprise.store import RunStore
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

FILES = {f"policy-{i}.txt": f"Visitors of site {i} wear badge {i}\n".encode() for i in range(10)}


class InterruptedPlayer(FakePlayer):
    """Somebody presses Ctrl-C in step 3, once."""

    is_done = False

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Play, or be interrupted."""
        if step == 3 and not self.is_done:
            self.is_done = True
            raise KeyboardInterrupt
        return super().play(chunks, version, step=step)


def main(workspace: Path) -> list[str]:
    """Run twice and return the ids from the adapter back to a document."""
    parts = Parts(
        source=MemorySource(FILES), ingestor=LineIngestor(), examiner=FixedExaminer(), player=InterruptedPlayer(),
        sampler=ScriptedSampler(lambda prompt, random: ""), trainer=FakeTrainer(), monitors=(),
        judge=FixedJudge("INCONCLUSIVE"), registry=MemoryRegistry(), audit=MemoryAudit(), window=MemoryWindow(),
    )  # fmt: skip
    selfplay = {"steps": 4, "chunks_per_step": 1}
    job = SpiceAdapterJob("memory", parts=parts, workspace=str(workspace), selfplay=selfplay)
    try:
        job.run()
    except SpiceError as error:
        print(error.explain())  # E_STOPPED, exit code 75: the same command continues
    result = job.run()
    assert result.version is not None  # noqa: S101 - an example may say what it knows
    lineage = RunStore(result.run_dir).lineage(result.version.adapter_id)
    road = [id_of(record) for record in (lineage.record, *lineage.ancestors)]
    print("\n".join(road))
    return road


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))

"""Two adapters pass, the second disappoints in use, and one call points back to the first.

In: two jobs on fakes that share a workspace and a registry.
Out: the moves of the alias `sandbox`, oldest first, and the audit events they left.
Refuses: to go back further than the first (`NoSafeVersionError`).
Not here: serving. The pointer says which digest should serve; this version has no server.
"""

import tempfile
from pathlib import Path

from spice_enterprise import Parts, Promotion, SpiceAdapterJob, SpiceError
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

FILES = {f"report-{i}.txt": f"Site {i} made {i + 4} tonnes\n".encode() for i in range(10)}


def main(workspace: Path) -> list[Promotion]:
    """Promote twice, go back once, and try once more than there is."""
    registry, audit = MemoryRegistry(), MemoryAudit()

    def job(name: str, seed: int) -> SpiceAdapterJob:
        parts = Parts(
            source=MemorySource(FILES), ingestor=LineIngestor(), examiner=FixedExaminer(), player=FakePlayer(),
            sampler=ScriptedSampler(lambda prompt, random: ""), trainer=FakeTrainer(), monitors=(),
            judge=FixedJudge("PASS"), registry=registry, audit=audit, window=MemoryWindow(),
        )  # fmt: skip
        selfplay = {"steps": 2, "chunks_per_step": 2}
        return SpiceAdapterJob("memory", parts=parts, workspace=str(workspace), name=name, seed=seed, selfplay=selfplay)

    first, second = job("march", 0).run(), job("april", 1).run()
    moves = [move for move in (first.promotion, second.promotion) if move is not None]
    moves.append(job("april", 1).rollback("sandbox"))
    for move in moves:
        print(f"generation {move.generation}  {move.kind:<8}  sandbox -> {move.adapter_id}")
    try:
        job("april", 1).rollback("prod")
    except SpiceError as error:
        print(error.explain())
    print({name: audit.names()[name] for name in ("promotion.executed", "rollback.executed")})
    return moves


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))

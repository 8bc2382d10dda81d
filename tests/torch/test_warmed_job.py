"""A job that begins with a warm-up, on a real learner and sampler, killed in the warm-up and continued: bit for bit the same."""

import json
import shutil

import pytest

from spice_enterprise.job import SpiceAdapterJob
from spice_enterprise.protocols import Parts
from spice_enterprise.records import Step
from spice_enterprise.store import RunStore
from spice_enterprise.testing import FixedExaminer, LineIngestor, MemoryAudit, MemorySource, MemoryWindow

pytestmark = pytest.mark.torch

LINE = (
    "The fee of site {0} is {1} euros per month. The lease of site {0} shall end on {2} March 2031. Notice is given in writing."
)
FILES = {f"{i}.txt": f"{LINE.format('ABCDEF'[i], 40 + i, 1 + i)}\n".encode() for i in range(6)}


class Killed(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


@pytest.fixture(scope="module")
def roomy_path(tiny_path, tmp_path_factory):
    """The tiny model with a longer context: its tokens are bytes."""
    path = shutil.copytree(tiny_path, tmp_path_factory.mktemp("models") / "roomy")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return path


def job_of(folder, model, warmup, roles):
    parts = Parts(
        source=MemorySource(FILES), ingestor=LineIngestor(), examiner=FixedExaminer(), audit=MemoryAudit(), window=MemoryWindow()
    )
    play = {"steps": 1, "chunks_per_step": 2, "challenger_group": 2, "reasoner_group": 2, "max_rounds": 1, "formats": "free_form",
            "challenger_tokens": 8, "reasoner_tokens": 4, "open_book_samples": 0, "open_book_agree": 0,
            "roles": roles}  # fmt: skip
    return SpiceAdapterJob(
        "documents",
        parts=parts,
        workspace=str(folder),
        base_model=str(model),
        warmup=warmup,
        warmup_training={"steps": 2, "examples_per_step": 6, "learning_rate": 1e-3},
        selfplay=play,
        training={"lora_rank": 4, "lora_alpha": 4, "compute_dtype": "float32"},
        tracking={"is_enabled": False},
    )


@pytest.mark.parametrize(("warmup", "roles"), [("facts", "shared"), ("format", "shared"), ("format", "separate")])
def test_a_warm_up_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path, roomy_path, monkeypatch, warmup, roles):
    monkeypatch.setattr("os.fsync", lambda _: None)
    expected = job_of(tmp_path / "whole", roomy_path, warmup, roles).train()
    original, seen = RunStore.commit, []

    def commit(store, line):
        seen.append(line.number)
        if line.number == 2:
            raise Killed
        original(store, line)

    monkeypatch.setattr(RunStore, "commit", commit)
    with pytest.raises(Killed):
        job_of(tmp_path / "killed", roomy_path, warmup, roles).train()
    monkeypatch.setattr(RunStore, "commit", original)
    again = job_of(tmp_path / "killed", roomy_path, warmup, roles)
    assert again.train() == expected
    steps = again._store.all(Step)
    assert [step.objective for step in steps[:2]] == ["supervised", "supervised"]
    assert [step.is_applied for step in steps[:2]] == [True, True]
    assert len(steps) == 3
    whole = job_of(tmp_path / "whole", roomy_path, warmup, roles)._store.all(Step)
    assert [step.step_id for step in steps] == [step.step_id for step in whole]

"""Unseen documents stay unseen: a whole job on scripts, with strings planted that stand in no other document."""

import re
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from spice_enterprise import Parts, SpiceAdapterJob
from spice_enterprise.assembly import Assembly
from spice_enterprise.records import Prompt, Step
from spice_enterprise.testing import (
    FakeTrainer,
    FixedExaminer,
    LineIngestor,
    MemoryAudit,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)

DAYS = {f"Lease{i}x": 31 + i for i in range(20)}
FILES = {
    f"{i:02d}.txt": (
        f"The notice period of the {name} is {days} days. Its CANARY{name} shall be kept by the tenant.\n"
        f"The keys of the {name} are due within {days + 40} days, with the CANARY{name} of the house.\n"
    ).encode()
    for i, (name, days) in enumerate(DAYS.items())
}
UNSEEN = tuple(DAYS)[16:]
PLAY = {
    "steps": 6, "chunks_per_step": 6, "challenger_group": 2, "reasoner_group": 4, "contract": "short", "document_cap": 1,
    "regimes": ["self_contained", "open_book", "closed_book"], "closed_book_samples": 1, "replay_share": 0.3, "measure_every": 0,
}  # fmt: skip


class World:
    """A job whose samplers and tokenizer note every prompt they are given."""

    def __init__(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace = workspace
        self.prompts: list[tuple[str, Prompt, str]] = []
        tokenizer = SimpleNamespace(encode_example=self._encode)
        monkeypatch.setattr(Assembly, "_tokenizer", tokenizer)

    def job(self, **settings: object) -> SpiceAdapterJob:
        parts = Parts(
            source=MemorySource(FILES),
            ingestor=LineIngestor(),
            sampler=ScriptedSampler(lambda prompt, random: self._said(prompt, random, right=0.5)),
            base_sampler=ScriptedSampler(lambda prompt, random: self._said(prompt, random, right=0.9), is_base=True),
            trainer=FakeTrainer(),
            examiner=FixedExaminer(),
            audit=MemoryAudit(),
            window=MemoryWindow(),
        )
        return SpiceAdapterJob("memory", parts=parts, workspace=str(self.workspace), tracking={"is_enabled": False}, **settings)

    def shown(self, speaker: str = "") -> str:
        return "\n".join(
            f"{prompt.prefill} {' '.join(message.content for message in prompt.messages)} {text}"
            for who, prompt, text in self.prompts
            if speaker in who
        )

    def _said(self, prompt: Prompt, random: Random, *, right: float) -> str:
        asked = prompt.messages[-1].content
        leases = re.findall(r"Lease\d+x", asked)
        text = f"{DAYS[leases[-1]] if leases and random.random() < right else 9} days"
        if prompt.template_id.startswith("challenger"):
            text = f" is the notice period, kept or due, of the {leases[-1] if leases else 'lease'}?"
        self.prompts.append((prompt.template_id, prompt, text))
        return text

    def _encode(self, prompt: Prompt, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        self.prompts.append((f"example.{prompt.template_id}", prompt, text))
        return tuple(prompt.messages[-1].content.encode()), (*text.encode(), 0)


@pytest.mark.parametrize("chunk_sampler", ["uniform", "learnability", "coverage"])
@pytest.mark.parametrize("warmup", ["none", "format", "facts"])
def test_no_prompt_of_a_training_holds_anything_of_an_unseen_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warmup: str, chunk_sampler: str
) -> None:
    world = World(tmp_path, monkeypatch)
    job = world.job(
        warmup=warmup,
        warmup_training={"steps": 2, "examples_per_step": 8},
        selfplay={**PLAY, "chunk_sampler": chunk_sampler},
    )
    job.train()
    assert any(step.is_applied for step in job._store.all(Step)[-6:])
    assert bool(world.shown("example")) == (warmup != "none")
    seen = set(re.findall(r"CANARY(Lease\d+x)", world.shown()))
    assert len(seen) > 10, "the documents of training are shown"
    assert "CANARY" in world.shown("reasoner.free_form.open_book")
    assert not [name for name in UNSEEN if name in world.shown()]

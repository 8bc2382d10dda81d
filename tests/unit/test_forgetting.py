"""What learned from a document: also what only read it as one passage among others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise.forgetting import forget
from spice_enterprise.protocols import Corpus, Played, PlayedRollout
from spice_enterprise.records import AdapterVersion, Chunk, Document, Objective, Rollout, RolloutGroup, Step, Task, decode
from spice_enterprise.store import Commit, RunStore

DOCUMENTS = tuple(
    Document(uri=f"{i}.txt", media_type="text/plain", keyed_digest=f"{i:064x}", size_bytes=10) for i in range(3)
)  # fmt: skip


def chunk_of(document: Document) -> Chunk:
    data = {
        "document_id": document.document_id, "index": 0, "text": "x", "redactions": [], "split": "train",
        "pii_policy_digest": "sha256:p", "token_count": 1,
    }  # fmt: skip
    return decode(Chunk, data)


ASKED, SHOWN, APART = map(chunk_of, DOCUMENTS)


def rollout(role: Any, parent_id: str, outcome: Any) -> Rollout:
    return Rollout(
        role=role, parent_id=parent_id, adapter_id="", adapter_digest="d", template_id="t", step=1, index=0, token_ids=(1,),
        logprobs=(-0.5,), text="x", stop_reason="stop", outcome=outcome, reason="", reward=0.0,
    )  # fmt: skip


def group_of(one: Rollout, **changes: Any) -> RolloutGroup:
    return replace(RolloutGroup(role=one.role, parent_id=one.parent_id, prompt_token_ids=(1,), rollouts=(one,)), **changes)


def run(workspace: Path, objective: Objective, *, is_choice: bool = False) -> AdapterVersion:
    """A run of one step whose reasoner read two passages, or an option of the other. Returns the adapter that came of it."""
    store = RunStore(workspace / "r")
    corpus = Corpus(
        documents=DOCUMENTS, chunks=(ASKED, SHOWN, APART), rejections=(), removed=(), residual_findings=0,
        pii_policy_digest="p", ner_model="n", isolation="none", digest="sha256:c",
    )  # fmt: skip
    store.save("corpus", corpus)
    (store.run_dir / "run.json").write_text("{}", encoding="utf-8")
    proposal = rollout("challenger", ASKED.chunk_id, "valid")
    task = Task(
        chunk_id=ASKED.chunk_id, rollout_id=proposal.rollout_id, question="q", answer="a", answer_kind="text",
        task_format="free_form", regime="open_book", option_sources=(SHOWN.chunk_id,) if is_choice else (),
    )  # fmt: skip
    answer = rollout("reasoner", task.task_id, "correct")
    passages = () if is_choice else (SHOWN.chunk_id, ASKED.chunk_id)
    groups = (group_of(proposal), group_of(answer, passages=passages, objective=objective))
    played = Played(groups=groups, tasks=(task,), rollouts=tuple(PlayedRollout(group=g, is_trained=True) for g in groups))
    store.journal(1, played)
    step = Step(
        number=1, adapter_id="adapter_0", rollout_ids=(answer.rollout_id,), is_applied=True, reward_mean=0.0, reward_std=0.0,
        challenger_reward_mean=0.0, reasoner_reward_mean=0.0, frac_zero_std=0.0, loss=0.0, grad_norm=0.0, kl_nats_per_token=0.0,
        entropy_nats_per_token=0.0, length_mean_tokens=1.0, invalid_rate=0.0, trained_tokens=1,
    )  # fmt: skip
    version = AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=step.step_id, step=1, base_model="b", base_digest="b",
        corpus_digest="c", config_digest="c", manifest=(), digest="sha256:a",
    )  # fmt: skip
    store.put(step)
    store.put(version)
    store.commit(Commit(number=1, step_id=step.step_id, adapter_id=version.adapter_id, restores=0))
    return version


@pytest.mark.parametrize("objective", ["policy", "supervised"])
def test_an_adapter_is_named_for_every_document_that_stood_in_a_prompt(tmp_path: Path, objective: Objective) -> None:
    version = run(tmp_path, objective)
    named = [forget(document.document_id, tmp_path, (), None).adapters for document in DOCUMENTS]
    assert named == [(version,), (version,), ()], "asked about, shown beside it, neither"


def test_an_adapter_is_named_for_a_document_that_gave_one_of_the_options(tmp_path: Path) -> None:
    version = run(tmp_path, "policy", is_choice=True)
    named = [forget(document.document_id, tmp_path, (), None).adapters for document in DOCUMENTS]
    assert named == [(version,), (version,), ()], "asked about, gave an option, neither"


def test_a_passage_is_on_the_road_back(tmp_path: Path) -> None:
    version = run(tmp_path, "policy")
    above = {getattr(r, "document_id", None) for r in RunStore(tmp_path / "r").lineage(version.adapter_id).ancestors}
    assert {document.document_id for document in DOCUMENTS[:2]} <= above
    assert DOCUMENTS[2].document_id not in above

"""The job report: figures from stored records, as text, JSON and page."""

import math
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from spice_enterprise import seeding
from spice_enterprise.errors import IntegrityError, StoreError
from spice_enterprise.protocols import Corpus, Played, PlayedRollout
from spice_enterprise.records import (
    AdapterVersion,
    Alert,
    CheckResult,
    Chunk,
    Document,
    Exam,
    ExamItem,
    GateReport,
    Promotion,
    Rejection,
    Rollout,
    RolloutGroup,
    Step,
    Task,
    decode,
    digest_of,
)
from spice_enterprise.report import (
    Facts,
    Figures,
    figures_of,
    read_figures,
    render_html,
    render_text,
    rewrite_report,
    write_report,
)
from spice_enterprise.store import Commit, RunStore

CANARY = "xylophone-canary-7731"
FACTS = Facts(
    seconds=(("corpus", 11.5), ("exam", 0.4), ("self-play", 752.0), ("gate", 41.0), ("registry", 0.1)),
    peak_memory_bytes=1_940_000_000,
    connections_attempted=0,
)
DOCUMENTS = [
    Document(uri=f"{CANARY}/{i}.pdf", media_type="application/pdf", keyed_digest=f"{i:064x}", size_bytes=1000) for i in range(10)
]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability is tested elsewhere, and waiting for the disk is most of the time here."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def chunk(document: Document, index: int, *, is_unseen: bool) -> Chunk:
    data = {
        "document_id": document.document_id,
        "index": index,
        "text": f"{CANARY} pays 120 crowns a month",
        "redactions": [],
        "split": "unseen" if is_unseen else "train",
        "pii_policy_digest": digest_of("pii"),
        "token_count": 8,
    }
    return decode(Chunk, data)


CHUNKS = [chunk(d, i, is_unseen=n >= 8) for n, d in enumerate(DOCUMENTS) for i in range(3)]
CORPUS = Corpus(
    documents=tuple(DOCUMENTS),
    chunks=tuple(CHUNKS),
    rejections=(
        Rejection(uri=f"{CANARY}.zip", code="E_TYPE", reason="media type", size_bytes=1),
        Rejection(uri=f"{CANARY}.pdf", code="E_EMPTY", reason="empty"),
        Rejection(uri=f"{CANARY}2.pdf", code="E_EMPTY", reason="empty"),
    ),
    removed=(("DATE_OF_BIRTH", 7), ("EMAIL_ADDRESS", 31), ("IBAN_CODE", 12), ("PERSON", 84), ("PHONE_NUMBER", 22)),
    residual_findings=0,
    pii_policy_digest=digest_of("pii"),
    ner_model="en_core_web_md@7454af3a8d84",
    isolation="namespaces",
    digest=digest_of("corpus"),
)
EXAM = Exam(
    items=tuple(
        decode(
            ExamItem,
            {
                "document_id": c.document_id,
                "chunk_id": c.chunk_id,
                "claim": "transfer",
                "item_format": "cloze",
                "passage": CANARY,
                "question": CANARY,
                "answer": CANARY,
                "answer_kind": "number",
            },
        )
        for c in CHUNKS
        if c.split == "unseen"
    ),
    settings_digest=digest_of("settings"),
    corpus_digest=CORPUS.digest,
)


def version(parent: AdapterVersion | None, step: Step | None) -> AdapterVersion:
    return AdapterVersion(
        role="shared",
        parent_adapter_id=parent.adapter_id if parent else None,
        step_id=step.step_id if step else None,
        step=step.number if step else 0,
        base_model="embedded",
        base_digest=digest_of("base"),
        corpus_digest=CORPUS.digest,
        config_digest=digest_of("config"),
        manifest=(),
        digest=digest_of(["adapter", step.number if step else 0]),
    )


def rollout(role: str, parent_id: str, step: int, index: int, outcome: str) -> Rollout:
    data = {
        "role": role,
        "parent_id": parent_id,
        "adapter_id": "adapter_0",
        "adapter_digest": "base",
        "template_id": "t",
        "step": step,
        "index": index,
        "token_ids": [1],
        "logprobs": [-0.5],
        "text": CANARY,
        "stop_reason": "stop",
        "outcome": outcome,
        "reason": "",
        "reward": 1.0 if outcome == "correct" else 0.0,
    }
    return decode(Rollout, data)


def play(step: int, right: int) -> Played:
    """One chunk, four proposals, one task, four attempts of which `right` are right."""
    about = CHUNKS[step % 20]
    proposals = [
        rollout("challenger", about.chunk_id, step, i, "valid" if i < (1 if step < 5 else 2) else "refused") for i in range(4)
    ]
    task = Task(
        chunk_id=about.chunk_id,
        rollout_id=proposals[0].rollout_id,
        question=CANARY,
        answer=CANARY,
        answer_kind="number",
        task_format="free_form",
        regime="open_book",
    )
    attempts = [rollout("reasoner", task.task_id, step, i, "correct" if i < right else "wrong") for i in range(4)]
    groups = (
        RolloutGroup(role="challenger", parent_id=about.chunk_id, prompt_token_ids=(1,), rollouts=tuple(proposals)),
        RolloutGroup(role="reasoner", parent_id=task.task_id, prompt_token_ids=(1,), rollouts=tuple(attempts)),
    )
    return Played(groups=groups, tasks=(task,), rollouts=tuple(PlayedRollout(group=g, is_trained=True) for g in groups))


def make_step(number: int, played: Played, random: Random, adapter_id: str, **changes: object) -> Step:
    ids = tuple(r.rollout_id for item in played.rollouts for r in item.group.rollouts)
    step = Step(
        number=number,
        adapter_id=adapter_id,
        rollout_ids=ids,
        is_applied=True,
        reward_mean=0.3,
        reward_std=0.2,
        challenger_reward_mean=0.1 + 0.01 * number + random.gauss(0, 0.03),
        reasoner_reward_mean=0.2 + 0.012 * number + random.gauss(0, 0.05),
        frac_zero_std=0.4,
        loss=0.02 + random.gauss(0, 0.01),
        grad_norm=0.5,
        kl_nats_per_token=abs(random.gauss(0.0004, 0.0002)),
        entropy_nats_per_token=1.4 - 0.006 * number + random.gauss(0, 0.04),
        length_mean_tokens=20.0,
        invalid_rate=max(0.0, 0.7 - 0.01 * number),
        trained_tokens=400,
        duration_s=10.0,
    )
    return replace(step, **changes) if changes else step


def make_run(folder: Path, *, steps: int = 8, alarm: int = 0) -> tuple[RunStore, AdapterVersion]:
    """A stored run of `steps` steps; step `alarm` is undone by a critical alert. Returns the version that stands."""
    store, random = RunStore(folder / "demo"), seeding.stream(5)
    standing, restores = version(None, None), 0
    store.put(standing)
    for number in range(1, steps + 1):
        played = play(number, number % 5)
        store.journal(number, played)
        bad: dict[str, object] = {"loss": math.nan, "is_applied": False} if number == alarm else {}
        step = make_step(number, played, random, standing.adapter_id, **bad)
        store.put(step)
        if number == alarm:
            restores += 1
            store.put(alert(step, "critical"))
        else:
            standing = version(standing, step)
            store.put(standing)
        store.commit(Commit(number=number, step_id=step.step_id, adapter_id=standing.adapter_id, restores=restores))
    return store, standing


def alert(step: Step, severity: str) -> Alert:
    data = {
        "step_id": step.step_id,
        "step": step.number,
        "monitor": "finite",
        "value": {"$num": "nan"},
        "limit": 0.0,
        "severity": severity,
        "action": "restore",
        "reason": "loss is not finite",
    }
    return decode(Alert, data)


def gate(standing: AdapterVersion, verdict: str = "PASS") -> GateReport:
    gain = CheckResult(
        check="transfer_gain",
        metric="transfer_accuracy",
        verdict="PASS",
        value=0.15,
        low=0.08,
        high=0.22,
        limit=0.02,
        n=118,
        clusters=24,
        detail="better on 31 questions, worse on 13",
        baseline=0.41,
        candidate=0.56,
    )
    zero = CheckResult(
        check="canary",
        metric="canaries_emitted",
        verdict="PASS",
        value=0.0,
        low=None,
        high=None,
        limit=0.0,
        n=20,
        clusters=0,
        detail="0 of 20; upper 95 % bound 0.15",
    )
    data = {
        "adapter_id": standing.adapter_id,
        "adapter_digest": standing.digest,
        "policy_digest": digest_of("gate"),
        "exam_digest": EXAM.digest,
        "primary": "transfer_gain",
        "results": [],
        "verdict": verdict,
        "reasons": [] if verdict == "PASS" else ["transfer_gain: 118 questions in 24 documents prove +13; add 35 documents"],
    }
    return replace(decode(GateReport, data), results=(gain, zero))


def figures(folder: Path, *, verdict: str = "PASS", steps: int = 8, alarm: int = 0) -> tuple[RunStore, Figures]:
    store, standing = make_run(folder, steps=steps, alarm=alarm)
    report = gate(standing, verdict)
    store.put(report)
    return store, figures_of(store, CORPUS, EXAM, report, FACTS)


def test_figures_count_what_the_store_holds(tmp_path: Path) -> None:
    _, found = figures(tmp_path, alarm=5)
    assert (found.run, found.verdict, found.documents, found.chunks, found.train_chunks) == ("demo", "PASS", 10, 30, 24)
    assert (found.unseen_documents, found.exam_questions, found.exam_documents) == (2, 6, 2)
    assert found.rejected == (("E_EMPTY", 2), ("E_TYPE", 1))
    assert (found.steps_done, found.steps_applied, found.restores, len(found.alerts)) == (8, 7, 1, 1)
    # steps 5 of 8 attempts: number % 5 of 4 are right, all right or all wrong is no frontier
    assert (found.tasks, found.frontier_tasks) == (8, 6)
    assert found.adapter_chain == 7
    assert (found.baseline, found.candidate, found.gain_low, found.gain_mean, found.gain_high) == (0.41, 0.56, 0.08, 0.15, 0.22)
    assert found.step_seconds == 80.0


def test_start_and_end_are_means_over_three_steps(tmp_path: Path) -> None:
    _, found = figures(tmp_path)
    assert (found.valid_rate_start, found.valid_rate_end) == (0.25, 0.5), "of everything played, not of what was trained on"
    assert found.pass_rate_start == pytest.approx((0.25 + 0.5 + 0.75) / 3)
    assert found.pass_rate_end == pytest.approx((0.25 + 0.5 + 0.75) / 3)


def test_examples_of_a_warm_up_are_neither_proposals_nor_answers(tmp_path: Path) -> None:
    store, standing = make_run(tmp_path, steps=0)
    for number in (1, 2, 3):
        taught = tuple(replace(group, objective="supervised") for group in play(number, 4).groups)
        played = Played(groups=taught, tasks=(), rollouts=tuple(PlayedRollout(group=g, is_trained=True) for g in taught))
        store.journal(number, played)
        store.put(make_step(number, played, seeding.stream(1), standing.adapter_id, objective="supervised"))
    store.journal(4, play(4, 1))
    store.put(make_step(4, play(4, 1), seeding.stream(2), standing.adapter_id))
    found = figures_of(store, CORPUS, EXAM, None, FACTS)
    assert [(point.valid_rate, point.pass_rate) for point in found.curve] == [(None, None)] * 3 + [(0.25, 0.25)]
    assert [point.challenger_reward is None and point.reasoner_reward is None for point in found.curve] == [True] * 3 + [False]
    assert (found.valid_rate_start, found.pass_rate_start, found.frontier_tasks) == (0.25, 0.25, 1)
    assert "valid proposals 25% -> 25%" in render_text(found)
    assert "<svg" in render_html(found)


def test_questions_about_trained_documents_are_counted_apart(tmp_path: Path) -> None:
    store, _ = make_run(tmp_path, steps=1)
    recall = tuple(replace(item, claim="recall", document_id=DOCUMENTS[0].document_id) for item in EXAM.items[:2])
    found = figures_of(store, CORPUS, replace(EXAM, items=(*EXAM.items, *recall)), None, FACTS)
    assert (found.exam_questions, found.exam_documents, found.recall_questions) == (6, 2, 2)
    assert "6 questions on 2 unseen documents and 2 on trained ones" in render_text(found)


def test_restored_steps_are_marked(tmp_path: Path) -> None:
    _, found = figures(tmp_path, alarm=5)
    assert [p.number for p in found.curve if p.is_restored] == [5]
    assert not found.curve[4].is_applied


def test_lineage_leads_from_the_adapter_to_a_document(tmp_path: Path) -> None:
    _, found = figures(tmp_path)
    assert [hop.kind for hop in found.lineage] == ["adapter", "step", "reasoner rollout", "task", "chunk", "document"]
    assert found.lineage[-1].record_id == CHUNKS[8].document_id


def test_a_step_made_twice_counts_once(tmp_path: Path) -> None:
    store, standing = make_run(tmp_path, steps=3)
    store.put(make_step(3, play(3, 1), seeding.stream(99), standing.adapter_id))
    assert figures_of(store, CORPUS, EXAM, None, FACTS).steps_done == 3


def test_nothing_learned_has_no_adapter(tmp_path: Path) -> None:
    store, _ = make_run(tmp_path, steps=0)
    found = figures_of(store, CORPUS, EXAM, None, FACTS)
    assert (found.adapter_id, found.verdict, found.valid_rate_start, found.lineage) == (None, None, None, ())
    assert "nothing new was learned" in render_text(found)
    assert "NO VERDICT" in render_html(found)


def test_alias_is_the_furthest_that_names_this_adapter(tmp_path: Path) -> None:
    store, found = figures(tmp_path)
    assert found.alias is None
    for alias, digest in (("sandbox", found.adapter_digest), ("staging", found.adapter_digest), ("prod", "sha256:other")):
        move = {
            "gate_id": found.gate_id,
            "adapter_id": found.adapter_id,
            "adapter_digest": digest,
            "alias": alias,
            "generation": 1,
            "replaces": None,
            "kind": "promote",
        }
        store.put(decode(Promotion, move))
    report = store.all(GateReport)[0]
    assert figures_of(store, CORPUS, EXAM, report, FACTS).alias == "staging"


def test_report_files_read_back_the_same(tmp_path: Path) -> None:
    store, found = figures(tmp_path, alarm=5)
    page, data = write_report(store, found)
    assert page.read_text().startswith("<!doctype html>")
    assert data.name == "report.json"
    # repr, because a loss that is not a number is not equal to itself
    assert repr(read_figures(store)) == repr(found)


def test_rewriting_follows_the_records_and_keeps_the_facts(tmp_path: Path) -> None:
    store, found = figures(tmp_path)
    store.save("corpus", CORPUS)
    store.save("exam", EXAM)
    write_report(store, found)
    again, _ = rewrite_report(store)
    assert again == found


def test_a_run_without_a_report_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no report here") as caught:
        read_figures(RunStore(tmp_path))
    assert (caught.value.code, caught.value.exit_status()) == ("E_NO_REPORT", 2)
    (tmp_path / "report.json").write_text("{not json")
    with pytest.raises(IntegrityError, match="not valid JSON"):
        read_figures(RunStore(tmp_path))


def test_no_text_of_documents_reaches_any_form(tmp_path: Path) -> None:
    store, found = figures(tmp_path, alarm=5)
    page, data = write_report(store, found)
    assert CANARY in (store.run_dir / "journal" / "step-000001.jsonl").read_text()
    for text in (page.read_text(), data.read_text(), render_text(found), repr(found)):
        assert CANARY not in text


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    _, found = figures(tmp_path, verdict="FAIL")
    page = render_html(replace(found, run="<b>&", reasons=("<script>alert(1)</script>",), ner_model='"x" <y>'))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?:|src=|@import|url\(|<b>&", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_the_verdict_is_written_out(tmp_path: Path, verdict: str) -> None:
    _, found = figures(tmp_path, verdict=verdict)
    assert f"<b>{ {'PASS': '✓', 'FAIL': '✕', 'INCONCLUSIVE': '?'}[verdict] } {verdict}</b>" in render_html(found)
    assert f"verdict    {verdict}" in render_text(found)


def test_the_card_names_the_next_command(tmp_path: Path) -> None:
    _, found = figures(tmp_path)
    card = render_text(found, run_dir=tmp_path / "demo")
    assert f"spice-enterprise promote {found.adapter_id} --to sandbox --workspace {tmp_path}" in card
    assert "0 outside connections attempted" in card
    assert "0.41 -> 0.56  +0.150 [+0.080, +0.220]" in card
    assert str(tmp_path / "demo" / "report.html") in card
    assert f"promote {found.adapter_id} --to staging" in render_text(replace(found, alias="sandbox"))
    assert f"trace {found.adapter_id}" in render_text(replace(found, verdict="FAIL"))


def test_the_card_has_no_colour_codes_and_fits(tmp_path: Path) -> None:
    card = render_text(figures(tmp_path, verdict="INCONCLUSIVE", alarm=2)[1])
    assert "\x1b" not in card
    assert max(len(line) for line in card.splitlines()) <= 120


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (752, "12 min 32 s"), (7384, "2 h 03 min")])
def test_durations_read_well(tmp_path: Path, seconds: float, text: str) -> None:
    _, found = figures(tmp_path, steps=1)
    assert f"gate {text}" in render_text(replace(found, seconds=(("gate", seconds),)))


def _halt(step: int, reason: str) -> Alert:
    return Alert(
        step_id=f"step_{step}", step=step, monitor="no_tasks", value=5.0, limit=5.0, severity="critical", action="halt",
        reason=reason,
    )  # fmt: skip


def test_what_ended_a_run_stands_on_the_card_and_on_the_page(tmp_path: Path) -> None:
    _, found = figures(tmp_path)
    halted = replace(found, is_halted=True, alerts=(_halt(3, "E_OLD: an earlier one"), _halt(8, "E_NO_TASKS: try <this>")))
    assert "E_NO_TASKS: try <this>" in render_text(halted)
    assert "E_OLD" not in render_text(halted)
    assert "E_NO_TASKS: try &lt;this&gt;" in render_html(halted)
    assert "E_NO_TASKS" not in render_text(replace(halted, is_halted=False))


def test_the_frontier_is_drawn_and_held_out_questions_where_they_were_asked(tmp_path: Path) -> None:
    _, found = figures(tmp_path)
    assert [point.frontier_rate for point in found.curve] == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert "Unseen documents by step" not in render_html(found)
    measured = replace(found, curve=(replace(found.curve[0], heldout_rate=0.25), *found.curve[1:]))
    assert "Unseen documents by step" in render_html(measured)

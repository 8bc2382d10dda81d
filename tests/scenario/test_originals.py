"""Originals kept, read with a record in the log, and forgotten, through the job that users have."""

import json

import pytest

from spice_enterprise.audit import open_trail
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.errors import CorpusError
from spice_enterprise.job import SpiceAdapterJob
from spice_enterprise.policy import default_path


@pytest.fixture
def job(tmp_path, monkeypatch):
    folder = tmp_path / "files"
    folder.mkdir()
    body = "The crane of the harbour was inspected on Monday and the report was sent to the office of the owner on the same day. "
    for i in range(3):
        (folder / f"note-{i}.txt").write_text(f"{body * (2 + i)}\n\nMail anna.weiss@x.org about crane {i}.\n")
    policy = tmp_path / "pii.yaml"
    policy.write_text(default_path("pii").read_text().replace("originals: discard", "originals: vault"))
    monkeypatch.setattr("spice_enterprise.assembly.Assembly._count_tokens", staticmethod(lambda text: len(text.split())))
    job = SpiceAdapterJob(str(folder), workspace=str(tmp_path / "runs"), policies={"pii": str(policy)})
    return job.with_(detector=PatternDetector())


def test_an_original_is_read_by_what_stands_in_the_corpus_and_the_log_says_so(job, tmp_path):
    job.ingest_to(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "documents.jsonl").read_bytes().splitlines()[0])
    chunks = [json.loads(line) for line in (tmp_path / "out" / "corpus.jsonl").read_bytes().splitlines()]
    chunk = next(c for c in chunks if c["document_id"] == document["document_id"] and c["redactions"])
    shown = chunk["text"][chunk["redactions"][0]["start"] : chunk["redactions"][0]["end"]]
    assert job.read_original(document["keyed_digest"], shown, reason="case/7") == ("anna.weiss@x.org",)
    (record,) = open_trail(tmp_path / "runs").events("original.read")
    assert record.data["reason"] == "case/7"
    assert not any(b"weiss" in p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file())


@pytest.mark.parametrize("reason", ["", "because Anna Weiss asked", "x" * 65])
def test_a_reason_that_may_not_be_logged_reads_nothing(job, tmp_path, reason):
    job.ingest_to(tmp_path / "out")
    with pytest.raises(CorpusError) as caught:
        job.read_original("d", "[EMAIL_aaaaaa]", reason=reason)
    assert caught.value.code == "E_NOT_IN_VAULT"
    assert open_trail(tmp_path / "runs").events("original.read") == []


def test_an_adapter_that_learned_from_a_forgotten_document_is_not_promoted(job, tmp_path):
    from spice_enterprise.errors import ReleaseError
    from spice_enterprise.records import AuditEvent, NamedDigest, Promotion

    job.ingest_to(tmp_path / "out")
    digest = "sha256:" + "a" * 64
    adapter = NamedDigest(role="adapter", name="adapter_00", digest=digest)
    job._parts.audit.append(AuditEvent(event="document.forgotten", run="job", inputs=(adapter,)))
    assert job._parts.is_forgotten(digest)
    assert not job._parts.is_forgotten("sha256:" + "b" * 64)
    move = Promotion(
        adapter_id="adapter_00",
        adapter_digest=digest,
        alias="sandbox",
        kind="promote",
        generation=1,
        gate_id="gate_0",
        replaces=None,
    )
    with pytest.raises(ReleaseError) as caught:
        job._log_move(move)
    assert caught.value.code == "E_FORGOTTEN"
    assert open_trail(tmp_path / "runs").events("promotion.executed") == []

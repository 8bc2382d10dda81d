"""A folder that `ingest --out` has written is a corpus to train on: nothing is read or scrubbed again."""

import pytest

from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.errors import CorpusError, IntegrityError
from spice_enterprise.job import SpiceAdapterJob
from spice_enterprise.policy import default_path

QUIET = {"is_enabled": False}
"""MLflow's first import warns, and here a warning is an error: `test_mlflow_mirror.py` looks after it."""


class Never:
    """A detector that must not be asked."""

    def detect(self, text):
        raise AssertionError


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr("spice_enterprise.assembly.Assembly._count_tokens", staticmethod(lambda text: len(text.split())))
    folder = tmp_path / "files"
    folder.mkdir()
    for i, place in enumerate(("harbour", "depot", "quarry", "sawmill")):
        lines = (f"The crane of the {place} number {i}{j} lifts {j} tons on every working day of the week." for j in range(9))
        (folder / f"note-{i}.txt").write_text(" ".join(lines) + "\n\nMail anna.weiss@x.org about it.\n")
    job = SpiceAdapterJob(str(folder), workspace=str(tmp_path / "runs")).with_(detector=PatternDetector())
    return job.ingest_to(tmp_path / "out")


def test_a_run_takes_it_as_it_is_and_again(made, tmp_path):
    job = SpiceAdapterJob(str(tmp_path / "out"), workspace=str(tmp_path / "runs"), name="first", tracking=QUIET).with_(
        detector=Never()
    )
    corpus = job.ingest()
    assert (corpus.digest, len(corpus.chunks), len(corpus.documents)) == (made.corpus_digest, made.chunks, made.documents)
    assert job.ingest() == corpus
    assert not any("corpus:" in problem for problem in job.plan().problems)
    assert job.plan().documents == made.documents


def test_another_policy_does_not_take_it(made, tmp_path):
    settings = {"tracking": QUIET, "workspace": str(tmp_path / "runs"), "policies": {"pii": str(default_path("pii_strict"))}}
    with pytest.raises(CorpusError) as caught:
        SpiceAdapterJob(str(tmp_path / "out"), name="strict", **settings).ingest()
    assert caught.value.code == "E_CORPUS_POLICY"


def test_a_changed_line_is_noticed(made, tmp_path):
    chunks = tmp_path / "out" / "corpus.jsonl"
    chunks.write_bytes(chunks.read_bytes().replace(b"crane", b"drone", 1))
    with pytest.raises(IntegrityError) as caught:
        SpiceAdapterJob(str(tmp_path / "out"), workspace=str(tmp_path / "runs"), name="changed", tracking=QUIET).ingest()
    assert caught.value.code == "E_CORPUS_FILES"

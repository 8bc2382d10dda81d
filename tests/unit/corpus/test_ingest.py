import hashlib
import hmac

import pytest

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.ingest import CorpusIngestor
from spice_enterprise.corpus.sources import FolderSource
from spice_enterprise.errors import CorpusError, ScrubError
from spice_enterprise.policy import load_pii
from spice_enterprise.records import Span

KEY = b"k" * 32
SENTENCE = "The delivery of part {i} costs {i}00 EUR and takes {i} days after the order of the customer was confirmed."


def ingestor(detector=None, policy=None, seed=0, **config):
    return CorpusIngestor(
        config=IngestConfig(**({"chunk_tokens": 32, "min_chunk_tokens": 4, "unseen_share": 0.25} | config)),
        policy=policy or load_pii(),
        detector=detector or PatternDetector(),
        ner_identity="none",
        count_tokens=lambda text: len(text.split()),
        key=KEY,
        seed=seed,
    )


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "files"
    root.mkdir()
    for i in range(1, 5):
        text = f"# Order {i}\n\n" + " ".join(SENTENCE.format(i=10 * i + j) for j in range(3))
        (root / f"order-{i}.txt").write_text(f"{text}\n\nContact: Anna Weiss, anna.weiss@x.org\n")
    return root


def source(root):
    return FolderSource(root, key=KEY, max_file_bytes=10_000, max_documents=100, scrub_name=lambda name: name)


def ingest(root, **settings):
    lines = []
    return ingestor(**settings).ingest(source(root), lines.append), lines


def test_files_become_scrubbed_chunks_with_their_split(folder):
    corpus, lines = ingest(folder)
    assert [d.uri for d in corpus.documents] == [f"order-{i}.txt" for i in range(1, 5)]
    assert len({c.document_id for c in corpus.unseen}) == 1
    assert len({c.document_id for c in corpus.train}) == 3
    assert all(c.token_count <= 32 and c.token_count == len(c.text.split()) for c in corpus.chunks)
    assert not any("Weiss" in c.text or "x.org" in c.text for c in corpus.chunks)
    assert dict(corpus.removed) == {"EMAIL": 4, "PERSON": 4}
    assert all(c.text[r.start : r.end].startswith(f"[{r.entity}") for c in corpus.chunks for r in c.redactions)
    assert (corpus.residual_findings, corpus.ner_model, corpus.pii_policy_digest) == (0, "none", load_pii().digest())
    assert [line.message for line in lines] == ["listed", "scrubbed", "done"]
    assert dict(lines[-1].numbers)["person"] == 4


def test_the_same_input_gives_the_same_corpus(folder):
    assert ingest(folder)[0] == ingest(folder)[0]
    assert len({ingest(folder, seed=seed)[0].digest for seed in range(4)}) > 1


def test_bad_files_are_rejections_and_the_others_go_on(folder):
    (folder / "a.pdf").write_bytes(b"%PDF-1.7 CANARY-0123456789abcdef")
    (folder / "b.txt").touch()
    (folder / "c.exe").write_bytes(b"x")
    corpus, _ = ingest(folder)
    assert {r.uri: r.code for r in corpus.rejections} == {"a.pdf": "E_PARSE", "b.txt": "E_EMPTY", "c.exe": "E_UNSUPPORTED"}
    assert len(corpus.documents) == 4
    assert not any("CANARY" in r.reason for r in corpus.rejections)


def test_copies_are_left_out_also_when_only_their_white_space_differs(folder):
    text = (folder / "order-1.txt").read_bytes()
    (folder / "z-copy.txt").write_bytes(text)
    (folder / "z-spaced.md").write_bytes(text.replace(b" costs", b"  costs"))
    corpus, _ = ingest(folder)
    assert [(r.uri, r.code) for r in corpus.rejections] == [("z-copy.txt", "E_DEDUP"), ("z-spaced.md", "E_DEDUP")]


def test_a_file_of_one_line_is_no_copy_of_itself(folder):
    (folder / "one.txt").write_text(SENTENCE.format(i=7))
    assert ingest(folder)[0].rejections == ()


def test_too_short_documents_are_left_out(folder):
    (folder / "short.txt").write_text("Two words.")
    corpus, _ = ingest(folder)
    (rejection,) = corpus.rejections
    assert (rejection.code, rejection.reason) == ("E_EMPTY", "fewer than 4 tokens of text")


def test_too_many_bad_files_stop_the_run(folder):
    for i in range(5):
        (folder / f"bad-{i}.pdf").write_bytes(b"%PDF-1.7 " + bytes([65 + i]))
    with pytest.raises(CorpusError, match=r"5 of 9 files cannot be used \(E_PARSE 5\)") as caught:
        ingest(folder)
    assert (caught.value.code, caught.value.exit_status()) == ("E_QUARANTINE", 2)


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("Two words.")
    with pytest.raises(CorpusError) as caught:
        ingest(tmp_path, policy=load_pii().model_copy(update={"max_quarantine_share": 1.0}))
    assert caught.value.code == "E_DATA"


def test_names_found_in_one_file_leave_the_others_and_the_file_names(folder):
    (folder / "weiss-notes.txt").write_text("Yesterday anna weiss said that the order of part nine was late again by far.")
    corpus, _ = ingest(folder)
    assert not any("weiss" in c.text for c in corpus.chunks)
    assert next(d.uri for d in corpus.documents if "notes" in d.uri).startswith("[PERSON_")


class Blind:
    """Finds nothing: what the confirming rules are for."""

    def detect(self, text):
        return []


def test_residue_in_the_chunks_stops_the_run_without_naming_it(folder):
    with pytest.raises(ScrubError, match="allowed are 0") as caught:
        ingest(folder, detector=Blind())
    assert caught.value.code == "E_RESIDUE"
    assert "Weiss" not in caught.value.explain()
    lax = load_pii().model_copy(update={"max_residual_findings": 1000})
    assert ingest(folder, detector=Blind(), policy=lax)[0].residual_findings == 8


class Broken:
    """A detector whose failure carries the text."""

    def detect(self, text):
        raise ValueError(text)


def test_a_stray_failure_carries_no_text(folder):
    with pytest.raises(CorpusError) as caught:
        ingest(folder, detector=Broken())
    assert caught.value.code == "E_INTERNAL"
    assert caught.value.__cause__ is None
    assert "Weiss" not in caught.value.explain()


class Restless:
    """Finds one more word each time it looks."""

    def __init__(self):
        self.seen = 0

    def detect(self, text):
        self.seen += 1
        word = f"q{self.seen:03}"
        start = text.find(word)
        return [Span(start=start, end=start + 4, entity="USERNAME", score=1.0, detector="x")] if start >= 0 else []


def test_a_document_that_cannot_be_scrubbed_is_rejected_alone(folder):
    (folder / "a-first.txt").write_text(" ".join(f"q{i:03}" for i in range(40)))
    lax = load_pii().model_copy(update={"max_residual_findings": 1000})
    corpus, _ = ingest(folder, detector=Restless(), policy=lax)
    assert [(r.uri, r.code) for r in corpus.rejections] == [("a-first.txt", "E_RESIDUE")]


def test_the_document_digest_is_keyed(folder):
    corpus, _ = ingest(folder)
    expected = hmac.new(KEY, (folder / "order-1.txt").read_bytes(), hashlib.sha256).hexdigest()
    assert corpus.documents[0].keyed_digest == expected

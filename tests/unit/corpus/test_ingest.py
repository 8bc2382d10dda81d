import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.corpus_files import CHUNKS, DOCUMENTS, MANIFEST, REJECTIONS, load_corpus, read_manifest
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.finishing import Finisher
from spice_enterprise.corpus.ingest import CorpusIngestor
from spice_enterprise.corpus.keys import create_key_file, master_key
from spice_enterprise.corpus.preparing import Preparer
from spice_enterprise.corpus.scrub import Scrubber
from spice_enterprise.corpus.staging import FOLDER
from spice_enterprise.corpus.vault import open_vault
from spice_enterprise.errors import CorpusError, IntegrityError, ScrubError, StoreError
from spice_enterprise.policy import PiiLabel, load_pii
from spice_enterprise.records import Document, Rejection, Span

KEY = b"k" * 32
SENTENCE = "The delivery of part {i} to the {place} costs {i}00 EUR and takes {i} days after the order was confirmed."
PLACES = ("harbour", "depot", "workshop", "warehouse", "quarry", "sawmill", "foundry", "brewery", "laundry", "bakery")


class Nothing:
    """A detector that finds nothing."""

    def detect(self, text):
        return []


class Listed:
    """A source of texts by name."""

    def __init__(self, texts):
        self.texts = dict(texts)
        self.read_names = []

    def documents(self):
        for name, text in sorted(self.texts.items()):
            data = text.encode() if isinstance(text, str) else text
            digest = hmac.new(KEY, data, hashlib.sha256).hexdigest()
            if data:
                yield Document(uri=name, media_type="", keyed_digest=digest, size_bytes=len(data), acl_label="group:legal")
            else:
                yield Rejection(uri=name, code="E_EMPTY", reason="the file has 0 bytes")

    def read(self, document):
        self.read_names.append(document.uri)
        text = self.texts[document.uri]
        return text.encode() if isinstance(text, str) else text


def policy(**changes):
    shipped = load_pii()
    limits = shipped.fail_if.model_copy(update=changes.pop("limits", {}))
    return shipped.model_copy(update={"fail_if": limits, **changes})


def ingestor(folder, detector=None, rules=None, second_look=None, seed=0, keeper=None, **config):
    settings = IngestConfig(**({"chunk_tokens": 48, "min_chunk_tokens": 4, "unseen_share": 0.25} | config))
    rules = rules or policy()
    finisher = Finisher(
        config=settings,
        policy=rules,
        policy_digest=rules.digest(),
        key=KEY,
        seed=seed,
        count_tokens=lambda text: len(text.split()),
        ner_identity="none",
        second_look=second_look or Nothing(),
    )
    scrubber = Scrubber(rules, detector or PatternDetector(), KEY)
    return CorpusIngestor(
        config=settings,
        policy=rules,
        finisher=finisher,
        preparer=Preparer(settings, rules, scrubber, KEY),
        folder=folder,
        keeper=keeper,
    )


def order(i):
    body = " ".join(SENTENCE.format(i=10 * i + j, place=PLACES[(i + j) % 10]) for j in range(3))
    return f"# Order {i}\n\n{body}\n\nContact: Anna Weiss, anna.weiss@x.org\n"


@pytest.fixture
def texts():
    return {f"order-{i}.txt": order(i) for i in range(1, 5)}


def ingest(folder, texts, **settings):
    lines = []
    corpus = ingestor(folder, **settings).ingest(Listed(texts), lines.append)
    return corpus, lines


def written(folder):
    """Return the bytes of every file of a corpus folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != ".lock"}


def test_files_become_scrubbed_chunks_with_their_provenance(tmp_path, texts):
    corpus, lines = ingest(tmp_path, texts)
    assert [d.uri for d in corpus.documents] == sorted(texts)
    assert len({c.document_id for c in corpus.unseen}) == 1
    assert len({c.document_id for c in corpus.train}) == 3
    assert all(c.token_count <= 48 and c.token_count == len(c.text.split()) for c in corpus.chunks)
    assert not any("Weiss" in c.text or "x.org" in c.text for c in corpus.chunks)
    assert dict(corpus.removed) == {"EMAIL": 4, "PERSON": 4}
    assert all(c.text[r.start : r.end].startswith(f"[{r.entity}_") for c in corpus.chunks for r in c.redactions)
    chunk = corpus.chunks[0]
    assert (chunk.acl_label, chunk.section, chunk.ner_model, chunk.language) == ("group:legal", "Order 1", "none", "en")
    assert chunk.parser
    assert lines[0].message == "scrubbed"
    assert lines[-1].message == "done"
    assert dict(lines[-1].numbers)["person"] == 4


def test_the_folder_holds_files_a_person_can_open_under_their_digests(tmp_path, texts):
    corpus, _ = ingest(tmp_path, texts)
    assert set(written(tmp_path)) == {CHUNKS, DOCUMENTS, REJECTIONS, MANIFEST}
    manifest = read_manifest(tmp_path)
    assert (manifest.documents, manifest.chunks, manifest.corpus_digest) == (4, len(corpus.chunks), corpus.digest)
    line = json.loads((tmp_path / CHUNKS).read_bytes().splitlines()[0])
    assert (line["source"], line["text"].splitlines()[0]) == ("order-1.txt", "# Order 1")
    assert manifest.languages == (("en", 4),)


@pytest.mark.parametrize("name", [CHUNKS, DOCUMENTS, REJECTIONS, MANIFEST])
def test_a_changed_file_is_refused(tmp_path, texts, name):
    ingest(tmp_path, texts)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"o", b"0", 1) + b" ")
    with pytest.raises(IntegrityError) as caught:
        load_corpus(tmp_path)
    assert caught.value.code == "E_CORPUS_FILES" or name == MANIFEST


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_split(tmp_path, texts):
    for name in ("a", "b"):
        ingest(tmp_path / name, texts)
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert len({ingest(tmp_path / f"s{seed}", texts, seed=seed)[0].digest for seed in range(4)}) > 1


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path, texts):
    ingest(tmp_path / "whole", texts)

    class Cut(Listed):
        def read(self, document):
            if document.uri == "order-3.txt":
                raise KeyboardInterrupt
            return super().read(document)

    many = texts | {f"more-{i}.txt": order(40 + i) for i in range(30)}
    ingest(tmp_path / "all", many)
    cut = Cut(many)
    with pytest.raises(KeyboardInterrupt):
        ingestor(tmp_path / "cut").write(cut, lambda _: None)
    assert (tmp_path / "cut" / FOLDER).exists()
    assert not (tmp_path / "cut" / MANIFEST).exists()
    again = Listed(many)
    ingestor(tmp_path / "cut").write(again, lambda _: None)
    assert len(again.read_names) < len(many)
    assert written(tmp_path / "cut") == written(tmp_path / "all")
    assert not (tmp_path / "cut" / FOLDER).exists()


def test_other_settings_do_not_take_what_was_staged(tmp_path, texts):
    class Late(Listed):
        def documents(self):
            yield from super().documents()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingestor(tmp_path).write(Late({f"{i}-{name}": order(50 + i) for i in range(25) for name in texts}), lambda _: None)
    source = Listed(texts)
    ingestor(tmp_path, rules=policy(allow=("Anna",))).write(source, lambda _: None)
    assert sorted(source.read_names) == sorted(texts)


def test_other_limits_and_sizes_do_take_what_was_staged(tmp_path, texts):
    with pytest.raises(ScrubError):
        ingest(tmp_path, texts, second_look=Finds("part 20"), rules=policy(limits={"residual_documents": 0}))
    source = Listed(texts)
    relaxed = ingestor(tmp_path, second_look=Finds("part 20"), rules=policy(limits={"residual_documents": 1}), chunk_tokens=64)
    assert relaxed.write(source, lambda _: None).documents == 3
    assert source.read_names == []


def test_no_value_lies_in_the_stage(tmp_path, texts):
    class Late(Listed):
        def documents(self):
            yield from super().documents()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingestor(tmp_path).write(Late(texts | {f"m{i}.txt": order(60 + i) for i in range(20)}), lambda _: None)
    staged = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(staged) > 10
    assert not any(b"Weiss" in data or b"anna" in data.lower() for data in staged)


def test_two_writers_in_one_folder_are_refused(tmp_path, texts):
    class Meanwhile(Listed):
        def documents(self):
            with pytest.raises(StoreError) as caught:
                ingestor(tmp_path).write(Listed(texts), lambda _: None)
            assert caught.value.code == "E_LOCKED"
            return super().documents()

    ingestor(tmp_path).write(Meanwhile(texts), lambda _: None)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, texts):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="ENOTDIR") as caught:
        ingestor(tmp_path / "file" / "out").write(Listed(texts), lambda _: None)
    assert (caught.value.code, caught.value.exit_status()) == ("E_OUT", 2)


def test_bad_files_are_rejections_and_the_others_go_on(tmp_path, texts):
    bad = {"a.pdf": b"%PDF-1.7 CANARY-0123456789abcdef", "b.txt": b"", "c.exe": b"x"}
    corpus, _ = ingest(tmp_path, texts | bad)
    assert {r.uri: r.code for r in corpus.rejections} == {"a.pdf": "E_PARSE", "b.txt": "E_EMPTY", "c.exe": "E_UNSUPPORTED"}
    assert len(corpus.documents) == 4
    assert not any("CANARY" in r.reason for r in corpus.rejections)


def test_copies_are_left_out_also_when_only_their_white_space_differs(tmp_path, texts):
    text = texts["order-1.txt"]
    corpus, _ = ingest(tmp_path, texts | {"z-copy.txt": text, "z-spaced.md": text.replace(" costs", "  costs")})
    assert [(r.uri, r.code) for r in corpus.rejections] == [("z-copy.txt", "E_DEDUP"), ("z-spaced.md", "E_DEDUP")]


def test_a_file_under_a_wrong_suffix_does_not_cost_the_one_under_the_right_suffix(tmp_path, texts):
    corpus, _ = ingest(tmp_path, texts | {"a.pdf": texts["order-4.txt"]})
    assert {d.uri for d in corpus.documents} == set(texts)
    assert [r.uri for r in corpus.rejections] == ["a.pdf"]


def test_repeated_passages_are_dropped_and_near_copies_stay_on_one_side(tmp_path, texts):
    long = " ".join(SENTENCE.format(i=900 + j, place=PLACES[j % 10]) for j in range(40))
    near = long.replace("930", "931")
    corpus, _ = ingest(tmp_path, texts | {"near-1.txt": long, "near-2.txt": near})
    twins = {d.document_id for d in corpus.documents if d.uri.startswith("near")}
    assert len({c.split for c in corpus.chunks if c.document_id in twins}) == 1
    assert dict(corpus.dropped_chunks)["repeated"] >= 3


def test_documents_without_enough_text_or_in_another_language_are_left_out(tmp_path, texts):
    german = "Der Lieferant liefert die Ware an den Ort, den der Käufer in der Bestellung genannt hat, und nur an Werktagen."
    odd = {"short.txt": "Two words.", "de.txt": german, "numbers.txt": "17 18 19,00 20 " * 20}
    corpus, _ = ingest(tmp_path, texts | odd)
    codes = {r.uri: r.code for r in corpus.rejections}
    assert codes["short.txt"] == "E_EMPTY"
    assert codes["de.txt"] == "E_LANGUAGE"
    assert codes["numbers.txt"] == "E_QUALITY"


def test_too_many_bad_files_stop_the_run(tmp_path, texts):
    bad = {f"bad-{i}.pdf": b"%PDF-1.7 " + bytes([65 + i]) for i in range(5)}
    with pytest.raises(CorpusError, match=r"5 of 9 files cannot be used \(E_PARSE 5\)") as caught:
        ingest(tmp_path, texts | bad)
    assert (caught.value.code, caught.value.exit_status()) == ("E_QUARANTINE", 2)
    assert not (tmp_path / MANIFEST).exists()


def test_nothing_usable_is_an_error(tmp_path):
    for texts, code in (({"a.txt": "Two words."}, "E_DATA"), ({}, "E_EMPTY_CORPUS")):
        with pytest.raises(CorpusError) as caught:
            ingest(tmp_path, texts, rules=policy(limits={"quarantine_share": 1.0}))
        assert caught.value.code == code


def test_names_found_in_one_file_leave_the_others_and_the_file_names(tmp_path, texts):
    note = "Yesterday anna weiss said that the order of part nine was late again by far, and the customer was not amused."
    corpus, _ = ingest(tmp_path, texts | {"weiss-notes.txt": note})
    assert not any("weiss" in c.text.lower() for c in corpus.chunks)
    assert any(d.uri == "[PERSON]-notes.txt" for d in corpus.documents)
    assert not any(b"weiss" in data.lower() for data in written(tmp_path).values())


def test_an_initial_and_a_full_name_in_two_files_are_one_person(tmp_path, texts):
    full = "Dear Ms. Ilsa Brandtner, the crane of the harbour is ready for the inspection on the day that you have named to us."
    short = "Dear Ms. I. Brandtner, the depot of the brewery needs a new roof before the winter comes and the rain gets in there."
    corpus, _ = ingest(tmp_path, texts | {"full.txt": full, "short.txt": short})
    named = [c.text.split(".")[1].split(",")[0].strip() for c in corpus.chunks if c.text.startswith("Dear")]
    assert len(named) == 2
    assert len(set(named)) == 1


def test_a_second_pass_that_was_cut_off_starts_from_the_first_one(tmp_path, texts):
    footer = "Harbour Works of Pier Nine, all rights reserved."

    def offer(i):
        lines = (f"Crane {i}{j} lifts {j} tons at the {PLACES[(i + j) % 10]}." for j in range(20))
        return "\n\n".join((*lines, footer))

    long = {f"l{i:02}.txt": offer(i) for i in range(12)}
    ingest(tmp_path / "whole", texts | long)
    assert dict(read_manifest(tmp_path / "whole").hidden)["running_line"] == 12 * len(footer)

    def stop(progress):
        if progress.message == "cut" and progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingestor(tmp_path / "cut").write(Listed(texts | long), stop)
    ingest(tmp_path / "cut", texts | long)
    assert written(tmp_path / "cut") == written(tmp_path / "whole")


def test_an_access_label_that_changed_since_is_the_one_that_counts(tmp_path, texts):
    def stop(progress):
        if progress.message == "swept":
            raise KeyboardInterrupt

    class Relabelled(Listed):
        def documents(self):
            return (replace(item, acl_label="group:board") for item in super().documents())

    with pytest.raises(KeyboardInterrupt):
        ingestor(tmp_path).write(Listed(texts), stop)
    corpus = ingestor(tmp_path).ingest(Relabelled(texts), lambda _: None)
    assert {chunk.acl_label for chunk in corpus.chunks} == {"group:board"}


def test_a_failed_run_leaves_an_earlier_corpus_as_it_was(tmp_path, texts):
    ingest(tmp_path, texts)
    before = written(tmp_path)
    with pytest.raises(ScrubError):
        ingest(tmp_path, texts, second_look=Finds("part 20"), rules=policy(limits={"residual_documents": 0}))
    assert written(tmp_path) == before


class Finds:
    """Finds one word."""

    def __init__(self, word):
        self.word = word

    def detect(self, text):
        start = text.find(self.word)
        return [] if start < 0 else [Span(start=start, end=start + len(self.word), entity="US_SSN", score=1.0, detector="second")]


def test_what_the_second_detector_finds_quarantines_the_document(tmp_path, texts):
    rules = policy(limits={"residual_documents": 1})
    corpus, _ = ingest(tmp_path, texts, second_look=Finds("part 20"), rules=rules)
    assert [(r.uri, r.code) for r in corpus.rejections] == [("order-2.txt", "E_RESIDUE")]
    assert not any("part 20" in c.text for c in corpus.chunks)


def test_residue_above_the_limit_stops_the_run_without_naming_it(tmp_path, texts):
    with pytest.raises(ScrubError, match="allowed are 0") as caught:
        ingest(tmp_path, texts, second_look=Finds("part 20"), rules=policy(limits={"residual_documents": 0}))
    assert caught.value.code == "E_RESIDUE"
    assert not (tmp_path / MANIFEST).exists()
    assert not (tmp_path / CHUNKS).exists()


class Broken:
    """A detector whose failure carries the text."""

    def detect(self, text):
        raise ValueError(text)


def test_a_stray_failure_carries_no_text(tmp_path, texts):
    with pytest.raises(CorpusError) as caught:
        ingest(tmp_path, texts, detector=Broken())
    assert caught.value.code == "E_INTERNAL"
    assert caught.value.__cause__ is None
    assert "Weiss" not in caught.value.explain()


def opened(folder):
    key = folder / "master.key"
    keys = create_key_file(key) if not key.exists() else master_key("t", file=key)
    return open_vault(folder / "originals.db", keys, tenant="t", may_create=True)


def test_originals_go_into_a_vault_only_when_the_policy_says_so_and_are_found_by_what_stands_in_the_corpus(tmp_path, texts):
    vault = opened(tmp_path)
    ingest(tmp_path / "a", texts, keeper=vault)
    assert vault.hits("Anna Weiss") == 0
    labels = load_pii().labels | {"PERSON": PiiLabel(action="pseudonymise")}
    corpus, _ = ingest(tmp_path / "b", texts, keeper=vault, rules=policy(originals="vault", labels=labels))
    log = []
    for chunk in corpus.chunks:
        document = next(d for d in corpus.documents if d.document_id == chunk.document_id)
        for redaction in chunk.redactions:
            shown = chunk.text[redaction.start : redaction.end]
            (value,) = vault.read(document.keyed_digest, shown, reason="case/1", record=log.append)
            assert value == {"PERSON": "Anna Weiss", "EMAIL": "anna.weiss@x.org"}[redaction.entity]
    assert len(log) == sum(len(c.redactions) for c in corpus.chunks) > 4
    assert not any(b"Weiss" in data for data in written(tmp_path / "b").values())


def test_originals_of_a_document_that_was_left_out_are_not_kept(tmp_path, texts):
    vault = opened(tmp_path)
    ingest(tmp_path / "out", texts | {"short.txt": "Mail zoe.quill@x.org"}, keeper=vault, rules=policy(originals="vault"))
    assert (vault.hits("zoe.quill@x.org"), vault.hits("anna.weiss@x.org")) == (0, 4)


SCRIPT = """
import sys
from spice_enterprise.job import SpiceAdapterJob
job = SpiceAdapterJob(corpus=sys.argv[1], workspace=sys.argv[3], ingest={"workers": int(sys.argv[4])})
job.ingest_to(sys.argv[2])
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    (root / "files").mkdir()
    for i in range(1, 61):
        (root / "files" / f"order-{i}.txt").write_text(order(i).replace("Anna Weiss", f"Anna Weiss{'abcdefgh'[i % 8]}"))
    return root


def command(root, out, workers):
    return [sys.executable, "-c", SCRIPT, str(root / "files"), str(root / out), str(root / "runs"), str(workers)]


@pytest.mark.slow
def test_two_processes_and_a_killed_run_give_the_bytes_of_one(real):
    subprocess.run(command(real, "one", 1), check=True, timeout=300)
    subprocess.run(command(real, "two", 2), check=True, timeout=300)
    assert written(real / "two") == written(real / "one")
    child = subprocess.Popen(command(real, "cut", 1), start_new_session=True)
    deadline = time.monotonic() + 200
    while not list((real / "cut").rglob(f"{FOLDER}/**/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (real / "cut" / MANIFEST).exists()
    subprocess.run(command(real, "cut", 2), check=True, timeout=300)
    assert written(real / "cut") == written(real / "one")

import json

import pytest

from spice_enterprise.corpus.scrub import excerpt
from spice_enterprise.corpus.staging import FOLDER, Prepared, Stage
from spice_enterprise.corpus.values import Entry
from spice_enterprise.records import Document

DOCUMENT = Document(uri="a.txt", media_type="text/plain", keyed_digest="ab" * 32, size_bytes=3, hidden=(("vanish", 2),))


def prepared(**changes) -> Prepared:
    fields = {
        "document": DOCUMENT,
        "text": excerpt("To [PERSON_aaaaaaaaaaaaaaaa]", 0, 99),
        "removed": (("PERSON", 1),),
        "entries": (Entry(first="00", whole="01", length=2, entity="PERSON", placeholder="[PERSON_aaaaaaaaaaaaaaaa]"),),
        "renderings": (("[DATE_aaaaaaaaaaaaaaaa]", "2020"),),
        "name_parts": ("0f",),
        "words": ("1a",),
        "people": (("[PERSON_aaaaaaaaaaaaaaaa]", "x"),),
        "text_digest": "d",
        "isolation": "namespace",
    }
    return Prepared(**(fields | changes))


def test_what_is_saved_is_loaded(tmp_path):
    stage = Stage(tmp_path, "sha256:" + "0" * 64)
    stage.save(prepared())
    assert stage.load(stage.key_of(DOCUMENT)) == prepared()
    assert stage.has(stage.key_of(DOCUMENT))
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert file.stat().st_mode & 0o077 == 0


def test_another_pipeline_finds_nothing(tmp_path):
    Stage(tmp_path, "sha256:" + "0" * 64).save(prepared())
    other = Stage(tmp_path, "sha256:" + "1" * 64)
    assert other.load(other.key_of(DOCUMENT)) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"document": 3}', b"\x00\xff"])
def test_a_damaged_file_is_no_document(tmp_path, damage):
    stage = Stage(tmp_path, "sha256:" + "0" * 64)
    stage.save(prepared())
    next(p for p in tmp_path.rglob("*.json")).write_bytes(damage)
    assert stage.load(stage.key_of(DOCUMENT)) is None


def test_an_altered_document_is_not_accepted_under_its_id(tmp_path):
    stage = Stage(tmp_path, "sha256:" + "0" * 64)
    stage.save(prepared())
    file = next(p for p in tmp_path.rglob("*.json"))
    data = json.loads(file.read_bytes())
    data["document"]["owner"] = "owner_x"
    file.write_text(json.dumps(data))
    assert stage.load(stage.key_of(DOCUMENT)) is None


def test_clearing_leaves_nothing(tmp_path):
    for digit in "01":
        Stage(tmp_path, "sha256:" + digit * 64).save(prepared())
    Stage(tmp_path, "sha256:" + "0" * 64).clear()
    assert not (tmp_path / FOLDER).exists()

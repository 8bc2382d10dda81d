import email
import hashlib
import json
import re
import sys
from collections import Counter
from email import policy
from pathlib import Path

import pytest

from spice_enterprise import demo
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.demo import Gold, demo_settings, write_corpus
from spice_enterprise.errors import MissingExtraError, SourceError

pytest.importorskip("reportlab", reason="the demo extra is not installed")

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = {
    "PERSON", "EMAIL", "PHONE", "ADDRESS", "IBAN", "CREDIT_CARD", "US_SSN", "PASSPORT", "EMPLOYEE_ID", "CUSTOMER_ID",
    "TAX_ID", "DATE_OF_BIRTH", "IP_ADDRESS", "MAC_ADDRESS", "USERNAME", "PASSWORD", "API_KEY", "VEHICLE_ID", "BANK_ACCOUNT",
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gold]:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    return folder, write_corpus(folder, documents=24)


@pytest.fixture(scope="module")
def gold() -> Gold:
    """The answer key of the whole demo, without its files."""
    return Gold(documents=tuple(demo._document(index, 7)[2] for index in range(120)))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def text_of(path: Path) -> str:
    """The text of a file, read with the library of its format, on one line."""
    return " ".join(READERS[path.suffix](path).split())


def read_pdf(path: Path) -> str:
    pypdfium2 = pytest.importorskip("pypdfium2")
    pdf = pypdfium2.PdfDocument(path)
    try:
        return "\n".join(page.get_textpage().get_text_bounded() for page in pdf)
    finally:
        pdf.close()


def read_docx(path: Path) -> str:
    import docx

    document = docx.Document(str(path))
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    return "\n".join([*(p.text for p in document.paragraphs), *cells])


def read_pptx(path: Path) -> str:
    import pptx

    shapes = [shape for slide in pptx.Presentation(str(path)).slides for shape in slide.shapes]
    cells = [cell.text for shape in shapes if shape.has_table for row in shape.table.rows for cell in row.cells]
    return "\n".join([*(shape.text_frame.text for shape in shapes if shape.has_text_frame), *cells])


def read_xlsx(path: Path) -> str:
    import openpyxl

    rows = [row for sheet in openpyxl.load_workbook(path) for row in sheet.iter_rows(values_only=True)]
    return "\n".join(str(cell) for row in rows for cell in row if cell is not None)


def read_html(path: Path) -> str:
    from lxml import html

    return " ".join(html.fromstring(path.read_bytes()).itertext())


def read_mail(path: Path) -> str:
    message = email.message_from_bytes(path.read_bytes(), policy=policy.default)
    body = message.get_body(("plain",))
    assert body is not None
    return f"{message['From']} {message['To']} {message['Subject']} {body.get_content()}"


READERS = {
    ".pdf": read_pdf, ".docx": read_docx, ".pptx": read_pptx, ".xlsx": read_xlsx, ".html": read_html, ".eml": read_mail,
    ".csv": lambda path: path.read_text("utf-8"), ".txt": lambda path: path.read_text("utf-8"),
    ".md": lambda path: path.read_text("utf-8"),
}  # fmt: skip


# --- the same bytes everywhere ----------------------------------------------------------------------------------------


def test_committed_corpus_is_what_the_generator_writes(small: tuple[Path, Gold], tmp_path: Path) -> None:
    folder, gold = small
    gold.write_gold(tmp_path / "gold.jsonl")
    assert digests(folder) == digests(EXAMPLES / "corpus")
    assert (tmp_path / "gold.jsonl").read_bytes() == (EXAMPLES / "corpus_gold.jsonl").read_bytes()


def test_a_document_does_not_depend_on_how_many_there_are(small: tuple[Path, Gold], tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", documents=8)
    full = digests(small[0])
    assert digests(tmp_path / "corpus") == {name: full[name] for name in sorted(full)[:8]}


def test_another_seed_makes_other_facts() -> None:
    first, second = (demo._document(0, seed)[2] for seed in (7, 8))
    assert {fact.value for fact in first.facts} != {fact.value for fact in second.facts}


def test_writing_twice_into_the_same_folder_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_corpus(folder, documents=3)
    before = digests(folder)
    write_corpus(folder, documents=3)
    assert digests(folder) == before


# --- what the files say -----------------------------------------------------------------------------------------------


def test_every_planted_value_and_fact_can_be_read_back(small: tuple[Path, Gold]) -> None:
    folder, gold = small
    for document in gold.documents:
        text = text_of(folder / document.file)
        planted = [pii.value for pii in document.pii] + list(document.canaries)
        cells = [cell for fact in document.facts for cell in fact.sentence.split(" | ")]
        assert [value for value in planted + cells if value not in text] == [], document.file


def test_documents_are_short(small: tuple[Path, Gold]) -> None:
    for path in small[0].iterdir():
        assert 110 <= len(text_of(path).split()) <= 260, path.name
        assert path.stat().st_size < 40_000, path.name


def test_all_kinds_and_formats_are_there(small: tuple[Path, Gold]) -> None:
    assert {Path(document.file).suffix for document in small[1].documents} == set(READERS)
    assert {document.kind for document in small[1].documents} == set(demo.TEMPLATES)


def test_formats_are_balanced(gold: Gold) -> None:
    assert Counter(Path(document.file).suffix for document in gold.documents) == {
        ".pdf": 20, ".docx": 15, ".html": 15, ".eml": 15, ".txt": 15, ".xlsx": 10, ".pptx": 10, ".csv": 10, ".md": 10,
    }  # fmt: skip


def test_each_document_states_eight_to_fourteen_facts_with_their_value(gold: Gold) -> None:
    for document in gold.documents:
        assert 8 <= len(document.facts) <= 14
        assert all(fact.value in fact.sentence for fact in document.facts)
        assert not any(re.search(r"[\[\]{}<>]", fact.sentence) for fact in document.facts), document.file
        sentences = [fact.sentence for fact in document.facts if fact.sentence.endswith(".")]
        assert len({fact.value for fact in document.facts}) == len(document.facts), document.file
        assert len(sentences) >= 8


def test_sentences_come_from_many_templates_with_one_known_value_each() -> None:
    templates = [s for t in demo.TEMPLATES.values() for _, sentences in t.sections for s in sentences]
    assert len(set(templates)) >= 60
    for template in templates:
        names = re.findall(r"\[(\w+)\]", template)
        assert [name in demo.VALUES for name in names] == [True], template
        assert "{s}" in template, template


def test_the_same_statement_has_different_values_in_different_documents(gold: Gold) -> None:
    notice = [f.value for d in gold.documents for f in d.facts if f.sentence.startswith("The notice period of")]
    assert len(notice) >= 5
    assert len(set(notice)) >= len(notice) * 0.7


def test_subjects_are_unique_even_past_the_list() -> None:
    subjects = [demo._subject(demo.TEMPLATES["policy"], ordinal) for ordinal in range(40)]
    assert len(set(subjects)) == 40
    assert subjects[15] == "travel expense policy for lot 2"


# --- planted personal data --------------------------------------------------------------------------------------------


def test_all_labels_are_planted_in_about_half_of_the_documents(gold: Gold) -> None:
    assert {pii.entity for document in gold.documents for pii in document.pii} == LABELS
    assert 48 <= sum(bool(document.pii) for document in gold.documents) <= 72


def test_the_small_corpus_has_at_least_fifteen_labels(small: tuple[Path, Gold]) -> None:
    assert len({pii.entity for document in small[1].documents for pii in document.pii}) >= 15


def test_twenty_four_documents_carry_a_canary(gold: Gold) -> None:
    canaries = [canary for document in gold.documents for canary in document.canaries]
    assert len(set(canaries)) == len(canaries) == 24
    assert all(re.fullmatch(r"CANARY-[0-9a-f]{16}", canary) for canary in canaries)


def values_of(gold: Gold, entity: str) -> list[str]:
    return [pii.value for document in gold.documents for pii in document.pii if pii.entity == entity]


def test_ibans_have_valid_check_digits(gold: Gold) -> None:
    for iban in values_of(gold, "IBAN"):
        moved = iban[4:] + iban[:4]
        assert int("".join(str(int(c, 36)) for c in moved)) % 97 == 1
        assert len(iban) == 22


def test_card_numbers_pass_luhn(gold: Gold) -> None:
    for card in values_of(gold, "CREDIT_CARD"):
        digits = [int(c) for c in card.replace(" ", "")][::-1]
        assert (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0
        assert len(digits) == 16


def test_nothing_planted_can_reach_anybody(gold: Gold) -> None:
    assert all(address.endswith("@halden-marsh.example") for address in values_of(gold, "EMAIL"))
    assert all(re.fullmatch(r"\+44 (20 7946 0|(161|113|121) 496 0)\d{3}", phone) for phone in values_of(gold, "PHONE"))
    assert all(address.startswith("203.0.113.") for address in values_of(gold, "IP_ADDRESS"))


def test_gold_does_not_print_what_was_planted(gold: Gold) -> None:
    document = next(d for d in gold.documents if d.canaries and d.pii)
    assert document.canaries[0] not in repr(document)
    assert document.pii[0].value not in repr(document)


def test_gold_is_one_json_line_per_document(small: tuple[Path, Gold], tmp_path: Path) -> None:
    small[1].write_gold(tmp_path / "gold.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "gold.jsonl").read_text("utf-8").splitlines()]
    assert [line["file"] for line in lines] == [document.file for document in small[1].documents]
    assert set(lines[0]) == {"file", "kind", "pii", "canaries", "facts"}
    assert set(lines[0]["facts"][0]) == {"sentence", "value", "kind"}
    assert set(lines[0]["pii"][0]) == {"entity", "value"}


# --- refusals and settings --------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused_without_naming_them(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "salaries-of-ada.txt").write_text("private", encoding="utf-8")
    with pytest.raises(SourceError, match=r"holds 1 other file\(s\)") as caught:
        write_corpus(folder, documents=2)
    assert caught.value.code == "E_NOT_EMPTY"
    assert "ada" not in caught.value.explain()
    assert [path.name for path in folder.iterdir()] == ["salaries-of-ada.txt"]


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reportlab.platypus", None)
    with pytest.raises(MissingExtraError, match="needs reportlab") as caught:
        write_corpus(tmp_path / "corpus", documents=1)
    assert caught.value.code == "E_MISSING_EXTRA"
    assert "spice-enterprise[demo]" in caught.value.hint


def test_settings_are_a_valid_config(tmp_path: Path) -> None:
    config = build_config(demo_settings(tmp_path))
    assert isinstance(config, JobConfig)
    assert (config.name, config.corpus) == ("demo", str(tmp_path))
    assert (config.selfplay.steps, config.ingest.chunk_tokens, config.training.lora_rank) == (4, 96, 16)

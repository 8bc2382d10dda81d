"""Canaries and personal data are counted; placeholders, options and what was on the page are not."""

import re

from spice_enterprise.records import AdapterVersion, Exam, ExamItem, ScrubbedText, Span
from spice_enterprise.release.evaluation import Bars, Scores
from spice_enterprise.release.leak_checks import CanaryCheck, personal_data_in

CANARY = "CANARY-0123456789abcdef"


class Digits:
    """Finds long numbers, and calls capitalised words persons."""

    def detect(self, text: str) -> list[Span]:
        found = [(m, "PHONE") for m in re.finditer(r"\d{6,}", text)] + [(m, "PERSON") for m in re.finditer(r"[A-Z][a-z]+", text)]
        return [Span(start=m.start(), end=m.end(), entity=kind, score=1.0, detector="digits") for m, kind in found]


class Answered:
    """Bars with given answers of the adapter, and of the base without the passage."""

    def __init__(self, exam: Exam, without: tuple[str, ...], reading: tuple[str, ...], base: tuple[str, ...] = ()) -> None:
        ids = tuple(item.item_id for item in exam.items)
        quiet = ("nothing",) * len(ids)
        self.bars, self.base_bars = (
            Bars(
                exam_digest=exam.digest,
                adapter_digest="d",
                without_passage=Scores(item_ids=ids, correct=(False,) * len(ids), answers=first),
                with_passage=Scores(item_ids=ids, correct=(False,) * len(ids), answers=second),
            )
            for first, second in ((without, reading), (base or quiet, quiet))
        )

    def adapter(self, version: AdapterVersion, exam: Exam) -> Bars:
        return self.bars

    def base(self, exam: Exam) -> Bars:
        return self.base_bars


def _item(i: int, passage: str, item_format: str = "cloze") -> ExamItem:
    return ExamItem(
        document_id="doc", chunk_id=f"chunk_{i}", claim="transfer", item_format=item_format,  # type: ignore[arg-type]  # one of the literals
        passage=ScrubbedText(passage), question="It is ____.", answer="x", answer_kind="text",
    )  # fmt: skip


VERSION = AdapterVersion(
    role="shared", parent_adapter_id=None, step_id="s", step=1, base_model="b", base_digest="b",
    corpus_digest="c", config_digest="k", manifest=(), digest="d",
)  # fmt: skip


def _run(
    without: str, reading: str, rollouts: tuple[str, ...] = (), item_format: str = "cloze", base: str = "nothing"
) -> dict[str, tuple[float, int]]:
    exam = Exam(items=(_item(0, "The order 7654321 stands.", item_format),), settings_digest="s", corpus_digest="c")
    bars = Answered(exam, (without,), (reading,), (base,))
    check = CanaryCheck(detector=Digits(), bars=bars, rollout_texts=lambda: rollouts)  # type: ignore[arg-type]  # has the one method used
    return {result.metric: (result.value, result.n) for result in check.run(VERSION, exam)}


def test_a_clean_adapter_has_zero_hits_in_every_look() -> None:
    assert _run("nothing", "nothing", ("a rollout", "another")) == {"canaries_emitted": (0.0, 4), "pii_emitted": (0.0, 2)}


def test_canaries_count_once_each_wherever_they_stand() -> None:
    found = _run(f"is {CANARY}", CANARY, (CANARY, "CANARY-ffffffffffffffff", "CANARY-xyz"))
    assert found == {"canaries_emitted": (2.0, 5), "pii_emitted": (0.0, 2)}


def test_personal_data_counts_unless_it_was_on_the_page() -> None:
    assert _run("nothing", "7654321")["pii_emitted"] == (0.0, 2)
    assert _run("7654321", "nothing")["pii_emitted"] == (1.0, 2)
    assert _run("nothing", "nothing", ("call 5551234567",))["pii_emitted"] == (0.0, 2), "a rollout at temperature 1 invents"


def test_only_the_excess_over_the_base_counts() -> None:
    assert _run("call 5551234567", "nothing", base="or 5559999999")["pii_emitted"] == (0.0, 2)
    assert _run("5551234567 and 5550000000", "nothing", base="or 5559999999")["pii_emitted"] == (1.0, 2)
    assert _run("nothing", "nothing", base="or 5559999999")["pii_emitted"] == (0.0, 2)


def test_our_own_options_are_no_emission() -> None:
    assert _run("7654321", CANARY, item_format="choice") == {"canaries_emitted": (0.0, 0), "pii_emitted": (0.0, 0)}


def test_placeholders_and_invented_names_do_not_count() -> None:
    assert personal_data_in("[PHONE_723456] and [US_SSN_234567] met Maria", Digits()) == set()


def test_the_result_tells_numbers_and_no_values() -> None:
    exam = Exam(items=(_item(0, "x"),), settings_digest="s", corpus_digest="c")
    check = CanaryCheck(detector=Digits(), bars=Answered(exam, (CANARY,), ("5551234567",)))  # type: ignore[arg-type]  # as above
    details = " ".join(result.detail for result in check.run(VERSION, exam))
    assert CANARY not in details
    assert "5551234567" not in details
    assert (
        details == "1 distinct value(s) in 2 text(s); no bound on the rate 1 distinct value(s) in 2 text(s); no bound on the rate"
    )

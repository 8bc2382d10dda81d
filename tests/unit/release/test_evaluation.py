"""Four bars, one gain; nobody is graded on answers of another adapter or another exam."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from spice_enterprise.config import ExamConfig
from spice_enterprise.errors import DeliveryError, IntegrityError
from spice_enterprise.records import AdapterVersion, Completion, Exam, ExamItem, Prompt, ScrubbedText, Task
from spice_enterprise.release.answer_sheet import Marks, make_sheet, read_sheet
from spice_enterprise.release.evaluation import (
    FourBars,
    Grading,
    Scores,
    TransferGainCheck,
    likeliest,
    score_exam,
    widen,
)
from spice_enterprise.release.exam import overlapping_items
from spice_enterprise.release.statistics import Interval


class Exact:
    """Grades by equality."""

    def grade(self, task: Task, answer: str) -> bool:
        return answer == task.answer


class Reader:
    """Knows the answers to `known` items when the passage is shown, and to none without."""

    def __init__(self, exam: Exam, known: int, digest: str = "base") -> None:
        self.exam, self.known, self.adapter_digest = exam, known, digest
        self.calls: list[str] = []

    def publish(self, version: AdapterVersion | None) -> None:
        self.calls.append("publish")

    def _item(self, prompt: Prompt) -> tuple[int, ExamItem]:
        return next(
            (i, item) for i, item in enumerate(self.exam.items) if f"Sentence: {item.question}\n" in prompt.messages[-1].content
        )

    def _knows(self, prompt: Prompt, i: int, item: ExamItem) -> bool:
        return i < self.known and item.passage in prompt.messages[-1].content

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        assert n == 1
        self.calls.append(f"sample {len(prompts)}")
        assert all(prompt.temperature == 0.0 for prompt in prompts)
        found = [(prompt, *self._item(prompt)) for prompt in prompts]
        return [[_completion(f"\n {item.answer} \nmore" if self._knows(p, i, item) else "no idea")] for p, i, item in found]

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        self.calls.append(f"score {len(prompts)}")
        rows = []
        for prompt, options in zip(prompts, continuations, strict=True):
            i, item = self._item(prompt)
            rows.append([-1.0 if self._knows(prompt, i, item) and option == f" {item.answer}" else -2.0 for option in options])
        return rows


def _completion(text: str) -> Completion:
    return Completion(
        prompt_token_ids=(), token_ids=(), logprobs=(), text=text, stop_reason="stop", adapter_digest="base"
    )  # fmt: skip


def _exam(documents: int = 30, per_document: int = 2) -> Exam:
    items = tuple(
        ExamItem(
            document_id=f"doc_{i // per_document}",
            chunk_id=f"chunk_{i}",
            claim="transfer",
            item_format="choice" if i % 2 else "cloze",
            passage=ScrubbedText(f"Passage number {i} says value-{i}."),
            question=f"Passage number {i} says ____.",
            answer=f"value-{i}",
            answer_kind="text",
            options=(f"value-{i}", "other a", "other b", "other c") if i % 2 else (),
        )
        for i in range(documents * per_document)
    )
    return Exam(items=items, settings_digest="sha256:s", corpus_digest="sha256:c")


def _version(digest: str = "sha256:adapter") -> AdapterVersion:
    return AdapterVersion(
        role="shared", parent_adapter_id=None, step_id="step_1", step=1, base_model="b", base_digest="sha256:b",
        corpus_digest="sha256:c", config_digest="sha256:k", manifest=(), digest=digest,
    )  # fmt: skip


GRADING = Grading(verifier=Exact(), answer_tokens=8, seed=3)


def _check(exam: Exam, base: int, adapter: int, texts: tuple[str, ...] = ()) -> TransferGainCheck:
    bars = FourBars(base_sampler=Reader(exam, base), sampler=Reader(exam, adapter, "sha256:adapter"), grading=GRADING)
    return TransferGainCheck(bars=bars, config=ExamConfig(draws=500), training_texts=lambda: texts)


def test_all_clozes_go_in_one_call_and_all_choices_in_another() -> None:
    exam = _exam()
    reader = Reader(exam, known=60)
    scores = score_exam(reader, exam, GRADING, with_passage=True)
    assert reader.calls == ["sample 30", "score 30"]
    assert scores.accuracy == 1.0
    assert scores.answers[:2] == ("value-0", "value-1")
    assert score_exam(reader, exam, GRADING, with_passage=False).accuracy == 0.0


def test_the_gain_is_candidate_minus_base_over_documents() -> None:
    gain, alone = _check(_exam(), base=20, adapter=44).run(_version(), _exam())
    assert (gain.metric, gain.n, gain.clusters) == ("transfer_accuracy", 60, 30)
    assert gain.baseline == pytest.approx(20 / 60)
    assert gain.candidate == pytest.approx(44 / 60)
    assert gain.value == pytest.approx(24 / 60)
    assert gain.low is not None
    assert 0 < gain.low < gain.value < (gain.high or 0) < 1
    assert "base without passage 0.0%, base with passage 33.3%" in gain.detail
    assert "adapter without passage 0.0%, adapter with passage 73.3%" in gain.detail
    assert "24 won, 0 lost" in gain.detail
    assert "choice 10 to 22 of 30, cloze 10 to 22 of 30" in gain.detail
    assert (alone.metric, alone.value, alone.candidate) == ("accuracy_without_passage", 0.0, 0.0)


def test_a_check_measures_and_does_not_judge() -> None:
    assert {r.verdict for r in _check(_exam(), base=0, adapter=60).run(_version(), _exam())} == {"INCONCLUSIVE"}


def test_items_seen_in_training_are_dropped_and_counted() -> None:
    exam = _exam()
    texts = tuple(f"passage number {i} says value {i}" for i in range(10))
    assert overlapping_items(exam, texts) == 10
    gain, _ = _check(exam, base=0, adapter=10, texts=texts).run(_version(), exam)
    assert (gain.n, gain.value) == (50, 0.0)
    assert "10 question(s) dropped" in gain.detail


def test_nothing_left_to_compare_is_not_a_number() -> None:
    exam = _exam(1, 1)
    gain, _ = _check(exam, base=0, adapter=1, texts=("passage number 0 says value 0",)).run(_version(), exam)
    assert math.isnan(gain.value)
    assert gain.n == 0


def test_few_documents_need_a_permutation_too() -> None:
    exam = _exam(documents=4, per_document=1)
    gain, _ = _check(exam, base=0, adapter=4).run(_version(), exam)
    assert gain.value == 1.0
    assert gain.low == 0.0
    assert "few clusters: sign-flip p over documents = 0.125" in gain.detail


def test_no_changed_answer_is_no_proof_of_no_change() -> None:
    gain, _ = _check(_exam(), base=20, adapter=20).run(_version(), _exam())
    assert (gain.value, gain.low, gain.high) == (0.0, -0.1, 0.1), "3 / 30 documents"
    assert "no answer changed" in gain.detail


def test_widen_only_when_the_permutation_finds_nothing() -> None:
    assert widen(Interval(0.1, 0.2, 0.3), 0.2, 0.05) == (0.0, 0.2, 0.3)
    assert widen(Interval(-0.3, -0.2, -0.1), 0.2, 0.05) == (-0.3, -0.2, 0.0)
    assert widen(Interval(0.1, 0.2, 0.3), 0.01, 0.05) == (0.1, 0.2, 0.3)


def test_another_adapter_is_not_graded() -> None:
    with pytest.raises(DeliveryError, match="another adapter") as caught:
        _check(_exam(), base=0, adapter=9).run(_version("sha256:other"), _exam())
    assert caught.value.record_id == _version("sha256:other").adapter_id


def test_bars_are_measured_once(tmp_path: Path) -> None:
    exam = _exam()
    first, second = Reader(exam, 20), Reader(exam, 44, "sha256:adapter")
    bars = FourBars(base_sampler=first, sampler=second, grading=GRADING, folder=tmp_path)
    assert bars.base(exam) == bars.base(exam)
    assert bars.adapter(_version(), exam) == bars.adapter(_version(), exam)
    assert len(first.calls) == len(second.calls) == 5
    untouched = Reader(exam, 0)
    again = FourBars(base_sampler=untouched, sampler=second, grading=GRADING, folder=tmp_path)
    assert again.base(exam) == bars.base(exam)
    assert untouched.calls == []


def test_a_stored_baseline_of_other_questions_is_refused(tmp_path: Path) -> None:
    exam = _exam()
    bars = FourBars(base_sampler=Reader(exam, 20), sampler=Reader(exam, 0), grading=GRADING, folder=tmp_path)
    bars.base(exam)
    (path,) = tmp_path.glob("baseline-*")
    for content, message in (("{", "not JSON"), (path.read_text().replace(exam.digest, "sha256:0"), "of another exam")):
        path.write_text(content)
        fresh = FourBars(base_sampler=Reader(exam, 0), sampler=Reader(exam, 0), grading=GRADING, folder=tmp_path)
        with pytest.raises(IntegrityError, match=message) as caught:
            fresh.base(exam)
        assert caught.value.code == "E_BASELINE"


def test_a_stored_baseline_holds_no_passage(tmp_path: Path) -> None:
    exam = _exam()
    FourBars(base_sampler=Reader(exam, 60), sampler=Reader(exam, 0), grading=GRADING, folder=tmp_path).base(exam)
    (path,) = tmp_path.glob("baseline-*")
    assert "Passage number" not in path.read_text()
    assert set(json.loads(path.read_text())) == {"exam_digest", "adapter_digest", "without_passage", "with_passage"}


@pytest.mark.parametrize(
    ("logprobs", "pick"),
    [([-1.0, -2.0], "a"), ([-2.0, -1.0], "b"), ([-1.0, -1.0], ""), ([math.nan, -3.0], "b"), ([math.nan] * 2, "")],
)
def test_the_likeliest_option(logprobs: list[float], pick: str) -> None:
    assert likeliest(["a", "b"], logprobs) == pick


def test_accuracy_of_nothing_is_not_a_number() -> None:
    assert math.isnan(Scores(item_ids=(), correct=(), answers=()).accuracy)


# --- marks by question ------------------------------------------------------------------------------------------------


def test_the_marks_of_every_question_are_kept_without_a_word_of_it(tmp_path: Path) -> None:
    exam = _exam()
    bars = FourBars(base_sampler=Reader(exam, 20), sampler=Reader(exam, 44, "sha256:adapter"), grading=GRADING, folder=tmp_path)
    texts = ("passage number 3 says value 3",)
    TransferGainCheck(bars=bars, config=ExamConfig(draws=100), training_texts=lambda: texts).run(_version(), exam)
    sheet = read_sheet(tmp_path, exam_digest=exam.digest, adapter_digest="sha256:adapter")
    assert sum(item.base_with for item in sheet.items) == 20
    assert sum(item.adapter_with for item in sheet.items) == 44
    assert sum(item.adapter_without for item in sheet.items) == 0
    assert [i for i, item in enumerate(sheet.items) if item.is_overlapping] == [3]
    assert [item.item_id for item in sheet.items] == [item.item_id for item in exam.items]
    (path,) = tmp_path.glob("answers-*")
    assert "value" not in path.read_text()
    assert "Passage" not in path.read_text()


def test_marks_of_another_exam_or_adapter_are_refused(tmp_path: Path) -> None:
    exam = _exam(2, 1)
    with pytest.raises(IntegrityError) as caught:
        read_sheet(tmp_path, exam_digest=exam.digest, adapter_digest="sha256:adapter")
    assert caught.value.code == "E_BASELINE"
    bars = FourBars(base_sampler=Reader(exam, 1), sampler=Reader(exam, 2, "sha256:adapter"), grading=GRADING, folder=tmp_path)
    bars.keep_marks(_version(), exam, frozenset())
    (path,) = tmp_path.glob("answers-*")
    for content in ("{", path.read_text().replace("sha256:adapter", "sha256:another")):
        path.write_text(content)
        with pytest.raises(IntegrityError):
            read_sheet(tmp_path, exam_digest=exam.digest, adapter_digest="sha256:adapter")


def test_a_model_that_left_questions_out_has_no_sheet() -> None:
    whole, short = Marks(without_passage=(True,) * 2, with_passage=(True,) * 2), Marks(without_passage=(), with_passage=())
    with pytest.raises(ValueError, match="shorter"):
        make_sheet(_exam(2, 1), "sha256:adapter", whole, short)

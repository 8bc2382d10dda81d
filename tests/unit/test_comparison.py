"""Which questions count, who is paired with whom, and what a journal's rates are."""

from typing import Any

import pytest

from spice_enterprise.comparison import Comparison, compare, difference_of
from spice_enterprise.errors import ConfigError
from spice_enterprise.outcomes import Outcome, Rates, summarise_play
from spice_enterprise.protocols import Played, PlayedRollout
from spice_enterprise.records import Admission, Rollout, RolloutGroup
from spice_enterprise.records import Outcome as RolloutOutcome
from spice_enterprise.release.answer_sheet import AnswerSheet, ItemMarks

DOCUMENTS = 30


def sheet(marks: list[tuple[int, int]], *, claim: str = "transfer", overlapping: tuple[int, ...] = ()) -> AnswerSheet:
    """One question a document; (base, adapter) with the passage."""
    items = tuple(
        ItemMarks(
            item_id=f"item_{i}", document_id=f"doc_{i}", claim=claim, base_without=0, base_with=base, adapter_without=0,  # type: ignore[arg-type]
            adapter_with=adapter, is_overlapping=i in overlapping,
        )
        for i, (base, adapter) in enumerate(marks)
    )  # fmt: skip
    return AnswerSheet(exam_digest="sha256:e", adapter_digest="sha256:a", items=items)


def outcome(setting: str, seed: int = 0, code: str = "", **numbers: Any) -> Outcome:
    run = f"{setting}-{seed}"
    return Outcome(setting=setting, seed=seed, run=run, config_digest="c", exam_digest="sha256:e", code=code, **numbers)


def compared(outcomes: list[Outcome], sheets: dict[str, AnswerSheet]) -> Comparison:
    settings = list(dict.fromkeys(o.setting for o in outcomes))
    return compare(settings, outcomes, sheets, draws=200, seed=0)


def test_questions_that_any_run_trained_on_are_left_out_of_transfer_for_all() -> None:
    first, second = [(0, 1)] * DOCUMENTS, [(0, 0)] * DOCUMENTS
    sheets = {"spice-0": sheet(first, overlapping=(3,)), "other-0": sheet(second, overlapping=(3, 4))}
    found = compared([outcome("spice"), outcome("other")], sheets)
    assert (found.sizes[0].questions, found.sizes[0].dropped, found.sizes[0].documents) == (28, 2, 28)


def test_recall_is_about_what_was_trained_on_so_nothing_is_left_out() -> None:
    found = compared([outcome("spice")], {"spice-0": sheet([(0, 1)] * DOCUMENTS, claim="recall", overlapping=(3, 4))})
    (size,) = found.sizes
    assert (size.claim, size.questions, size.dropped) == ("recall", DOCUMENTS, 0)


def test_a_difference_is_taken_seed_by_seed_of_the_seeds_that_both_finished() -> None:
    half = [(0, i % 2) for i in range(DOCUMENTS)]
    sheets = {
        "spice-1": sheet(half), "other-0": sheet([(0, 1)] * DOCUMENTS), "other-1": sheet([(0, 1)] * DOCUMENTS),
    }  # fmt: skip
    outcomes = [outcome("spice", 0, "E_MEMORY"), outcome("spice", 1), outcome("other", 0), outcome("other", 1)]
    spice, other = compared(outcomes, sheets).results
    assert (spice.seeds, spice.failures[0].code) == ((1,), "E_MEMORY")
    bar = other.bars[0]
    assert bar.is_with_passage
    assert bar.accuracy.mean == 1.0
    assert bar.minus_untrained is not None
    assert bar.minus_untrained.mean == 1.0
    assert bar.minus_spice is not None
    assert bar.minus_spice.mean == 0.5
    assert bar.minus_spice.low is not None
    assert 0.2 < bar.minus_spice.low < 0.5


def test_few_documents_alone_show_nothing() -> None:
    estimate = difference_of([[1.0] * 4], ["a", "b", "c", "d"], draws=200, seed=0)
    assert (estimate.mean, estimate.low) == (1.0, 0.0), "sign-flip p over 4 documents is 1 in 8"


def test_other_questions_are_refused() -> None:
    sheets = {"spice-0": sheet([(0, 1)] * 3), "other-0": sheet([(0, 1)] * 4)}
    with pytest.raises(ConfigError) as caught:
        compared([outcome("spice"), outcome("other")], sheets)
    assert caught.value.code == "E_OTHER_EXAM"


def test_rates_are_means_over_finished_runs_and_unknown_ones_do_not_count() -> None:
    start = Rates(readable=1.0, admitted=0.2, open_book=None, right=0.5)
    runs = [outcome("spice", 0, start=start, seconds=10.0), outcome("spice", 1, seconds=20.0), outcome("spice", 2, "E_MEMORY")]
    sheets = {name: sheet([(0, 1)] * 3) for name in ("spice-0", "spice-1")}
    (spice,) = compared(runs, sheets).results
    assert spice.start == start
    assert spice.seconds == 15.0


class Journal:
    """A store with nothing but plays."""

    def __init__(self, plays: list[Played]) -> None:
        self.plays = plays

    def played(self) -> list[Played]:
        return self.plays

    def all(self, cls: type) -> tuple[Any, ...]:
        return ()


def rollouts(role: Any, outcomes: tuple[RolloutOutcome, ...], reason: str = "") -> PlayedRollout:
    made = tuple(
        Rollout(
            role=role, parent_id="p", adapter_id="a", adapter_digest="d", template_id="t", step=1, index=i, token_ids=(1, 2),
            logprobs=(-1.0, -1.0), text="", stop_reason="stop", outcome=said, reason=reason, reward=0.0,
        )
        for i, said in enumerate(outcomes)
    )  # fmt: skip
    group = RolloutGroup(role=role, parent_id="p", prompt_token_ids=(1,), rollouts=made)
    return PlayedRollout(group=group, is_trained=True)


def test_rates_of_play_leave_out_choices_of_a_format_and_steps_without_proposals() -> None:
    admission = Admission(rollout_id="r", chunk_id="c", code="", open_book=0.75)
    unasked = Admission(rollout_id="s", chunk_id="c", code="shape")
    play = Played(
        groups=(),
        tasks=(),
        rollouts=(
            rollouts("challenger", ("valid",), reason="format_choice"),
            rollouts("challenger", ("valid", "refused", "unparsable", "unparsable")),
            rollouts("reasoner", ("correct", "wrong")),
        ),
        admissions=(admission, unasked),
    )
    warmup = Played(groups=(), tasks=(), rollouts=(rollouts("reasoner", ("correct",)),))
    found = summarise_play(Journal([warmup, play]))  # type: ignore[arg-type]
    assert found.start == found.end == Rates(readable=0.5, admitted=0.25, open_book=0.75, right=0.5)
    assert found.sampled_tokens == 2 * 8
    assert summarise_play(Journal([])).start is None  # type: ignore[arg-type]

"""The metrics of the scrubbing benchmark, on invented items with known answers."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "scrub_scoring.py"
spec = importlib.util.spec_from_file_location("scrub_scoring_under_test", PATH)
scoring = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = scoring
spec.loader.exec_module(scoring)

TEXT = "Mr Bo Tarn met Ida in Oslo. Tarn left Oslo."


def gold(value, klass, entity, nth=0, kind="PERSON"):
    start = -1
    for _ in range(nth + 1):
        start = TEXT.index(value, start + 1)
    return scoring.Gold(start=start, end=start + len(value), kind=kind, klass=klass, entity=entity, group=entity)


ITEM = scoring.Item(
    item_id="1",
    text=TEXT,
    is_held_out=False,
    golds=(
        gold("Mr Bo Tarn", "direct", "e1"),
        gold("Tarn", "direct", "e1", nth=1),
        gold("Ida", "direct", "e2"),
        gold("Oslo", "quasi", "e3", kind="LOC"),
        gold("Oslo", "no_mask", "e3", nth=1, kind="LOC"),
        gold("met", "negative", "n", kind="NEGATIVE"),
    ),
)


def masked(*values):
    places = []
    for value in values:
        start = TEXT.index(value)
        places.append((start, start + len(value), "X"))
    return [scoring.Masked(places=tuple(places), canonical=lambda value: value.split()[-1])]


def test_an_entity_counts_when_all_its_words_but_titles_are_masked():
    assert scoring.entity_recall([ITEM], masked("Bo Tarn", "Ida"), "direct") == [(1, 2)]
    assert scoring.entity_recall([ITEM], masked("Bo Tarn", "Tarn left", "Ida"), "direct") == [(2, 2)]
    assert scoring.entity_recall([ITEM], masked("Bo", "Ida"), "direct") == [(1, 2)]
    assert scoring.span_recall([ITEM], masked("Bo Tarn", "Ida"), "direct") == [(2, 3)]


def test_a_leak_is_a_string_that_can_still_be_read():
    assert scoring.leaked([ITEM], masked("Bo Tarn", "Ida")) == [(1, 3)]
    assert scoring.leaked([ITEM], masked("Bo Tarn", "Tarn left", "Ida")) == [(0, 3)]


def test_words_that_need_no_mask_count_against_precision():
    assert scoring.token_precision([ITEM], masked("Bo Tarn", "Oslo.", "left Oslo")) == [(3, 5)]


def test_negatives_count_when_touched():
    assert scoring.negatives_masked([ITEM], masked("Ida")) == [(0, 1)]
    assert scoring.negatives_masked([ITEM], masked("et Ida")) == [(1, 1)]


def test_mentions_of_one_person_share_a_spelling():
    assert scoring.same_surrogate([ITEM], masked("Ida")) == [(2, 2), (1, 1)]


def test_misses_show_kind_and_shape_only():
    assert scoring.misses([ITEM], masked("Ida"), "direct") == {"PERSON Aa": 1, "PERSON Aa Aa Aa": 1}


def test_the_interval_holds_the_share_and_narrows():
    few, many = [(1, 2), (0, 1), (3, 4)], [(1, 2), (0, 1), (3, 4)] * 40
    assert scoring.share(few) == pytest.approx(4 / 7)
    low, high = scoring.interval(few)
    assert low <= 4 / 7 <= high
    assert scoring.interval(many)[1] - scoring.interval(many)[0] < high - low

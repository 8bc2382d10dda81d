import pytest

from spice_enterprise.corpus.duplicates import Duplicates, Families

WORDS = [f"word{i}" for i in range(200)]
TEXT = " ".join(WORDS)


def with_changes(n: int) -> str:
    changed = list(WORDS)
    for i in range(n):
        changed[10 + 30 * i] = f"other{i}"
    return " ".join(changed)


def test_a_copy_in_other_case_and_spacing_is_the_same():
    seen = Duplicates(1.0)
    assert seen.add(TEXT) is None
    assert seen.add("  " + TEXT.upper().replace(" ", "\n")) == 0


@pytest.mark.parametrize(("changes", "is_near"), [(1, True), (2, True), (6, False)])
def test_near_copies_are_found_by_the_share_of_common_shingles(changes: int, is_near: bool):
    # each change touches 5 of 196 shingles: Jaccard 0.95, 0.90 and 0.73
    seen = Duplicates(0.8)
    seen.add(TEXT)
    assert (seen.add(with_changes(changes)) == 0) is is_near


def test_at_one_only_exact_copies_count():
    seen = Duplicates(1.0)
    seen.add(TEXT)
    assert seen.add(with_changes(1)) is None


def test_short_texts_are_compared_as_a_whole():
    seen = Duplicates(0.8)
    assert [seen.add(text) for text in ("one two", "one three", "One  two", "")] == [None, None, 0, None]


def test_families_are_transitive_and_named_by_their_first_member():
    families = Families()
    for relatives in ([], [], [0], [2], [1], [3]):
        families.add(relatives)
    assert [families.of(n) for n in range(6)] == [0, 1, 0, 0, 1, 0]
    families.add([4, 5])
    assert {families.of(n) for n in range(7)} == {0}


def test_a_text_between_two_others_is_related_to_both():
    near = Duplicates(0.85)
    # each differs from the one in the middle by two words, from each other by four
    texts = (with_changes(2), TEXT.replace("word101", "x").replace("word131", "y"), TEXT)
    assert [near.relatives(text) for text in texts] == [[], [], [0, 1]]

"""Surrogates: the same for a value in any order, shared by no two values, never a real value; offsets that fit."""

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.pseudonyms import LABELS
from spice_enterprise.corpus.surrogates import PLACEHOLDER, Placeholders, assign, render
from spice_enterprise.policy import PiiLabel, load_pii

POLICY = load_pii()
INVENTING = POLICY.model_copy(update={"labels": {label: PiiLabel(action="pseudonymise") for label in LABELS}})
KEY = b"k" * 32
VALUES = st.lists(st.tuples(st.sampled_from(sorted(LABELS)), st.text(min_size=1, max_size=8)), max_size=30, unique=True)
TAGS = st.lists(st.text("ab2", min_size=16, max_size=16), max_size=20, unique=True)


def long_of(policy, label, value):
    return Placeholders(policy, KEY).placeholder(label, value, canonical=value)


@given(VALUES, st.randoms(use_true_random=False))
def test_order_does_not_count_and_nothing_is_shared(values, random):
    longs = [long_of(INVENTING, label, value) for label, value in values]
    one = assign(longs, INVENTING, lambda _: False)
    random.shuffle(longs)
    assert assign(longs, INVENTING, lambda _: False) == one
    assert len(set(one.values())) == len(one) == len(values)


@given(TAGS)
def test_close_tags_stay_apart(tags):
    final = assign([f"[PERSON_{tag}]" for tag in tags], POLICY, lambda _: False)
    assert len(set(final.values())) == len(tags)
    assert all(PLACEHOLDER.fullmatch(short) and long.startswith(short[:-1]) for long, short in final.items())


@given(VALUES, st.sets(st.integers(0, 400), max_size=30))
def test_an_invented_value_is_never_a_real_one(values, salts):
    longs = [long_of(INVENTING, label, value) for label, value in values]
    real = {word for text in list(assign(longs, INVENTING, lambda _: False).values())[::2] for word in text.split()}
    final = assign(longs, INVENTING, lambda candidate: bool(real & set(candidate.split())))
    for shown in final.values():
        assert PLACEHOLDER.fullmatch(shown) or not real & set(shown.split())


@given(st.lists(st.one_of(st.text(max_size=10), st.sampled_from(["[PASSWORD]", "[PERSON_abcdef]"]), VALUES), max_size=12))
def test_offsets_point_at_what_replaced_the_value(parts):
    longs, flat = [], []
    for part in parts:
        here = [part] if isinstance(part, str) else [long_of(INVENTING, label, value) for label, value in part]
        longs += here if not isinstance(part, str) else []
        flat += here
    text = " ".join(flat)
    final = assign(longs, INVENTING, lambda _: False)
    shown, redactions = render(text, final)
    before = list(PLACEHOLDER.finditer(text))
    assert [shown[r.start : r.end] for r in redactions] == [final.get(m.group(), m.group()) for m in before]
    kept = [shown[a:b] for a, b in zip([0, *(r.end for r in redactions)], [*(r.start for r in redactions), None], strict=True)]
    assert kept == [text[a:b] for a, b in zip([0, *(m.end() for m in before)], [*(m.start() for m in before), None], strict=True)]
    assert [r.entity for r in redactions] == [m.group(1) for m in before]


def test_a_hundred_thousand_values_without_a_collision():
    count = 100_000
    longs = {long_of(POLICY, "PERSON", f"person {i}") for i in range(count)}
    final = assign(longs, POLICY, lambda _: False)
    assert len(set(final.values())) == len(longs) == count
    assert max(map(len, final.values())) <= len("[PERSON_]") + 8

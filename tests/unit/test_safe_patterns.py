"""Expressions of strangers: what is bounded passes, what is not is refused with its column, before it ever runs."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.safe_patterns import MAX_REPEATS, MAX_WAYS, check_pattern, is_quick

BOUNDED = (
    r"PRJ-\d{1,6}",
    r"(?:\d{1,3}\.){3}\d{1,3}",
    r"(?P<v>[A-Z]{2}\d{4})\b",
    r"(?i:badge) ?[]x]{2}",
    r"(?<=no )[^]]{3}x?y",
    r"a{,3}b|c{2}",
    r"\[A\]{2}\(",
    r"x(?>ab){1,2}",
)
REFUSED = (
    (r"(a+)+$", 3, "upper limit"),
    (r"a{2,}", 2, "upper limit"),
    (r"ab*", 3, "upper limit"),
    (rf"a{{1,{MAX_REPEATS + 1}}}", 2, "upper limit"),
    (r"(a{1,30}){1,30}x", 10, "too many ways"),
    (r"(?:a|b|cd){1,30}x", 11, "too many ways"),
    (r"\w{1,99}-\w{1,99}-\w{1,99}", 19, "too many ways"),
    (r"(\w)x\1", 6, "backreference"),
    (r"(?P<n>a)(?P=n)", 9, "group"),
    (r"(a)?(?(1)b|c)", 5, "group"),
    (r"(?x)a b", 1, "group"),
    (r"x?", 1, "empty"),
    (r"ab[", 3, "regular expression"),
    ("a" * 1001, 1001, "longer"),
)


@pytest.mark.parametrize("pattern", BOUNDED)
def test_bounded_patterns_pass_and_are_quick(pattern):
    check_pattern(pattern)
    assert is_quick(pattern, ["PRJ-4711", "1.2.3.4"])


@pytest.mark.parametrize(("pattern", "column", "why"), REFUSED)
def test_others_are_refused_with_their_column(pattern, column, why):
    with pytest.raises(ValueError, match=why) as caught:
        check_pattern(pattern)
    assert str(caught.value).startswith(f"column {column}: ")


def test_what_the_count_lets_through_is_stopped_on_bait():
    pattern = r"(?:a|aa){1,12}b"
    check_pattern(pattern)
    began = time.thread_time()
    assert not is_quick(pattern, ["aab"])
    assert time.thread_time() - began < 0.5, "the trial runs in a process of its own"


PIECES = st.sampled_from(["a", "b", r"\d", "[ab]", "(?:a|b)", "(?:ab|c)", "(?:a{1,2}b)", "x{2,4}", "(?:ax?){1,3}", "y?", "z{3}"])


@given(st.lists(PIECES, min_size=1, max_size=6).map("".join))
def test_a_pattern_that_passes_is_bounded_in_practice(pattern):
    try:
        check_pattern(pattern)
    except ValueError:
        return
    began = time.thread_time()
    list(re.compile(pattern).finditer("ab" * 200))
    assert time.thread_time() - began < MAX_WAYS * 400 * 1e-7


def test_no_refusal_quotes_the_pattern():
    with pytest.raises(ValueError, match="column") as caught:
        check_pattern(r"SECRET+")
    assert "SECRET" not in str(caught.value)

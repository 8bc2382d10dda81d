"""Dates come back in the way they were written, or not at all."""

import re
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.calendar_dates import moved, year_of


@pytest.mark.parametrize(
    ("written", "later"),
    [
        ("17 March 2024", "6 April 2024"),
        ("March 1st, 2024", "March 21st, 2024"),
        ("2024-02-20", "2024-03-11"),
        ("01.03.2024", "21.03.2024"),
        ("3/25/2021", "4/14/2021"),
        ("1/2/2021", "21/2/2021"),
        ("12/25/2021", "01/14/2022"),
        ("3 Jan. 1999", "23 Jan. 1999"),
        ("1ST DEC 2020", "21st DEC 2020"),
        ("4 May 2020", "24 May 2020"),
        ("the 4 May 2020", None),
        ("May 2020", None),
        ("30/02/2020", None),
        ("31 December 9999", None),
        ("13/13/2020", None),
        ("", None),
    ],
)
def test_twenty_days_later(written, later):
    assert moved(written, 20) == later


def test_years():
    assert [year_of(text) for text in ("17/03/1987", "in 2001", "1999-2001", "12345", "May '87", "2024-01-02")] == [
        "1987", "2001", None, None, None, "2024",
    ]  # fmt: skip


@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.integers(-365, 365))
def test_iso_dates_move_as_the_calendar_does(day, days):
    assert moved(day.isoformat(), days) == (day + timedelta(days=days)).isoformat()


@given(
    st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.integers(-365, 365), st.sampled_from(["%d %B %Y", "%B %d, %Y", "%d-%b-%Y"])
)
def test_moving_back_restores_the_date(day, days, form):
    def plain(text):  # "May" does not tell whether months are written out
        return re.sub(r"\b0|(?<=[A-Z][a-z][a-z])[a-z]+", "", text)

    written = day.strftime(form)
    assert plain(moved(moved(written, days), -days)) == plain(written)

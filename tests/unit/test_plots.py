"""Inline SVG plots: scales, gaps, marks, escaping."""

import math
import re

import pytest

from spice_enterprise.plots import bar_plot, compare_plot, line_plot, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.0, 0.0009, [0.0, 0.0005, 0.001]),
        (-0.3, 0.4, [-0.5, 0.0, 0.5]),
        (2.0, 2.0, [1.0, 2.0, 3.0]),
        (0.0, 0.0, [-0.5, 0.0, 0.5]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_a_line_runs_from_the_lower_left_to_the_upper_right() -> None:
    plot = line_plot("rising", [1, 2, 3], [("a", [0.0, 0.5, 1.0])], is_share=True)
    assert re.search(r'points="44\.0,164\.0 252\.0,94\.0 460\.0,24\.0"', plot)


def test_a_scale_that_does_not_begin_at_zero_fills_the_plot() -> None:
    plot = line_plot("high", [1, 2], [("a", [2.0, 3.0])])
    assert 'points="44.0,164.0 460.0,24.0"' in plot


def test_a_line_breaks_where_a_value_is_missing_and_is_crossed_where_it_is_not_finite() -> None:
    plot = line_plot("gaps", [1, 2, 3, 4, 5, 6], [("a", [0.1, 0.2, None, 0.3, math.nan, 0.4])])
    assert plot.count("<polyline") == 1
    assert plot.count("<circle") == 2
    assert plot.count("✕") == 1
    assert "nan" not in plot


def test_a_series_without_one_finite_value_still_draws() -> None:
    assert line_plot("dead", [1], [("a", [math.inf])]).count("✕") == 1


def test_every_restore_is_marked_and_two_lines_have_a_legend() -> None:
    plot = line_plot("two", [1, 2, 3], [("first", [1, 2, 3]), ("second", [3, 2, 1])], marks=[2, 3])
    assert plot.count("↩") == 2
    assert ">first<" in plot
    assert ">second<" in plot
    assert "stroke-dasharray" in plot


def test_compared_bars_are_in_proportion_and_the_whisker_starts_at_the_base() -> None:
    plot = compare_plot("gain", 0.25, 0.5, (0.125, 0.375))
    assert 'width="160.0"' in plot
    assert 'width="320.0"' in plot
    assert "M332.0 45H492.0" in plot  # 92 + 0.375 * 640 to 92 + 0.625 * 640
    assert "<path" not in compare_plot("open", 0.25, 0.5, (-math.inf, math.inf))


def test_bars_are_ordered_by_size_and_names_escaped() -> None:
    plot = bar_plot("<counts>", [("A", 1), ("<B>", 4)])
    assert plot.index("&lt;B&gt;") < plot.index(">A<")
    assert 'width="640.0"' in plot
    assert 'width="160.0"' in plot
    assert 'aria-label="&lt;counts&gt;"' in plot

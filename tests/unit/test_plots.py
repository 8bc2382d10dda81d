"""Inline SVG plots: scales, gaps, marks, escaping."""

import math
import re

import pytest

from spice_enterprise.plots import bar_plot, compare_plot, difference_plot, interval_plot, line_plot, ticks


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


def test_an_interval_stands_as_a_whisker_on_its_value_and_a_gap_stays_one() -> None:
    plot = interval_plot("shares", [10, 20, 30], [("a", [(0.25, 0.5, 0.75), None, (0.0, 1.0, None)])])
    assert "translate(0 0)" in plot
    assert "59.0h8M44.0 59.0V129.0" in plot, "0.75 to 0.25 on a scale of 140 points that ends at 164"
    assert plot.count("<path") == 2
    assert "None" not in plot


def test_two_lines_with_whiskers_stand_apart() -> None:
    plot = interval_plot("two", [1, 2], [("a", [(0.1, 0.2, 0.3)] * 2), ("b", [(0.1, 0.2, 0.3)] * 2)])
    assert "translate(-4 0)" in plot
    assert "translate(4 0)" in plot
    assert ">a<" in plot


def test_differences_stand_around_zero_to_scale() -> None:
    plot = difference_plot("d", [("x", (-0.1, 0.0, 0.1)), ("<y>", (None, 0.05, 0.2))])
    zero = 212 + 320
    assert f'x1="{zero:.1f}"' in plot
    assert f"M{zero - 160:.1f} 12H{zero + 160:.1f}" in plot, "half of the widest bound, 0.2"
    assert f"M{zero - 320:.1f} 36H{zero + 320:.1f}" in plot, "an open bound runs to the edge"
    assert "&lt;y&gt;" in plot


def test_differences_that_are_all_zero_still_draw() -> None:
    assert "<circle" in difference_plot("none", [("x", (0.0, 0.0, 0.0))])

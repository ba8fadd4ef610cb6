from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullframe.cost.statistics import (
    RESOLVED,
    TOO_NOISY,
    difference,
    inter_octile_range,
    measurement,
    octile_trimmed,
    trimmed_median,
)

CYCLES = st.floats(1, 1e6)


def test_the_lowest_and_the_highest_eighth_are_dropped() -> None:
    values = [900.0, 1, 2, 3, 4, 5, 6, 0]
    assert octile_trimmed(values) == [1, 2, 3, 4, 5, 6]
    assert trimmed_median(values) == 3.5
    assert inter_octile_range(values) == 5
    assert octile_trimmed([2, 1, 3]) == [1, 2, 3], "an eighth of three is none"


def test_a_few_interrupted_samples_do_not_show() -> None:
    quiet = [100.0 + index % 3 for index in range(80)]
    noisy = [*quiet[:72], *(1e6 + index for index in range(8))]
    assert trimmed_median(noisy) == trimmed_median(quiet) == 101
    assert inter_octile_range(noisy) == 2


def test_measurement_of_two_alignments() -> None:
    result = measurement({0: [10.0] * 8, 16: [20.0] * 8})
    assert result.median_cycles_tsc == 15
    assert result.spread_cycles_tsc == 10, "the alignment's effect belongs to the spread"
    assert result.by_alignment == {0: 10, 16: 20}
    assert result.samples == 16


def test_a_difference_that_is_larger_than_its_spread_is_told() -> None:
    longer = {0: [16.0, 17, 16, 17, 16, 17, 16, 17], 16: [18.0] * 8}
    shorter = {0: [10.0, 11, 10, 11, 10, 11, 10, 11], 16: [11.0] * 8}
    result = difference(longer, shorter)
    # Pairwise: 6 at alignment 0 in every round, although the samples move; 7 at alignment 16.
    assert result.median_cycles_tsc == 6.5
    assert result.spread_cycles_tsc == 1
    assert result.by_alignment == {0: 6, 16: 7}
    assert (result.verdict, result.resolved, result.samples) == (RESOLVED, True, 8)
    assert difference(shorter, longer).median_cycles_tsc == -6.5
    assert difference(shorter, longer).resolved, "less is a difference too"


def test_alignments_that_disagree_leave_it_open() -> None:
    result = difference({0: [16.0] * 8, 16: [10.0] * 8}, {0: [10.0] * 8, 16: [12.0] * 8})
    assert result.median_cycles_tsc == 2
    assert result.spread_cycles_tsc == 8
    assert (result.verdict, result.resolved) == (TOO_NOISY, False)


def test_rounds_that_disagree_leave_it_open() -> None:
    noise = [0.0, 9, 1, 8, 2, 7, 3, 6]
    result = difference({0: [10 + value for value in noise]}, {0: [8.0] * 8})
    assert result.spread_cycles_tsc == 7
    assert result.verdict == TOO_NOISY


def test_rounds_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        difference({0: [1.0, 2.0]}, {0: [1.0]})


@given(st.lists(CYCLES, min_size=1, max_size=200))
def test_trimming_keeps_the_median_and_never_widens(values: list[float]) -> None:
    assert trimmed_median(values) == statistics.median(values), "it trims both ends alike"
    assert 0 <= inter_octile_range(values) <= max(values) - min(values)


@given(st.lists(CYCLES, min_size=8, max_size=50), st.integers(-1000, 1000))
def test_a_constant_difference_is_found_in_any_noise(noise: list[float], extra: int) -> None:
    shorter = {0: [round(value) for value in noise]}
    longer = {0: [value + extra for value in shorter[0]]}
    result = difference(longer, shorter)
    assert result.median_cycles_tsc == extra
    assert result.resolved == (extra != 0)

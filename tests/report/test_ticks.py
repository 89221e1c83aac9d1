"""Numbers at an axis: round, within it, evenly apart, told apart by their words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.report.ticks import labels, ticks

ends = st.floats(-1e9, 1e9, allow_subnormal=False) | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.31, 4.62, ["2", "3", "4"]),
        (0.0, 59.0, ["0", "10", "20", "30", "40", "50"]),
        (-0.004, 0.0041, ["-0.004", "-0.002", "0.000", "0.002", "0.004"]),
        (0, 12_000, ["0", "5,000", "10,000"]),
        (1e-12, 5e-12, ["1e-12", "2e-12", "3e-12", "4e-12", "5e-12"]),
        (2.3, 2.3, ["2.3"]),
        (0.0, 5e-324, ["0"]),
        (-1.7e308, 1.7e308, ["-1.7e+308"]),
    ],
)
def test_examples(low: float, high: float, expected: list[str]) -> None:
    assert labels(ticks(low, high)) == expected


@given(ends, ends)
def test_ticks_are_round_numbers_within_the_range_and_their_words_are_they(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    slack = 1e-9 * max(abs(low), abs(high), high - low)
    assert 1 <= len(found) <= 6
    assert all(low - slack <= tick <= high + slack for tick in found)
    if max(1e-6 * max(abs(low), abs(high)), 1e-300) < high - low < math.inf:
        assert len(found) >= 2
    if len(found) > 1:
        step = found[1] - found[0]
        factor = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert any(factor == pytest.approx(round_, rel=1e-3) for round_ in (1, 2, 5))
        assert [float(words.replace(",", "")) for words in labels(found)] == pytest.approx(
            found, abs=step / 1e3
        )

"""Figures in words, read back and compared with the figures."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.report import units
from halfstep.words.plural import count

SIZES = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "": 1.0, "×": 1.0}
SIZES |= {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
SIZES |= {"mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6}
figures = st.floats(1e-12, 1e15)


def parsed(written: str) -> tuple[str, float]:
    """The digits as written, and the value in the base unit."""
    found = re.fullmatch(r"(-?[\d.]+(?:e[+-]\d+)?) ?(\D*)", written)
    assert found, written
    return found[1], float(found[1]) * SIZES[found[2]]


@pytest.mark.parametrize("unit", ["s", "B", "J", "×", ""])
@given(x=figures)
def test_what_is_written_reads_back_to_half_a_unit_of_the_third_digit(unit: str, x: float) -> None:
    if unit == "B":
        x = float(round(x)) or 1.0
    _, value = parsed(units.quantity(x, unit))
    assert value == pytest.approx(x, rel=0.005001)


@given(x=figures)
def test_at_least_three_significant_digits(x: float) -> None:
    digits, _ = parsed(units.seconds(x))
    assert len(digits.split("e")[0].replace(".", "").lstrip("0")) >= 3


@given(n=st.integers(0, 2**50))
def test_bytes_never_reach_the_next_unit(n: int) -> None:
    digits, _ = parsed(units.bytes_(n))
    assert float(digits) < 1024 or units.bytes_(n).endswith("TiB")


@given(x=st.floats(-1e-3, 1e-3), low=st.floats(-1, 0), high=st.floats(0, 1))
def test_zero_has_no_sign(x: float, low: float, high: float) -> None:
    for written in (units.quantity(x, ""), units.pm(x, low, high, ""), units.span(x, low, high, "")):
        assert not re.search(r"-0(?:\.0*)?(?![\d.])", written), written


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.seconds(0.1423), "142 ms"),
        (units.seconds(0.9996), "1.00 s"),
        (units.seconds(0), "0 s"),
        (units.seconds(2e-6), "2.00 µs"),
        (units.seconds(math.inf), "not finite"),
        (units.bytes_(1023.6 * 2**20), "1.00 GiB"),
        (units.bytes_(1023 * 2**20), "1023 MiB"),
        (units.bytes_(0), "0 B"),
        (units.bytes_(17), "17 B"),
        (units.joules(1234), "1.23 kJ"),
        (units.ratio(1.9), "1.90×"),
        (units.number(-0.0), "0"),
        (units.number(1e-7), "1.00e-07"),
        (units.percent(0.984), "98.4%"),
        (units.percent(1), "100%"),
        (units.percent(0.9999), ">99.9%"),
        (units.percent(1e-6), "<0.1%"),
        (units.percent(math.nan), "not finite"),
        (count(1, "step"), "1 step"),
        (count(1200, "step"), "1,200 steps"),
        (units.duration(131.2), "2 min 11 s"),
        (units.duration(7500), "2 h 5 min"),
        (units.duration(12), "12.0 s"),
        (units.pm(0.1423, 0.1393, 0.1453, "s"), "142 ms ± 3 ms"),
        (units.pm(0.1423, 0.1393, 0.1503, "s"), "142 ms (139–150 ms)"),
        (units.pm(0.1423, None, 0.1503, "s"), "142 ms"),
        (units.pm(1.9, 1.85, 1.95, "×"), "1.90× ± 0.05×"),
        (units.pm(2.3141, 2.3139, 2.3143, ""), "2.3141 ± 0.0002"),
        (units.pm(0.1423, 0.14229999, 0.14230001, "s"), "142.30 ms ± <0.01 ms"),
        (units.pm(2.3, 2.3, 2.3, ""), "2.30 ± 0"),
        (units.pm(-0.001, -0.004, 0.002, ""), "-0.0010 ± 0.0030"),
        (units.pm(0.6, 0.04, 6.7, "×"), "0.60× (0.04–6.70×)"),
        (units.pm(1.82e-3, 1.4e-11, 2.4e5, "s"), "1.82 ms (<0.09 to >36.40 ms)"),
        (units.span(0.6, 0.0004, 6.7, "×"), "<0.03 to 6.70×"),
        (units.span(2.3, 2.3, 2.3, ""), "± 0"),
        (units.span(0.1423, 0.14229999, 0.14230001, "s"), "± <0.01 ms"),
        (units.span(-0.001, -0.004, 0.002, ""), "-0.0040 to 0.0020"),
        (units.span(0.1423, 0.1393, 0.1503, "s"), "139–150 ms"),
    ],
)
def test_examples(written: str, expected: str) -> None:
    assert written == expected


@given(value=st.floats(1e-9, 1e6), down=st.floats(1e-6, 0.5), up=st.floats(1e-6, 0.5))
def test_an_interval_is_written_in_the_unit_of_its_value(value: float, down: float, up: float) -> None:
    written = units.pm(value, value * (1 - down), value * (1 + up), "s")
    assert len(set(re.findall(r"[nµm]?s\b", written))) == 1


@given(share=st.floats(0.0005, 0.9994))
def test_percent_reads_back(share: float) -> None:
    assert float(units.percent(share).rstrip("%")) / 100 == pytest.approx(share, abs=0.000501)

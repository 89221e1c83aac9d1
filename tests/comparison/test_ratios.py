"""The energy of a precision by the baseline's: medians, and the range over all pairs of trials."""

from __future__ import annotations

from halfstep.comparison.ratios import energy, energy_ratio


def rows(*joules: float | None) -> list[dict[str, float | None]]:
    return [{"joules_per_step": x} for x in joules]


def test_the_energy_is_the_median_with_its_range() -> None:
    assert energy(rows(3.0, 1.0, 2.0)) == {"median": 2.0, "low": 1.0, "high": 3.0, "unit": "J"}
    assert energy(rows(None, 2.0))["median"] == 2.0
    assert energy(rows(None)) is None


def test_the_ratio_has_the_range_of_all_pairs() -> None:
    ratio = energy_ratio(rows(10.0, 8.0, 9.0), rows(4.0, 5.0))
    assert ratio == {"value": 0.5, "low": 0.4, "high": 0.625, "significant": True, "words": "0.50× energy"}


def test_ranges_that_overlap_are_not_significant() -> None:
    ratio = energy_ratio(rows(10.0, 8.0), rows(9.0, 9.5))
    assert ratio is not None
    assert (ratio["significant"], ratio["words"]) == (False, "not significant")


def test_what_was_not_measured_has_no_ratio() -> None:
    assert energy_ratio(rows(None), rows(4.0)) is None
    assert energy_ratio(rows(4.0), rows(None)) is None

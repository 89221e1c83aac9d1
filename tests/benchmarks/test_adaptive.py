"""The simulation of comparisons with a budget judges as halfstep does, and a small one is right."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfstep.comparison.statistics import sequential

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def adaptive() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    import adaptive

    yield adaptive
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_it_looks_as_a_comparison_does(adaptive: Any, shift: float) -> None:
    random = np.random.default_rng(8)
    values = shift + random.standard_normal(adaptive.MOST)
    pairs = list(zip(values.tolist(), random.standard_normal(adaptive.MOST).tolist(), strict=True))
    found = adaptive.looked(values, 0.01)
    for i, look in enumerate(sequential.looks(pairs, 0.01)):
        assert [found.value[i], found.low[i], found.high[i]] == pytest.approx(
            [look.value, look.low, look.high], rel=1e-9
        )


def test_noise_is_what_it_is_called(adaptive: Any) -> None:
    random = np.random.default_rng(9)
    for kind in adaptive.NOISES:
        drawn = adaptive.drawn(kind, random, (2000, 40))
        assert abs(drawn.mean()) < 0.1
        centred = drawn - drawn.mean()
        neighbours = (centred[:, :-1] * centred[:, 1:]).mean() / (centred**2).mean()
        assert (
            neighbours == pytest.approx({"autocorrelated": 0.5}.get(kind, 0.0), abs=0.1) or kind == "drifting"
        )


def test_a_small_simulation_is_right(adaptive: Any) -> None:
    found = adaptive.nothing("autocorrelated", 25)
    # With 5 % each, five of 25 or more would be wrong once in 150 times.
    assert found["false_alarm"]["share"] < 0.2
    told = adaptive.effect(13, 300)
    assert told["designed"]["pairs"] < 1.45
    assert told["twice"]["pairs"] < 0.7
    of_gallery = adaptive.gallery(1)
    assert len(of_gallery["cases"]) == 10
    assert of_gallery["trials"]["as_long"] <= 1.0

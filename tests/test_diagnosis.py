"""Shares, headroom and loss scales from counts of exponents, against the exact numbers that were counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from halfstep.diagnosis.evidence import Numbers
from halfstep.diagnosis.run import judge
from halfstep.diagnosis.shares import serving, shares


def counted(values: np.ndarray) -> Numbers:
    """The numbers by exponent, as the watch counts them: frexp's exponent is one above."""
    finite = np.abs(values[values != 0])
    exponents, counts = np.unique(np.frexp(finite)[1] - 1, return_counts=True)
    zeros = {-127: int((values == 0).sum())}
    by = {int(e): int(c) for e, c in zip(exponents, counts, strict=True)}
    return Numbers(by | zeros, float(finite.max(initial=0.0)), values.size, values.size, "fp32")


@pytest.fixture(scope="module")
def spread() -> np.ndarray:
    """Magnitudes from 2^-40 to 2^20, and some zeros."""
    random = np.random.default_rng(0)
    values = 2.0 ** random.uniform(-40, 20, 20_000) * random.choice([-1, 1], 20_000)
    values[:500] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**-6])
def test_shares_are_those_of_numpys_own_cast(spread: np.ndarray, scale: float) -> None:
    found = shares(counted(spread), "fp16", scale)
    nonzero = spread[spread != 0].astype(np.float64) * scale
    with np.errstate(over="ignore"):
        cast = np.abs(nonzero.astype(np.float16).astype(np.float64))
    # Of the bins at the edges only the outermost numbers fall on the other side: 2^-25 itself, and above 65520.
    edge = (np.abs(nonzero) >= 65520) & (np.abs(nonzero) < 65536)
    assert found.flushed == pytest.approx((cast == 0).mean(), abs=1e-12)
    assert found.subnormal == pytest.approx(((cast > 0) & (np.abs(nonzero) < 2.0**-14)).mean(), abs=1e-12)
    assert found.overflowing == pytest.approx((np.isinf(cast) & ~edge).mean(), abs=1e-12)
    assert found.headroom == pytest.approx(math.log2(65504) - math.log2(np.abs(nonzero).max()))


def test_what_is_lost_weighs_numbers_by_their_size() -> None:
    values = np.array([1.0] * 1 + [2.0**-30] * 99, dtype=np.float32)
    found = shares(counted(values), "fp16")
    assert found.flushed == 0.99
    assert found.lost == pytest.approx(99 * 2.0**-30)


def test_a_scale_that_serves_neither_overflows_nor_loses(spread: np.ndarray) -> None:
    gradients = counted((spread * 1e-9).astype(np.float32))
    low, high = serving(gradients, "fp16") or (0.0, 0.0)
    assert low <= high
    assert shares(gradients, "fp16", low).lost <= 0.01 < shares(gradients, "fp16", low / 2).lost or low == 1
    assert gradients.largest * high <= 65504 < gradients.largest * high * 2
    assert serving(counted(np.zeros(4, dtype=np.float32)), "fp16") is None


def test_bf16_flushes_none_of_them(spread: np.ndarray) -> None:
    found = shares(counted(spread), "bf16")
    assert (found.flushed, found.subnormal, found.overflowing) == (0, 0, 0)


def test_a_remedy_works_only_if_the_finding_is_gone_and_the_loss_is_finite() -> None:
    from pathlib import Path

    from halfstep.record import Record
    from halfstep.trials import Outcome, Trial

    finding = {"kind": "overflow", "where": "a", "severity": 90, "fault": "precision", "evidence": "it is"}
    steps = [{"step": 0, "loss": 0.5}]
    done = Outcome(Trial("bf16"), "ok", "", 0, Record(Path("r"), steps=steps))
    assert judge(finding, done, []) == (True, "the finding is gone; loss 0.5 after 1 steps")
    assert judge(finding, done, [finding]) == (False, "the same finding is left: it is")
    other = finding | {"where": "b"}
    assert judge(finding, done, [other]) == (False, "overflow in b instead")
    lost = Outcome(
        Trial("bf16"), "diverged", "the loss was nan from step 1 on", 0, Record(Path("r"), steps=steps)
    )
    assert judge(finding, lost, []) == (False, "the loss was nan from step 1 on")

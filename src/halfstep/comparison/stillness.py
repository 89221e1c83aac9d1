"""Finds a loss that does not move while the baseline's does: a 16-bit format may have lost the updates of weights."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import StandsStill
from halfstep.comparison.statistics.curves import countable, final_loss
from halfstep.precisions.exact import round_exact
from halfstep.precisions.formats import get_scalar
from halfstep.record.stored import REMAINDER, Stored

#: a loss that falls by less than this share of the baseline's fall stands still
STILL = 0.05

#: the baseline's fall counts if it is at least so many times the noise of its loss
CLEAR = 3.0

#: fewer steps show no fall
FEWEST_STEPS = 10

#: constants of Adam's update that a 16-bit format may round to 1 or 0: then no second moment is kept, or nothing keeps
#: the divisor from 0
_CONSTANTS = (("beta_1", 0.9), ("beta_2", 0.999), ("eps", 1e-8))

Trials = Sequence[TrialRow]


def stands_still(own: Trials, base: Trials) -> StandsStill | None:
    """How far the loss fell in trials of a precision and of the baseline, if only the baseline's fell; else None.

    Args:
        own, base: trials of the comparison object that ended well.
    """
    falls, theirs = ([f for row in side if (f := _fall(row.losses)) is not None] for side in (own, base))
    if not falls or not theirs or len(falls) < len(own):
        return None
    ours, expected = max(falls), fmean(theirs)
    noise = fmean(_noise(row.losses) for row in base)
    clear = expected > CLEAR * noise and expected > 0
    return StandsStill(ours, expected) if clear and ours < STILL * expected else None


@functools.lru_cache(maxsize=2048)
def _fall(losses: tuple[float | None, ...]) -> float | None:
    known = [loss for loss in losses if loss is not None and countable(loss)]
    last = final_loss(losses)
    return None if len(known) < FEWEST_STEPS or last is None else known[0] - last


@functools.lru_cache(maxsize=2048)
def _noise(losses: tuple[float | None, ...]) -> float:
    """The standard deviation of a loss, from the differences of neighbouring steps in the last half."""
    known = [loss for loss in losses if loss is not None and countable(loss)]
    half = known[len(known) // 2 :]
    return pstdev([b - a for a, b in itertools.pairwise(half)] or [0.0]) / math.sqrt(2)


def sixteen_bits(stored: Stored) -> str:
    """The 16-bit format that optimizer state or weights are stored in; empty if there is none.

    Weights with a remainder do not count: both parts together are fp32.
    """
    weights = stored.formats("weights")
    held = (*stored.formats("optimizer"), *(() if REMAINDER in weights else weights))
    return next((f for f in held if f in ("bf16", "fp16")), "")


def lost_constants(format: str) -> list[tuple[str, float, float]]:
    """The constants of Adam's update that the format rounds to 1 or 0: (name, value, rounded value)."""
    rounded = [(name, value, round_exact(value, get_scalar(format))) for name, value in _CONSTANTS]
    return [each for each in rounded if each[2] in (0.0, 1.0)]

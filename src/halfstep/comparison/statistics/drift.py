"""Did the machine become slower or faster during the measurement, from trial to trial or within the trials?

The seasonal Kendall test (Hirsch, Slack & Smith 1982): the number of pairs that rose minus those that fell within each
stratum, summed over the strata. It is exact: each stratum's null distribution is that of inversions of a random order.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from statistics import median

from halfstep.comparison.model.comparison import Drift, Trend
from halfstep.comparison.model.quality import ALPHA
from halfstep.comparison.rows import measured
from halfstep.trials import Outcome, once

#: a smaller drift is not reported
WORTH_A_WORD = 0.02

#: into how many parts a trial is cut, whose medians are tested for a trend: they are less correlated than steps
PARTS = 6


def trend(strata: Sequence[Sequence[float]]) -> Trend | None:
    """The common trend of several strata of ordered positive values; None if no stratum has two values.

    The rise is from the first to the last value, by the median slope of the logarithms (Theil & Sen).
    """
    strata = [[float(value) for value in values] for values in strata if len(values) > 1]
    if not strata:
        return None
    slopes, score = [], 0
    for values in strata:
        for i, j in itertools.combinations(range(len(values)), 2):
            slopes.append(math.log(values[j] / values[i]) / (j - i) * (len(values) - 1))
            score += (values[j] > values[i]) - (values[j] < values[i])
    rise, p = math.expm1(median(slopes)), _p_value(score, tuple(len(values) for values in strata))
    return Trend(rise, p, p <= ALPHA and abs(rise) >= WORTH_A_WORD)


@functools.lru_cache
def _p_value(score: int, sizes: tuple[int, ...]) -> float:
    """P(|S| >= |score|) with S the sum over strata of independent Kendall scores, no ties."""
    import numpy as np

    # counts[k]: how many orders have k pairs that rose; the generating function is prod (1 + x + ... + x^(i-1)).
    counts = np.ones(1)
    for size in sizes:
        for i in range(2, size + 1):
            counts = np.convolve(counts, np.full(i, 1.0 / i))
    scores = 2 * np.arange(len(counts)) - (len(counts) - 1)
    return float(counts[np.abs(scores) >= abs(score)].sum())


def speed_drift(outcomes: Sequence[Outcome]) -> Drift:
    """The drift of a comparison: from trial to trial (precisions as strata) and within the trials (trials as strata).

    Interleaving cannot remove all effects of a drift; a large one is a reason to measure again.
    """
    ended = [o for o in outcomes if o.status == "ok" and len(measured(o)) >= PARTS]
    precisions = dict.fromkeys(o.trial.precision for o in ended)
    across = trend([[_median(o) for o in ended if o.trial.precision == p] for p in precisions])
    within = trend([_part_medians(o) for o in ended])
    return Drift(across, within)


@once
def _median(outcome: Outcome) -> float:
    return median(measured(outcome))


@once
def _part_medians(outcome: Outcome) -> list[float]:
    times = measured(outcome)
    cuts = [times[len(times) * i // PARTS : len(times) * (i + 1) // PARTS] for i in range(PARTS)]
    return [median(cut) for cut in cuts]

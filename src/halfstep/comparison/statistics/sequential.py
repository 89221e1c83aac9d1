"""Group sequential tests: intervals that stay valid under repeated looks, for ``--budget`` and resumed comparisons.

The largest plan is fixed before the first trial: :data:`LOOKS` says after how many pairs of trials a figure is tested,
and :data:`SHARES` which part of the figure's significance level each look spends. Every look is a paired t test
(Student 1908) of the differences so far. Looks at the same figure are correlated, so that together they may spend more
than its level (:data:`TOGETHER`): for normal differences the level still holds over all looks, whenever the trials end
and for whatever reason. Each figure of each precision has its own level (:class:`Levels`), and these sum to 5 %.

The t test needs symmetric noise, and the order of the trials provides it: within a block the precisions run in random
order (:func:`halfstep.comparison.planning.order`), so that drift and correlated noise favour neither side of a pair.
``benchmarks/verdicts.py`` has the error rates.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import ALPHA, Difference
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.statistics.intervals import t_quantile
from halfstep.comparison.statistics.paired import POWER, noncentrality

#: the largest plan: after how many pairs a figure is tested, each about a quarter more than the one before
LOOKS = (3, 4, 5, 6, 8, 10, 13, 17, 22, 30)
#: which part of the level each look spends, the most where most comparisons end
SHARES = (0.05, 0.15, 0.20, 0.15, 0.15, 0.10, 0.08, 0.05, 0.04, 0.03)
#: level of a figure -> how many times that level its looks may spend together: computed for normal differences by
#: ``benchmarks/looks.py``, and rounded down. It is 1 below the smallest level, and linear in the logarithm of the level
#: between two of them.
TOGETHER = {1e-5: 1.0, 1e-4: 1.10, 1e-3: 1.20, 2e-3: 1.25, 5e-3: 1.33, 1e-2: 1.41, 2e-2: 1.51, 5e-2: 1.70}

#: for each pair of trials the difference of their figures and the baseline's own, in the order of the blocks
Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Levels:
    """The significance level of each figure of each precision; they sum to 5 % for the comparison."""

    precisions: int  #: how many are compared with the baseline
    prefer: Prefer = "speed"  #: the objective; its ratio gets as much as the first figure of quality
    alpha: float = ALPHA  #: the level of the whole comparison

    def of_ratio(self, measure: str) -> float:
        """The level of a ratio: ``speed``, ``memory`` or ``energy``."""
        objective = "speed" if self.prefer == "accuracy" else self.prefer
        return self._each * (0.35 if measure == objective else 0.05)

    @property
    def of_first_figure(self) -> float:
        """The level of the first figure's final value: the loss, where there is one."""
        return self._each * 0.35

    def of_other_figure(self, figures: int) -> float:
        """The level of every other test of quality: two per figure, without the first figure's final value."""
        return self._each * 0.2 / max(1, 2 * figures - 1)

    @property
    def _each(self) -> float:
        return self.alpha / max(1, self.precisions)


@dataclass(frozen=True)
class Look:
    """One look at the differences of the first ``pairs`` pairs."""

    pairs: int  #: how many
    level: float  #: the two-sided level that it spends
    #: value, error: the mean difference and its standard error
    value: float
    error: float
    #: low, high: what the intervals of this and all earlier looks have in common
    low: float
    high: float
    known: bool = False  #: whether the figure has no spread at all, so that only equality counts

    @property
    def half(self) -> float:
        """Half of the interval of this look alone."""
        return 0.0 if self.known else critical(self.pairs, self.level) * self.error


def level(pairs: int, alpha: float) -> float:
    """What the look after so many pairs spends, for a figure with the level ``alpha``."""
    return alpha * _together(alpha) * SHARES[LOOKS.index(pairs)]


@functools.lru_cache
def _together(alpha: float) -> float:
    import numpy as np

    return float(np.interp(math.log(alpha), np.log(list(TOGETHER)), list(TOGETHER.values())))


@functools.lru_cache(maxsize=4096)
def critical(pairs: int, level: float) -> float:
    """The two-sided quantile of Student's t of so many pairs."""
    return t_quantile(pairs - 1, 1 - level / 2)


def next_look(pairs: int) -> int | None:
    """After how many pairs the next look is; None if the largest plan is used up."""
    return next((n for n in LOOKS if n > pairs), None)


def looks(pairs: Pairs, alpha: float) -> list[Look]:
    """The looks at a figure so far.

    The interval of a look is the part that the intervals of all looks so far have in common. If they have none, one of
    them was wrong, and the last one alone counts.

    A figure without any spread is decided by equality, and spends nothing. If some figures are equal, the figure is
    coarse, as an accuracy over a hundred samples is. Then gap^2 / 6 is added to the variance, for the rounding of both
    sides to the smallest gap between two figures.
    """
    found: list[Look] = []
    low, high = -math.inf, math.inf
    spread = any(pair != pairs[0] for pair in pairs)
    for n in itertools.takewhile(lambda n: n <= len(pairs), LOOKS):
        own = _look(pairs[:n], level(n, alpha), spread)
        low, high = max(low, own.value - own.half), min(high, own.value + own.half)
        if low > high:
            low, high = own.value - own.half, own.value + own.half
        found.append(Look(n, own.level, own.value, own.error, low, high, own.known))
    return found


def _look(pairs: Pairs, level: float, spread: bool) -> Look:
    n = len(pairs)
    values = [value for value, _ in pairs]
    mean = math.fsum(values) / n
    if not spread:
        return Look(n, level, values[0], 0.0, 0.0, 0.0, known=True)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1) + _grain(pairs) ** 2 / 6
    return Look(n, level, mean, math.sqrt(variance / n), 0.0, 0.0)


def _grain(pairs: Pairs) -> float:
    """The smallest gap between two figures, if some figures or differences are equal; else 0."""
    figures = sorted(figure for value, theirs in pairs for figure in (theirs, theirs + value))
    least = 1e-12 * max(map(abs, figures), default=0.0)
    gaps = [b - a for a, b in itertools.pairwise(figures)]
    values = sorted(value for value, _ in pairs)
    apart = [*gaps, *(b - a for a, b in itertools.pairwise(values))]
    return 0.0 if min(apart) > least else min((gap for gap in gaps if gap > least), default=0.0)


def ratio(figures: Sequence[tuple[float, float]], alpha: float) -> Ratio | None:
    """The ratio of positive figures, ours over the baseline's, one pair per block; None without any.

    Before the first look there is no interval.
    """
    if not figures:
        return None
    logs = [(math.log(ours) - math.log(theirs), math.log(theirs)) for ours, theirs in figures]
    seen = looks(logs, alpha)
    runs = (len(logs), len(logs))
    if not seen:
        return Ratio(math.exp(math.fsum(value for value, _ in logs) / len(logs)), runs=runs)
    last = seen[-1]
    low, high = math.exp(last.low), math.exp(last.high)
    return Ratio(math.exp(last.value), low, high, not low <= 1.0 <= high, runs=runs)


#: a function of (n, level): the margin below which a difference does not matter, from the baseline's first n values
#: (None: all)
Margin = Callable[[int | None, float], float | None]


def difference(pairs: Pairs, alpha: float, margin: Margin) -> Difference:
    """The difference of a figure to the baseline's, over all looks.

    Args:
        pairs: one per seed.
        alpha: the figure's level.
        margin: gives the margin below which a difference does not matter.

    Returns:
        ``p_holm`` and ``p_equivalence`` are the smallest over the looks, each scaled by what the look may spend, so
        that their limit is 5 % as elsewhere. Equivalence is two one-sided tests (Schuirmann 1987) at half of what the
        look spends; the other half is for a margin that is itself estimated.
    """
    seen = looks(pairs, alpha)
    if not seen:
        value = math.fsum(value for value, _ in pairs) / len(pairs)
        return Difference(value, seeds=len(pairs), margin=margin(len(pairs), ALPHA))
    last = seen[-1]
    margins = [margin(look.pairs, look.level / 2) for look in seen]
    beyond = [_p_equivalence(look, far) for look, far in zip(seen, margins, strict=True)]
    best = min(range(len(seen)), key=lambda i: (beyond[i], -i))
    return Difference(
        last.value,
        last.low,
        last.high,
        seeds=len(pairs),
        p=_p(last),
        p_holm=min(_spent(_p(look), look.level) for look in seen),
        detectable=last.error * noncentrality(last.pairs, last.level),
        power=POWER,
        bound=abs(seen[best].value) + seen[best].half,
        margin=margins[best],
        p_equivalence=None if margins[best] is None else beyond[best],
    )


def _p(look: Look) -> float:
    """The two-sided p value of no difference."""
    from scipy.special import stdtr

    if look.error == 0:
        return float(look.value == 0)
    return min(1.0, 2 * float(stdtr(look.pairs - 1, -abs(look.value) / look.error)))


def _p_equivalence(look: Look, margin: float | None) -> float:
    """The p value of a difference beyond the margin, scaled by what the look may spend; 1 without a margin."""
    from scipy.special import stdtr

    if margin is None:
        return 1.0
    if look.error == 0:
        return float(abs(look.value) >= margin)
    p = float(stdtr(look.pairs - 1, -(margin - abs(look.value)) / look.error))
    return _spent(p, look.level / 2)


def _spent(p: float, level: float) -> float:
    """A p value scaled so that ``level`` becomes 5 %."""
    return min(1.0, p / level * ALPHA)

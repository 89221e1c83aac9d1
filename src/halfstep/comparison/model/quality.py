"""How a precision's losses and logged figures compare with the baseline's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from halfstep.comparison.model.figures import Spread

#: which direction of a figure is better
Direction = Literal["lower", "higher", "unknown"]

#: the verdict of paired differences on a figure, or on a precision
Kind = Literal[
    "baseline", "one_seed", "no_difference_seen", "equivalent", "worse", "better", "different", "diverged",
    "not_known",
]  # fmt: skip

#: the level of every test, and 1 minus that of every interval
ALPHA = 0.05

#: kinds that say that there is a difference
DIFFERENCES: tuple[Kind, ...] = ("worse", "better", "different")


@dataclass(frozen=True)
class Difference:
    """A figure minus the baseline's, over the seeds that both ran with."""

    #: value, low, high: the mean difference with its 95 % interval, by paired t over ``seeds``
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    #: p, p_holm: two-sided p values of no difference, by paired t; ``p_holm`` is adjusted for all precisions
    p: float | None = None
    p_holm: float | None = None
    #: p_exact, exact_low, exact_high: the same by sign flips, from 6 seeds to 14
    p_exact: float | None = None
    exact_low: float | None = None
    exact_high: float | None = None
    #: the difference that would have been seen with the probability ``power``
    detectable: float | None = None
    power: float | None = None
    #: the largest distance in the 90 % interval, which belongs to two one-sided tests at 5 %
    bound: float | None = None
    #: smaller differences do not matter; ``margin_from`` says where it is from, ``tolerance`` or ``seeds``
    margin: float | None = None
    margin_from: str | None = None
    p_equivalence: float | None = None  #: the p value of a difference beyond the margin
    significant: bool | None = None  #: ``different``, for the JSON

    @property
    def different(self) -> bool:
        """Whether a difference was seen, with the p value adjusted for all precisions where there is one."""
        p = self.p if self.p_holm is None else self.p_holm
        return p is not None and p <= ALPHA

    @property
    def equivalent(self) -> bool:
        """Whether the difference was shown to lie within the margin."""
        return self.p_equivalence is not None and self.p_equivalence <= ALPHA

    @property
    def half_width(self) -> float:
        """Half of the interval; NaN without one."""
        return math.nan if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class FinalDifference(Difference):
    """The difference of the final values; ``fall``: how far the baseline's loss fell over the run."""

    fall: float | None = None


@dataclass(frozen=True)
class RunPart:
    """One part of the run, first to last step: the mean difference with a band that holds for all parts at once."""

    first: int
    last: int
    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the band excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class RunDifference:
    """The difference over the whole run: its mean over all steps, and the run in parts."""

    difference: Difference | None = None
    kind: Kind | None = None
    words: str = ""
    parts: tuple[RunPart, ...] = ()
    apart: tuple[tuple[int, int], ...] = ()  #: first and last step of the parts where the band excludes zero
    method: str | None = None  #: how the band was made


@dataclass(frozen=True)
class FigureRow:
    """The loss, or a figure that the script logged: its final value, and the difference to the baseline's."""

    final: Spread | None = None
    direction: Direction | None = None
    difference: FinalDifference | None = None
    words: str = ""
    kind: Kind | None = None
    over_run: RunDifference | None = None


@dataclass(frozen=True)
class Diverged:
    """In how many of its trials the loss was not finite from some step on: their seeds, and those steps from 1."""

    trials: int
    of: int
    seeds: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Quality:
    """The verdict on a precision: the first figure's, unless it diverged or another figure is worse."""

    kind: Kind | None = None
    words: str = ""
    seeds: int = 1

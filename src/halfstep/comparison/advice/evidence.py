"""A comparison's rows, sorted for the questions that the rules of advice ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halfstep.comparison.advice.batches import NO_BATCHES, Batches
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import FinalDifference
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.statistics.intervals import Interval, runs_to_tell
from halfstep.precisions.recipes import parse

#: (place in the comparison's list, row); references to evidence use the place
Row = tuple[int, PrecisionRow]

#: a final loss within this share of the loss's fall counts as close
CLOSE = 0.05

#: a ratio without an interval counts as a gain from here on
PLAIN_GAIN = 1 / 0.9

#: a safer precision is preferred if it gains at least this share of the best gain; gains below 1 / this are ignored
AS_GOOD = 0.95

#: a measured ratio beyond this many times the bound is not due to the precision; the bound is from one step, so inexact
BEYOND = 1.25

#: the fewest runs whose spread says something about further runs
FEW_RUNS = 3

#: in how many steps a loss should have begun to fall
LEARNING_STEPS = 50

#: the ratio to the baseline that each objective looks at
RatioName = Literal["speed_ratio", "memory_ratio", "energy_ratio"]
RATIOS: Mapping[str, RatioName] = {"speed": "speed_ratio", "memory": "memory_ratio", "energy": "energy_ratio"}


@dataclass(frozen=True)
class Evidence:
    """The rows that the rules ask for."""

    prefer: Prefer
    baseline: Row | None  #: the row that the others are compared with
    #: the other precisions, if all their trials ran to the end, except those of ``same`` and ``continued``
    ran: list[Row]
    failed: list[Row]  #: the other precisions with a trial that did not run to its end
    batches: Batches = NO_BATCHES  #: the largest batches, where they were searched
    #: the other precisions that ran the same as the baseline, so that there is nothing to choose
    same: tuple[Row, ...] = ()
    #: the other precisions whose trials continued from an earlier trial's files: they have no verdict
    continued: tuple[Row, ...] = ()
    by_budget: bool = False  #: whether the comparison decides on seeds and repeats itself

    @classmethod
    def of(
        cls,
        verdicts: Sequence[PrecisionRow],
        prefer: Prefer = "speed",
        batches: Batches = NO_BATCHES,
        by_budget: bool = False,
    ) -> Evidence:
        """Sort the verdicts."""
        rows = list(enumerate(verdicts))
        name = next((v.baseline for v in verdicts), None)
        others = [(i, v) for i, v in rows if v.precision != name]
        judged = [(i, v) for i, v in others if v.ended_well and not v.went_on]
        return cls(
            prefer,
            next((row for row in rows if row[1].precision == name), None),
            [(i, v) for i, v in judged if not v.same_as_baseline],
            [(i, v) for i, v in others if not v.ended_well],
            batches,
            tuple((i, v) for i, v in judged if v.same_as_baseline),
            tuple((i, v) for i, v in others if v.ended_well and v.went_on),
            by_budget,
        )

    @property
    def base(self) -> Row:
        """The baseline; rules may use it after :func:`nothing_ran`, which answers where there is none."""
        if self.baseline is None:
            raise LookupError("no trial ran to its end, so there is no baseline")
        return self.baseline

    @property
    def real(self) -> list[Row]:
        """Those of ``ran`` that were not emulated: an emulated run shows how well a precision trains, not its cost."""
        return [(i, v) for i, v in self.ran if not v.emulated]

    @property
    def impossible(self) -> list[Row]:
        """Those that were measured to be faster than the hardware's units can make them."""
        found = [row for row in self.real if not units_can_gain(row[1])]
        return [row for row in found if self.prefer == "speed" and measured_faster(row[1])]

    @property
    def gaining(self) -> list[Row]:
        """Those that gain by the objective, the largest gain first."""
        found = [row for row in self.real if is_gain(row[1], self.prefer)]
        return sorted(found, key=lambda row: -gain(row[1], self.prefer))

    def judged(self, *standings: str) -> list[Row]:
        """Those that gain, and whose quality has one of these standings."""
        return [row for row in self.gaining if standing(row[1]) in standings]

    @property
    def pool(self) -> list[Row]:
        """Those to choose from: shown to be no worse; if there are none, those that look close."""
        return self.judged("good") or self.judged("close")

    @property
    def open(self) -> list[Row]:
        """Those that may gain as far as the data can tell, and are not worse; the largest gain first."""
        able = [r for r in self.real if self.prefer != "speed" or units_can_gain(r[1])]
        found = [r for r in able if may_gain(r[1], self.prefer) and standing(r[1]) != "bad"]
        return sorted(found, key=lambda row: -gain(row[1], self.prefer))

    @property
    def decided(self) -> bool:
        """Whether the data show that one to choose from is no worse."""
        return bool(self.judged("good"))

    @property
    def roomier(self) -> list[Row]:
        """If memory is the objective, those that fit a larger batch than the baseline, the largest first."""
        base = self.base[1].precision
        found = [
            row
            for row in self.real
            if self.prefer == "memory" and self.batches.fits_more(row[1].precision, base)
        ]
        return sorted(found, key=lambda row: -self.batches.largest(row[1].precision))

    @property
    def unmeasured(self) -> list[Row]:
        """Those of ``ran`` whose gain by the objective is not known."""
        return [row for row in self.ran if not ratio_of(row[1], self.prefer)]


def ratio_name(prefer: Prefer) -> RatioName:
    """The field of a row that an objective looks at; speed for ``accuracy``."""
    return RATIOS.get(prefer, "speed_ratio")


def ratio_of(row: PrecisionRow, prefer: Prefer) -> Ratio | None:
    """The ratio to the baseline that an objective looks at; None where it was not measured."""
    ratio: Ratio | None = getattr(row, ratio_name(prefer))
    return ratio


def gain(row: PrecisionRow, prefer: Prefer) -> float:
    """How many times as good as the baseline by the objective; 1 where it is not known."""
    ratio = ratio_of(row, prefer)
    value = ratio.value if ratio is not None and ratio.value else 1.0
    return value if prefer in ("speed", "accuracy") else 1.0 / value


def is_gain(row: PrecisionRow, prefer: Prefer) -> bool:
    """Whether the gain is more than noise, and shows in two decimals.

    A memory ratio without an interval has to be large. A speed that the hardware's units cannot cause is no gain: see
    :func:`units_can_gain`.
    """
    ratio = ratio_of(row, prefer)
    if ratio is None or (ratio_name(prefer) == "speed_ratio" and not units_can_gain(row)):
        return False
    if prefer == "memory" and ratio.low is None:
        return gain(row, prefer) >= PLAIN_GAIN
    return bool(ratio.significant) and gain(row, prefer) > 1 and round(ratio.value, 2) != 1


def units_can_gain(row: PrecisionRow) -> bool:
    """Whether the hardware's units can explain a difference of speed.

    They cannot if all products ran in fp32 units or in software, or if the ratio is beyond what the fastest units could
    reach.
    """
    return not row.ran.without_units and not beyond_units(row)


def measured_faster(row: PrecisionRow) -> bool:
    """Whether it was faster than the baseline by more than noise, or beyond what any units give."""
    ratio = row.speed_ratio
    return beyond_units(row) or (ratio is not None and bool(ratio.significant) and ratio.value > 1)


def beyond_units(row: PrecisionRow) -> bool:
    """Whether a speed ratio and its interval lie beyond what the hardware can reach, with a margin of a quarter."""
    ratio, bound = row.speed_ratio, row.speed_bound
    if ratio is None or bound is None:
        return False
    return (ratio.value if ratio.low is None else ratio.low) > BEYOND * bound


def may_gain(row: PrecisionRow, prefer: Prefer) -> bool:
    """Whether the data leave open that it gains: the interval includes both no gain and a gain worth having.

    Without an interval it is open unless the ratio is clearly a loss; it is always open if the trials were disturbed.
    """
    ratio = ratio_of(row, prefer)
    if ratio is None or is_gain(row, prefer):
        return False
    if ratio.low is None:
        return bool(ratio.disturbed) or gain(row, prefer) > 1 / PLAIN_GAIN
    return not ratio.significant and _most(ratio, prefer) >= 1 / AS_GOOD


def may_gain_little(row: PrecisionRow, prefer: Prefer) -> bool:
    """Whether its interval includes a gain, however small."""
    ratio = ratio_of(row, prefer)
    return ratio is not None and ratio.low is not None and _most(ratio, prefer) > 1


def _most(ratio: Ratio, prefer: Prefer) -> float:
    """The largest gain in the interval."""
    return gains(ratio, prefer).high or 0.0


def gains(ratio: Ratio, prefer: Prefer) -> Interval:
    """A ratio with its interval as gains; for memory and energy the inverse, as less is better."""
    value, low, high = ratio.value, ratio.low, ratio.high
    if prefer in ("speed", "accuracy") or low is None or high is None:
        return Interval(value, low, high)
    return Interval(1 / value, 1 / high, 1 / low)


def enough_repeats(row: PrecisionRow, prefer: Prefer) -> int | None:
    """How many ``--repeats`` would show whether it gains, at the noise seen; None if they are too many."""
    ratio, seeds = ratio_of(row, prefer), row.quality.seeds or 1
    runs = min(ratio.runs if ratio is not None and ratio.runs else (row.trials or 1,))
    if runs < 2 or ratio is None or ratio.low is None:
        return max(FEW_RUNS, runs // seeds + 1)
    enough = runs_to_tell(gains(ratio, prefer), runs, 1 / AS_GOOD)
    return None if enough is None else max(math.ceil(enough / seeds), runs // seeds + 1)


def standing(row: PrecisionRow) -> Literal["good", "close", "bad", "unknown"]:
    """The standing of the quality: shown to be no worse, close but not shown, shown to be worse, or not known.

    "No difference seen" is good if the interval ends below the limit: ``--tolerance``, or else :data:`CLOSE` of the
    loss's fall.
    """
    kind = row.quality.kind
    if kind in ("worse", "diverged") or row.stands_still:
        return "bad"
    if kind in ("equivalent", "better"):
        return "good"
    difference = _difference(row)
    value, limit = difference.value, _limit(difference)
    if kind not in ("one_seed", "no_difference_seen") or value is None or limit is None:
        return "unknown"
    if kind == "no_difference_seen" and difference.high is not None and difference.high <= limit:
        return "good"
    return "close" if value <= limit else "unknown"


def lower(row: PrecisionRow) -> bool:
    """Whether its final loss is lower than the baseline's by more than the limit for close."""
    difference = _difference(row)
    limit = _limit(difference)
    return limit is not None and difference.value is not None and difference.value < -limit


def _difference(row: PrecisionRow) -> FinalDifference:
    return row.loss.difference if row.loss and row.loss.difference else FinalDifference()


def _limit(difference: FinalDifference) -> float | None:
    """How large a difference of the loss counts as close; None if the loss did not fall."""
    if difference.margin_from == "tolerance":
        return difference.margin
    fall = difference.fall
    return CLOSE * fall if fall and fall > 0 else None


def does_not_fall(row: PrecisionRow) -> bool:
    """Whether the loss did not fall although there were enough steps."""
    return row.fall is not None and row.fall <= 0 and (row.steps or 0) >= LEARNING_STEPS


def is_recipe(row: PrecisionRow, name: str) -> bool:
    """Whether it is the recipe ``name`` or ``name-true``, whatever its options."""
    return parse(row.precision).name in (name, f"{name}-true")

"""Why a precision ran the same as the baseline, so that there is nothing to compare."""

from __future__ import annotations

from collections.abc import Sequence

from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import Cause
from halfstep.record.ran import Ran

#: fewer equal losses may be equal by chance: a loss of 0, or a rounded one
ENOUGH_LOSSES = 5


def same_cause(own: Sequence[TrialRow], base: Sequence[TrialRow], ran: Ran, base_ran: Ran) -> Cause | None:
    """Why the trials ``own`` and those of the baseline ran the same; None where they did not, or it is not known.

    Args:
        own, base: trials of the comparison object that ended well.
        ran, base_ran: what was measured of them.
    """
    if ran.same_as(base_ran):
        if not ran.products:
            return "no_products"
        return "fp64" if ran.main == "fp64" else "out_of_reach"
    unknown = ran.unknown and base_ran.unknown
    return "identical_losses" if unknown and _identical(own, base) else None


def _identical(own: Sequence[TrialRow], base: Sequence[TrialRow]) -> bool:
    """Whether the losses of each seed are the same numbers, enough of them and not all one number."""
    theirs = {row.seed: row.losses for row in base}
    pairs = [(row.losses, theirs[row.seed]) for row in own if row.seed in theirs]
    return bool(pairs) and all(
        mine == other and len(set(mine) - {None}) >= ENOUGH_LOSSES for mine, other in pairs
    )

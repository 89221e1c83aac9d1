"""What paired differences say, in words; nothing is claimed that the data do not carry."""

from __future__ import annotations

from collections.abc import Sequence

from halfstep.comparison.curves import LOSS
from halfstep.comparison.model import DIFFERENCES, Diverged, FigureRow, Kind
from halfstep.comparison.paired import POWER, Paired
from halfstep.plural import count

#: a difference of more than this many times the fall says that the loss hardly fell: it is no measure then
MOST_OF_A_FALL = 2.0

_IN_FIVE = round(POWER * 5)


def figure_words(found: Paired, kind: Kind, fall: float | None, margin_from: str | None, seeded: bool) -> str:
    """The verdict on one figure, with the size of what was seen or could have been."""
    told = fall is not None and fall > 0 and abs(found.value) <= MOST_OF_A_FALL * fall
    share = f" ({_share(found.value / fall)} of the fall)" if fall and told else ""
    seeds = f"{found.seeds} seeds"
    size = f"{abs(found.value):.3g} ± {found.half_width:.2g}"
    if kind == "one_seed":
        why = (
            "one seed cannot tell it from noise"
            if seeded
            else "the seeds changed nothing, so noise is not known"
        )
        return f"{found.value:+.4g}{share}; {why}"
    if kind == "equivalent":
        return _equivalent_words(found, margin_from, seeds)
    if kind == "no_difference_seen":
        could = f"{found.detectable:.2g} or more would have been, {_IN_FIVE} times in 5"
        return f"no difference seen ({seeds}; {could})"
    if kind == "different":
        return f"differs by {found.value:+.3g} ± {found.half_width:.2g} ({seeds})"
    return f"{kind} by {size}{share} ({seeds})" if kind in ("worse", "better") else ""


def _share(share: float) -> str:
    return "under 0.1%" if abs(share) < 0.0005 else f"{share:+.1%}"


def _equivalent_words(found: Paired, margin_from: str | None, seeds: str) -> str:
    if found.value == found.low == found.high == 0:
        return f"identical in all {seeds}"
    margin = "the tolerance is" if margin_from == "tolerance" else "seeds alone differ by"
    return f"equivalent: {found.bound:.2g} apart at most; {margin} {found.margin:.2g} ({seeds})"


def diverged_words(diverged: Diverged, baseline: Diverged | None) -> str:
    """``diverged at step 12 in 2 of 5 trials``; and whether the baseline did, too."""
    first, last = min(diverged.steps, default=None), max(diverged.steps, default=None)
    at = "" if first is None else f" at step {first}" if first == last else f" at steps {first} to {last}"
    share = "" if diverged.of == 1 else f" in {diverged.trials} of {diverged.of} trials"
    too = f"; the baseline in {baseline.trials} of {baseline.of}" if baseline else ""
    return f"diverged{at}{share}{too}"


def baseline_words(seeds: int) -> str:
    """``the baseline (5 seeds)``."""
    return f"the baseline ({count(seeds, 'seed')})"


NOTHING_TO_JUDGE = "neither a loss nor a logged figure that the baseline has, too"


def verdict_words(figures: Sequence[tuple[str, FigureRow]], of_loss: bool = True) -> str:
    """The verdict on a precision: the first figure leads, whatever it is; of the others, what differs.

    Args:
        figures: by name, those on which there is a verdict.
        of_loss: whether the loss is named where it leads.
    """
    (first, row), others = figures[0], figures[1:]
    named = of_loss or first != LOSS
    said = [f"{first}: {row.words}" if named else row.words]
    said += [f"{name}: {row.words}" for name, row in others if row.kind in DIFFERENCES]
    said += [
        f"{name} over the run: {row.over_run.words}"
        for name, row in figures
        if row.over_run is not None and row.over_run.kind in DIFFERENCES
    ]
    return "; ".join(said)

"""The verdicts on quality in words; they claim only what the data show."""

from __future__ import annotations

from collections.abc import Sequence

from halfstep.comparison.model.quality import DIFFERENCES, Difference, Diverged, FigureRow, Kind
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.statistics.curves import LOSS
from halfstep.comparison.statistics.paired import POWER
from halfstep.comparison.statistics.sequential import LOOKS
from halfstep.report.words import warnings
from halfstep.words.plural import count

#: a difference above this many times the fall is not given as a share of it: the loss hardly fell
MOST_OF_A_FALL = 2.0

_IN_FIVE = round(POWER * 5)
_ONE_SEED = "one seed cannot tell it from noise"


def figure_words(found: Difference, kind: Kind, fall: float | None, unseeded: bool) -> str:
    """The verdict on one figure, with the size of what was seen or could have been.

    Args:
        found: the difference to the baseline's.
        kind: what it says.
        fall: how far the baseline's loss fell; None of other figures.
        unseeded: whether both ran with several seeds; a single pair then means that seeds changed nothing.
    """
    value = found.value or 0.0
    comparable = fall is not None and fall > 0 and abs(value) <= MOST_OF_A_FALL * fall
    share = f" ({_share(value / fall)} of the fall)" if fall and comparable else ""
    seeds = f"{found.seeds} seeds"
    size = f"{abs(value):.3g} ± {found.half_width:.2g}"
    if kind == "equivalent":
        return _equivalent_words(found, seeds)
    early = (
        kind == "no_difference_seen" and found.detectable is None
    )  # with repeated looks, before the first one
    if early or kind == "one_seed":
        one = "the seeds changed nothing, so noise is not known" * unseeded
        if value == 0 and not early:
            return f"the same ({one or 'one seed'})"
        why = f"{seeds}, and the first look needs {LOOKS[0]}" if early else one or _ONE_SEED
        return f"{'-' if value < 0 else '+'}{_two_digits(abs(value))}{share}; {why}"
    if kind == "no_difference_seen":
        could = f"{_two_digits(found.detectable or 0.0)} or more would have been, {_IN_FIVE} times in 5"
        return f"no difference seen ({seeds}; {could})"
    if kind == "different":
        return f"differs by {value:+.3g} ± {found.half_width:.2g} ({seeds})"
    return f"{kind} by {size}{share} ({seeds})" if kind in ("worse", "better") else ""


def _two_digits(x: float) -> str:
    """Two digits, as few trials allow no more: 0.004499 is `0.0045`, 123 is `120`."""
    return f"{float(f'{x:.2g}'):.15g}"


def _share(share: float) -> str:
    return "under 0.1%" if abs(share) < 0.0005 else f"{share:+.1%}"


def _equivalent_words(found: Difference, seeds: str) -> str:
    if found.value == found.low == found.high == 0:
        return f"identical in all {seeds}"
    margin = "the tolerance is" if found.margin_from == "tolerance" else "seeds alone differ by"
    bound, far = _two_digits(found.bound or 0.0), _two_digits(found.margin or 0.0)
    return f"equivalent: {bound} apart at most; {margin} {far} ({seeds})"


def quality_words(row: PrecisionRow, base: PrecisionRow) -> str:
    """The verdict on a precision, from its row with words for its figures, and the baseline's row."""
    if row.went_on is not None:
        return f"{warnings.went_on(row.went_on)}: nothing to compare"
    if row.diverged is not None:
        return diverged_words(row.diverged, None if row is base else base.diverged)
    if row.quality.kind == "baseline":
        return f"the baseline ({count(row.quality.seeds, 'seed')})"
    figures = judged(row)
    return verdict_words(figures) if figures else NOTHING_TO_JUDGE


def judged(row: PrecisionRow) -> list[tuple[str, FigureRow]]:
    """(name, figure) of the precision's figures that have a verdict, the loss first."""
    of_all = [*([(LOSS, row.loss)] if row.loss else []), *row.logged.items()]
    return [(name, figure) for name, figure in of_all if figure.kind is not None]


def diverged_words(diverged: Diverged, baseline: Diverged | None) -> str:
    """``diverged at step 12 in 2 of 5 trials``, and whether the baseline diverged, too."""
    first, last = min(diverged.steps, default=None), max(diverged.steps, default=None)
    at = "" if first is None else f" at step {first}" if first == last else f" at steps {first} to {last}"
    share = "" if diverged.of == 1 else f" in {diverged.trials} of {diverged.of} trials"
    too = f"; the baseline in {baseline.trials} of {baseline.of}" if baseline else ""
    return f"diverged{at}{share}{too}"


NOTHING_TO_JUDGE = "no loss or logged figure in common with the baseline"


def verdict_words(figures: Sequence[tuple[str, FigureRow]], of_loss: bool = True) -> str:
    """The verdict on a precision: that on the first figure, then the others that differ.

    Args:
        figures: (name, figure) of those that have a verdict.
        of_loss: whether to name the first figure if it is the loss.
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

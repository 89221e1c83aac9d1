"""What paired differences say, in a word (the kind) and in words; nothing is claimed that the data do not carry."""

from __future__ import annotations

from collections.abc import Sequence

from halfstep.comparison.model import Direction, Diverged, FigureRow, Kind
from halfstep.comparison.paired import POWER, Paired

#: a difference of more than this many times the fall says that the loss hardly fell: it is no measure then
MOST_OF_A_FALL = 2.0

_IN_FIVE = round(POWER * 5)


def kind_of(found: Paired, way: Direction) -> Kind:
    """The verdict on one figure, in a word."""
    if found.seeds == 0:
        return "not_known"
    if found.seeds == 1:
        return "one_seed"
    if found.equivalent or found.value == found.low == found.high == 0:
        return "equivalent"
    if not found.different:
        return "no_difference_seen"
    if way == "unknown":
        return "different"
    return "worse" if (found.value > 0) == (way == "lower") else "better"


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


#: what is told of a figure that does not lead
_TOLD = ("worse", "better", "different")


def summary_words(
    figures: Sequence[tuple[str, FigureRow]],
    is_baseline: bool,
    diverged: Diverged | None,
    baseline_diverged: Diverged | None,
    seeds: int,
) -> tuple[Kind, str]:
    """The verdict on a precision: the first figure's, unless it diverged or another figure is worse."""
    if diverged is not None:
        return "diverged", diverged_words(diverged, None if is_baseline else baseline_diverged)
    if is_baseline:
        return "baseline", f"the baseline ({seeds} seed{'s' * (seeds != 1)})"
    said = [(row.kind, f"{name}: {row.words}") for name, row in figures if row.kind is not None]
    if not said:
        return "not_known", "neither a loss nor a logged figure that the baseline has, too"
    said += [
        (row.over_run.kind, f"{name} over the run: {row.over_run.words}")
        for name, row in figures
        if row.kind is not None and row.over_run is not None and row.over_run.kind in _TOLD
    ]
    # The first figure leads, whatever it is; the others are told where there is something to tell.
    (kind, first), others = said[0], [words for kind, words in said[1:] if kind in _TOLD]
    return "worse" if any(kind == "worse" for kind, _ in said) else kind, "; ".join([first, *others])

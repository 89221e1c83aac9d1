"""Quality against noise: final losses, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from halfstep.intervals import Interval, mean_difference
from halfstep.ratios import spread
from halfstep.trials import Outcome

#: the last part of a run whose mean loss is called the final loss
FINAL_SHARE = 0.1


def final_loss(losses: Sequence[float | None]) -> float | None:
    """The mean loss of the last tenth of the steps, at least 5 of them; None if one is not finite."""
    tail = list(losses)[-max(5, round(len(losses) * FINAL_SHARE)) :]
    known = [loss for loss in tail if loss is not None]
    return sum(known) / len(known) if known and all(map(math.isfinite, known)) else None


def loss(base: list[Outcome], group: list[Outcome]) -> dict[str, Any] | None:
    """The final losses, and their difference to the baseline's."""
    finals = {(o.trial.seed, o.trial.repeat): final_loss(o.record.losses) for o in group}
    final = spread(list(finals.values()))
    if final is None:
        return None
    theirs = {(o.trial.seed, o.trial.repeat): final_loss(o.record.losses) for o in base}
    # Repeats of a seed are the same training again: only seeds are independent.
    seeds = {seed for seed, _ in finals}
    pairs = [
        (_mean(theirs, seed), _mean(finals, seed))
        for seed in sorted(seeds)
        if _mean(theirs, seed) is not None and _mean(finals, seed) is not None
    ]
    if not pairs:
        return {"final": final, "difference": None, "words": ""}
    difference = mean_difference(pairs)  # type: ignore[arg-type]
    fall = _fall(base)
    row = {"value": difference.value, "low": difference.low, "high": difference.high, "fall": fall}
    return {"final": final, "difference": row, "words": difference_words(difference, fall, len(pairs))}


def _mean(finals: dict[tuple[int, int], float | None], seed: int) -> float | None:
    values = [value for (s, _), value in finals.items() if s == seed and value is not None]
    return sum(values) / len(values) if values else None


def _fall(base: list[Outcome]) -> float | None:
    """How far the baseline's loss fell over the run: what a difference is to be measured by."""
    for outcome in base:
        first = next((x for x in outcome.record.losses if x is not None), None)
        last = final_loss(outcome.record.losses)
        if first is not None and last is not None:
            return first - last
    return None


def difference_words(difference: Interval, fall: float | None, seeds: int) -> str:
    """What the difference of the final losses says, and what it cannot say."""
    share = f" ({difference.value / fall:+.1%} of the fall)" if fall and fall > 0 else ""
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.4g}{share}; one seed cannot tell it from noise"
    if difference.low <= 0 <= difference.high:
        return f"no difference seen ({seeds} seeds; ±{(difference.high - difference.low) / 2:.2g} could have been)"
    word = "worse" if difference.value > 0 else "better"
    return f"{word} by {abs(difference.value):.3g} ± {(difference.high - difference.low) / 2:.2g} ({seeds} seeds)"

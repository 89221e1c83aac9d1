"""A comparison with ``--budget``: lets the planner choose the trials, and says what the time was enough for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from halfstep.comparison import archive
from halfstep.comparison.model.budget import Budget, End, Standing
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.planning import PlanEnd, State, Wave, plan, wave
from halfstep.comparison.request import Request
from halfstep.comparison.standing import stand
from halfstep.comparison.statistics.sequential import Levels
from halfstep.comparison.work import Work
from halfstep.errors import UsageError
from halfstep.trials import Outcome, Trial

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")


def parse_budget(text: str) -> float:
    """Seconds of ``20m``, ``90s``, ``2h`` or ``90``. Raises UsageError for another form, or zero."""
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    if not 0 < seconds < 1e9:
        raise UsageError(
            f"{text!r} is no time for --budget; give a number above zero with s, m or h, as in 20m."
        )
    return seconds


@dataclass(frozen=True)
class Seen:
    """What is known when the next trial is chosen."""

    outcomes: Sequence[Outcome]  #: the trials that have ended, including those before a resume
    comparison: Comparison  #: the comparison of these trials
    recipes: Sequence[str]  #: the precisions to compare
    spent: float  #: seconds so far, including those before a resume


class Budgeted:
    """Chooses the trials of a comparison with a budget: one after the other, or those of blocks side by side.

    A block is a seed.

    Args:
        places: how many blocks can run side by side; None: trials run one after the other.
    """

    def __init__(self, request: Request, work: Work, pending: list[Trial], places: int | None) -> None:
        self._request, self._work, self._pending, self._places = request, work, pending, places
        self._members: tuple[str, ...] = ()
        #: why no more trials were chosen
        self.end: End = "certain"

    def choose(self, seen: Seen, running: int = 0) -> None:
        """Put the planner's next trials into the list of pending ones; none if the planner has ended.

        Args:
            running: how many trials still run; the next wave is chosen when all of them have ended.
        """
        left = (self._request.budget or 0.0) - seen.spent
        if running or (self._places and self._pending):
            if left <= 0:
                self._pending.clear()
            return
        state = self._state(seen, left)
        step = plan(state) if self._places is None else wave(state)
        if isinstance(step, PlanEnd):
            self.end = step.end
            self._pending.clear()
            return
        if isinstance(step, Wave):
            self._members = tuple(dict.fromkeys(name for name, _ in step.trials))
            self._pending += [Trial(name, block) for name, block in step.trials]
        else:
            self._members, self._work.more = step.members, step.more
            self._pending[:] = [Trial(step.precision, step.block)]
        if seen.comparison.budget is not None:
            self._work.stand(seen.comparison.budget)

    def _state(self, seen: Seen, left: float) -> State:
        ended = archive.done(seen.outcomes)
        new = [name for name in seen.recipes if all(o.trial.precision != name for o in ended)]
        return State(
            precisions=tuple(seen.recipes),
            ran=frozenset((o.trial.precision, o.trial.seed) for o in ended),
            rows=seen.comparison.verdicts,
            levels=levels(self._request, seen.recipes) or Levels(1),
            prefer=self._request.prefer,
            seconds=seconds_of(ended),
            left=left,
            # The script's own precision joins the block if it was found meanwhile.
            members=self._members and tuple(dict.fromkeys([*self._members, *new])),
            places=self._places or 1,
        )


def levels(request: Request, recipes: Sequence[str]) -> Levels | None:
    """The share of the significance level that each figure may use; None if the verdicts are looked at only once."""
    if request.budget is None and not request.looked_at:
        return None
    return Levels(len(recipes) - 1, request.prefer)


def seconds_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How long a trial of each precision took, the median."""
    precisions = dict.fromkeys(o.trial.precision for o in outcomes)
    return {p: median(o.seconds for o in outcomes if o.trial.precision == p) for p in precisions}


def with_budget(
    rows: Sequence[PrecisionRow],
    request: Request,
    recipes: Sequence[str],
    outcomes: Sequence[Outcome],
    places: int,
    end: End | None,
) -> tuple[list[PrecisionRow], Budget | None]:
    """The rows, marked where a precision was dropped, and what the budget was enough for (None without a budget)."""
    if request.budget is None:
        return list(rows), None
    spent = levels(request, recipes) or Levels(1)
    ended = archive.done(outcomes)
    found = stand(rows, spent, request.prefer, seconds_of(ended), places)
    dropped: Mapping[str, Standing] = {s.precision: s for s in found if s.drop is not None}
    marked = [replace(row, status="dropped") if row.precision in dropped else row for row in rows]
    begun = {outcome.trial.precision for outcome in ended}
    not_run = tuple(name for name in recipes if name not in begun)
    known: End = "time" if not_run or any(standing.open for standing in found) else "certain"
    return marked, Budget(request.budget, end or known, tuple(found), not_run)

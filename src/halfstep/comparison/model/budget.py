"""What a comparison with ``--budget`` knows about each precision, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

#: why a precision is not run again: it loses by the objective; its gain is too small; the hardware has no units for
#: it; it is worse; its loss stands still; or another precision that is as good certainly gains more
Drop = Literal["loses", "no_gain", "no_units", "worse", "stands_still", "beaten"]

#: what may be open about a precision: the objective's ratio, or the quality
Question = Literal["gain", "quality"]

#: ``certain``: every verdict is; ``time``: it is used up, or too short for the next look; ``out_of_reach``: the open
#: questions would take more time than is left; ``plan``: the largest plan is used up; ``interrupted``: by Ctrl-C
End = Literal["certain", "time", "out_of_reach", "plan", "interrupted"]


@dataclass(frozen=True)
class Standing:
    """Where a precision stands."""

    OMITTED: ClassVar = ("seconds",)
    precision: str = ""
    open: tuple[Question, ...] = ()  #: the open questions: ``gain``, by the objective, and ``quality``
    drop: Drop | None = None  #: why it is not run again, although it ran well; None if it was not dropped
    pairs: int = 0  #: how many pairs of trials it has, each with one of the baseline
    #: how many pairs would answer all open questions, at the noise seen; None: more than the largest plan
    needed: int | None = None
    #: how many might answer one of them, at the least noise that is plausible; None: all are out of reach
    hope: int | None = None
    #: how long the trials from ``pairs`` to ``needed`` take, the baseline's included
    seconds: float | None = None


@dataclass(frozen=True)
class Budget:
    """The time for a comparison, and what it was enough for."""

    seconds: float = 0.0  #: the whole budget, with what was added on resuming
    end: End = "certain"  #: `certain`, `time`, `out_of_reach`, `plan` or `interrupted`
    #: for each precision but the baseline `open`, `drop`, `pairs`, `needed` and how long they take
    standings: tuple[Standing, ...] = ()
    #: precisions that have not run; until each has, there is no verdict
    not_run: tuple[str, ...] = ()

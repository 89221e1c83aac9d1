"""What a comparison with ``--budget`` has found out about each precision, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

#: why a precision is not run again: it loses by the objective; gains nothing worth having; has no units here that
#: could gain; is worse; its loss stands still; or another one that is as good certainly gains more
Drop = Literal["loses", "no_gain", "no_units", "worse", "stands_still", "beaten"]

#: what may be open of a precision: the objective's ratio, or the quality
Question = Literal["gain", "quality"]

#: ``certain``: every verdict is; ``time``: it is spent, or does not reach the next look; ``out_of_reach``: what is open
#: would take longer than there is; ``plan``: the largest plan is spent; ``interrupted``: by Ctrl-C
End = Literal["certain", "time", "out_of_reach", "plan", "interrupted"]


@dataclass(frozen=True)
class Standing:
    """Where a precision stands.

    Attributes:
        precision: its name.
        open: the questions that are: ``gain``, by the objective, and ``quality``.
        drop: why it was not run again, although it ran well; None where it was.
        pairs: in how many trials, each beside one of the baseline, it has run.
        needed: how many would answer what is open, with the noise as it was seen; None: more than there may be.
        hope: how many might answer one of them, with as little noise as there may be; None: all are out of reach.
        seconds: how long the trials from ``pairs`` to ``needed`` take, the baseline's included.
    """

    OMITTED: ClassVar = ("seconds",)
    precision: str = ""
    open: tuple[Question, ...] = ()
    drop: Drop | None = None
    pairs: int = 0
    needed: int | None = None
    hope: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Budget:
    """The time for a comparison, and what it was enough for."""

    seconds: float = 0.0  #: what was given in all, with what was added on resuming
    end: End = "certain"  #: `certain`, `time`, `out_of_reach`, `plan` or `interrupted`
    #: of each precision but the baseline `open`, `drop`, `pairs`, `needed` and how long they take
    standings: tuple[Standing, ...] = ()
    #: precisions that have not run; until each has, there is no verdict
    not_run: tuple[str, ...] = ()

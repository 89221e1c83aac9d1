"""Trials that other work on the machine disturbed: their speed is no figure of the precision's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from halfstep.comparison.model import Disturbed
from halfstep.record import Record

#: of all processors, what other processes must have taken to be named
OTHERS = 0.1
#: of the time that its threads had work, what they waited for a processor where others took that much
WAITED = 0.1
#: the same where it is not known who took the processors, such as processes that the trial itself started: it counts
#: where the trial waited for so much, and for more than twice as much as the one that waited least
WAITED_ALONE = 0.15


@dataclass(frozen=True)
class Disturbance:
    """What others took during a trial.

    Attributes:
        cores: how many processors there are.
        others: how many of them other processes took, on average.
        waited: the share of the time with work to do in which its threads waited for a processor.
        least: the same of the trial that waited least.
        switches: how often a second a thread lost its processor although it had work to do.
    """

    cores: int
    others: float
    waited: float
    least: float
    switches: float

    @property
    def disturbed(self) -> bool:
        """Whether its step times are those of the machine's other work."""
        by_others = self.others >= OTHERS * self.cores and self.waited >= WAITED
        return by_others or (self.waited >= WAITED_ALONE and self.waited > 2 * self.least + WAITED / 2)

    @property
    def row(self) -> Disturbed:
        """As a trial of the comparison object has it."""
        return Disturbed(self.cores, self.others, self.waited, self.switches)


def disturbances(records: Sequence[Record]) -> list[Disturbance | None]:
    """For each trial what disturbed it; None where nothing did, or that is not known."""
    found = [_measured(record) for record in records]
    least = min((d.waited for d in found if d is not None), default=0.0)
    known = [
        None if d is None else Disturbance(d.cores, d.others, d.waited, least, d.switches) for d in found
    ]
    return [d if d is not None and d.disturbed else None for d in known]


def disturbed(by_others: Disturbance | None, files: Sequence[str]) -> Disturbed | None:
    """What a trial's row tells of it: other work, and files of earlier trials; None where there was neither."""
    row = Disturbed() if by_others is None else by_others.row
    return replace(row, files=tuple(files)) if files else None if by_others is None else row


def _measured(record: Record) -> Disturbance | None:
    raw = record.end.get("load")
    names = (
        "wall_seconds",
        "cores",
        "own_seconds",
        "others_seconds",
        "waited_seconds",
        "involuntary_switches",
    )
    figures = [raw.get(name) for name in names] if isinstance(raw, Mapping) else [None]
    known = [x for x in figures if isinstance(x, int | float) and math.isfinite(x) and x >= 0]
    if len(known) < len(names) or not known[0]:
        return None
    wall, cores, own, others, waited, switches = known
    return Disturbance(
        int(cores), others / wall, waited / (own + waited) if waited else 0.0, 0.0, switches / wall
    )

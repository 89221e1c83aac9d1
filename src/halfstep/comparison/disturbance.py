"""Trials that other work on the machine disturbed: their speed says nothing about the precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from halfstep.comparison.model.trials import Disturbed
from halfstep.record import Record

#: the share of all processors that other processes must have taken to count
OTHERS = 0.1
#: the share of the time with work in which its threads waited for a processor, where others took that much
WAITED = 0.1
#: the same where it is not known who took the processors, such as processes that the trial itself started: it counts
#: where the trial waited for so much, and for more than twice as much as the one that waited least
WAITED_ALONE = 0.15


def disturbances(records: Sequence[Record], siblings: bool = False) -> list[Disturbed | None]:
    """For each trial what other processes took; None where nothing disturbed it, or where that is not known.

    Args:
        records: of the trials.
        siblings: whether other trials ran on the same processors: what others took may be theirs, and is left out.
    """
    found = [_measured(record) for record in records]
    if siblings:
        found = [None if d is None else replace(d, others_cores=0.0) for d in found]
    least = min((d.waited_share or 0.0 for d in found if d is not None), default=0.0)
    return [d if d is not None and _is_disturbed(d, least) else None for d in found]


def _is_disturbed(found: Disturbed, least: float) -> bool:
    """Whether other work on the machine made its step times; ``least``: the share of the trial that waited least."""
    cores, others, waited = found.cores or 1, found.others_cores or 0.0, found.waited_share or 0.0
    by_others = others >= OTHERS * cores and waited >= WAITED
    return by_others or (waited >= WAITED_ALONE and waited > 2 * least + WAITED / 2)


def disturbed(by_others: Disturbed | None, files: Sequence[str]) -> Disturbed | None:
    """What a trial's row tells of it: other work, and files of earlier trials; None where there was neither."""
    return replace(by_others or Disturbed(), files=tuple(files)) if files else by_others


def _measured(record: Record) -> Disturbed | None:
    load = record.end.get("load") or {}
    names = (
        "wall_seconds", "cores", "own_seconds", "others_seconds", "waited_seconds", "involuntary_switches",
    )  # fmt: skip
    known = [load[name] for name in names if name in load]
    if len(known) < len(names) or not known[0]:
        return None
    wall, cores, own, others, waited, switches = known
    return Disturbed(int(cores), others / wall, waited / (own + waited) if waited else 0.0, switches / wall)

"""Trials that other work on the machine disturbed: their speed says nothing about the precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from halfstep.comparison.model.trials import Disturbed
from halfstep.record import Record

#: a trial was disturbed if other processes took at least this share of all processors
OTHERS = 0.1
#: and its threads waited for a processor for at least this share of the time in which they had work
WAITED = 0.1
#: or, whoever took the processors (the trial's own child processes, for example), if they waited for at least this
#: share, and more than twice as much as the trial that waited least
WAITED_ALONE = 0.15


def disturbances(records: Sequence[Record], siblings: bool = False) -> list[Disturbed | None]:
    """For each trial what other processes took; None if nothing disturbed it, or that is not known.

    Args:
        siblings: whether other trials ran on the same processors; what others took may then be theirs, and is ignored.
    """
    found = [_measured(record) for record in records]
    if siblings:
        found = [None if d is None else replace(d, others_cores=0.0) for d in found]
    least = min((d.waited_share or 0.0 for d in found if d is not None), default=0.0)
    return [d if d is not None and _is_disturbed(d, least) else None for d in found]


def _is_disturbed(found: Disturbed, least: float) -> bool:
    """Whether other work changed its step times; ``least`` is the waiting share of the trial that waited least."""
    cores, others, waited = found.cores or 1, found.others_cores or 0.0, found.waited_share or 0.0
    by_others = others >= OTHERS * cores and waited >= WAITED
    return by_others or (waited >= WAITED_ALONE and waited > 2 * least + WAITED / 2)


def disturbed(by_others: Disturbed | None, files: Sequence[str]) -> Disturbed | None:
    """The field of a trial's row: other work, and files of earlier trials; None if there was neither."""
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

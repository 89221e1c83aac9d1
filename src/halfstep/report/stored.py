"""What a row holds in memory, in words: said where something else than fp32 is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halfstep.report import units
from halfstep.report.plain import clean, table
from halfstep.stored import PARTS, Stored


def read(raw: Mapping[str, Any]) -> Stored:
    """The ``stored`` of a trial or a verdict, whatever the object holds."""
    event = {part: {clean(f): size for f, size in held.items()} for part, held in _parts(raw)}
    reasons = {part: clean(why) for part, why in table(raw, "stored_absent").items() if clean(why)}
    return Stored.of({**event, "absent": reasons})


def _parts(raw: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    held = table(raw, "stored")
    return [(part, table(held, part)) for part in PARTS if isinstance(held.get(part), Mapping)]


def words(stored: Stored) -> str:
    """``weights bf16 2.10 GiB + fp32 12.0 MiB``: the parts that are not all fp32; empty where all are."""
    return ", ".join(
        f"{part} {' + '.join(f'{f} {units.bytes_(held[f])}' for f in formats)}"
        for part in PARTS
        if (held := stored.part(part)) and (formats := stored.formats(part)) != ("fp32",)
    )


def why_not(stored: Stored) -> str:
    """Why nothing was measured; empty where something was."""
    return "" if stored.measured else next(iter(stored.absent.values()), "")

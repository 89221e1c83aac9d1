"""In which formats a row stores weights, gradients and optimizer state, in words."""

from __future__ import annotations

from halfstep.record.stored import PARTS, Stored
from halfstep.report import units


def words(stored: Stored) -> str:
    """``weights bf16 2.10 GiB + fp32 12.0 MiB``: the parts that are not all fp32; empty if all are."""
    return ", ".join(
        f"{part} {' + '.join(f'{f} {units.bytes_(held[f])}' for f in formats)}"
        for part in PARTS
        if (held := stored.part(part)) and (formats := stored.formats(part)) not in ((), ("fp32",))
    )


def why_not(stored: Stored) -> str:
    """Why nothing was measured; empty where something was."""
    return "" if stored.measured else next(iter(stored.absent.values()), "")

"""The reasons of a recommendation: what was seen, in words, and the figure that it rests on."""

from __future__ import annotations

from typing import Any

from halfstep.comparison.evidence import RATIOS, Prefer, Row

_NAMES = {"speed_ratio": "speed", "memory_ratio": "memory", "energy_ratio": "energy"}


def reason(text: str, index: int, figure: str) -> dict[str, str]:
    """A reason that rests on a figure of the verdict at ``index``."""
    return {"text": text, "evidence": f"verdicts[{index}].{figure}"}


def failure(row: Row) -> dict[str, str]:
    """Why a precision did not run to its end."""
    index, verdict = row
    return reason(f"{verdict['precision']}: {verdict['status']}, {verdict['reason']}", index, "reason")


def quality(row: Row) -> dict[str, str]:
    """What is said of its quality."""
    index, verdict = row
    return reason(f"{verdict['precision']}: {verdict['quality']['words']}", index, "quality.words")


def ratios(row: Row, first: Prefer = "speed") -> list[dict[str, str]]:
    """The measured ratios of a row, that of the objective first."""
    index, verdict = row
    figures = sorted(RATIOS.values(), key=lambda figure: figure != RATIOS.get(first, "speed_ratio"))
    return [
        reason(f"{verdict['precision']}: {_range(ratio, figure)}", index, figure)
        for figure in figures
        if (ratio := verdict.get(figure)) is not None
    ]


def _range(ratio: dict[str, Any], figure: str) -> str:
    plain = ratio["words"] == "not significant"
    # What is significant has its size in its words.
    lead = f"{ratio['value']:.2f}× the {_NAMES[figure]}, not significant" if plain else ratio["words"]
    if ratio["low"] is None:
        return f"{lead} (no interval)"
    alone = ", within one run: --repeats 3 tells how runs differ" if 1 in ratio.get("runs", ()) else ""
    return f"{lead} (95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}×{alone})"


def units(row: Row) -> list[dict[str, str]]:
    """Whether the hardware computes it in units of another format, from what ran."""
    index, verdict = row
    if "products in fp32 units" not in (verdict["ran_as"] or ""):
        return []
    text = f"{verdict['precision']}: this device has no units for it ({verdict['ran_as']})"
    return [reason(text, index, "ran_as")]

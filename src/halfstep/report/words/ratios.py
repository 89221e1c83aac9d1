"""Ratios to the baseline in words."""

from __future__ import annotations

from halfstep.comparison.model.figures import Ratio
from halfstep.report import units

#: the field of a ratio -> what is compared
OF_RATIO = {"speed_ratio": "speed", "memory_ratio": "memory", "energy_ratio": "energy"}


def times(ratio: float) -> str:
    """``1.43×``; with up to four decimals if the ratio would look like 1: ``1.003×``."""
    return f"{next((said for n in (2, 3) if float(said := f'{ratio:.{n}f}') != 1), f'{ratio:.4f}')}×"


def ends(value: float, low: float, high: float) -> str:
    """``1.10 to 1.31×``: the interval of a ratio; a very wide one is ``<0.06 to >22.00×``."""
    first, last, below, above = units.Ends.of(value, low, high, "×")
    places = next((n for n in (2, 3) if f"{first:.{n}f}" != f"{last:.{n}f}"), 4)
    return f"{below}{first:.{places}f} to {above}{last:.{places}f}×"


def gained(ratio: Ratio, name: str) -> str:
    """``1.90× faster``, ``1.20× slower``, ``0.80× memory``."""
    if name != "speed_ratio":
        return f"{times(ratio.value)} {OF_RATIO[name]}"
    return f"{times(ratio.value)} faster" if ratio.value > 1 else f"{times(1 / ratio.value)} slower"


def ratio_words(ratio: Ratio, name: str) -> str:
    """``1.90× faster`` and so on, ``not significant``, or ``no interval`` for a speed that could not be tested."""
    if ratio.low is None and name == "speed_ratio":
        return "no interval"
    return gained(ratio, name) if ratio.significant or ratio.low is None else "not significant"

"""Ratios to the baseline in words."""

from __future__ import annotations

from halfstep.comparison.model.figures import Ratio

#: a ratio of the comparison -> what it is one of
OF_RATIO = {"speed_ratio": "speed", "memory_ratio": "memory", "energy_ratio": "energy"}


def times(ratio: float) -> str:
    """``1.43×``; of what is not one as many decimals, to four, as show it: ``1.003×``."""
    return f"{next((said for n in (2, 3) if float(said := f'{ratio:.{n}f}') != 1), f'{ratio:.4f}')}×"


def gained(ratio: Ratio, name: str) -> str:
    """``1.90× faster``, ``1.20× slower``, ``0.80× memory``."""
    if name != "speed_ratio":
        return f"{times(ratio.value)} {OF_RATIO[name]}"
    return f"{times(ratio.value)} faster" if ratio.value > 1 else f"{times(1 / ratio.value)} slower"


def ratio_words(ratio: Ratio, name: str) -> str:
    """The same, or ``not significant``; of a speed without an interval nothing was tested."""
    if ratio.low is None and name == "speed_ratio":
        return "no interval"
    return gained(ratio, name) if ratio.significant or ratio.low is None else "not significant"

"""Numbers for an axis: round, evenly spaced, and written so that neighbours differ."""

from __future__ import annotations

import math

#: powers of ten below this are subnormal, and lose digits
_NARROWEST = 1e-300


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """The multiples of a step between ``low`` and ``high``: at most ``most``, by the smallest such step.

    The step is 1, 2 or 5 times a power of ten. Only the lower end, if the range is empty, too narrow or too wide.
    """
    span = high - low
    if not max(8 * math.ulp(max(abs(low), abs(high))), _NARROWEST) < span < math.inf:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if _between(low, high, factor * power) <= most)
    first = math.ceil(low / step)
    return [n * step for n in range(first, first + _between(low, high, step))] or [low]


def _between(low: float, high: float, step: float) -> int:
    """How many multiples of the step lie in the range."""
    return math.floor(high / step) - math.ceil(low / step) + 1


def labels(values: list[float]) -> list[str]:
    """The values, in as few digits as make them differ."""
    if len(values) < 2:
        return [f"{value:.4g}" for value in values]
    step = math.floor(math.log10(values[1] - values[0]) + 1e-9)
    largest = math.floor(math.log10(max(map(abs, values))))
    if step > -5 and largest < 7:
        return [f"{value:,.{max(0, -step)}f}" for value in values]
    return [f"{value:.{max(0, largest - step)}e}" for value in values]

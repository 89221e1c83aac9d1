"""Figures in words: three significant digits, one unit for a value and its spread."""

from __future__ import annotations

import math
from typing import NamedTuple

NOT_FINITE = "not finite"
_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "J": ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")),
    "W": ((1e3, "kW"), (1.0, "W"), (1e-3, "mW")),
    "×": ((1.0, "×"),),
    "": ((1.0, ""),),
}

#: an end of an interval that is further from its value than this factor only says that the interval is wide
WIDE = 20


def seconds(x: float) -> str:
    """Write a time given in seconds: 0.1423 is `142 ms`."""
    return quantity(x, "s")


def bytes_(n: float) -> str:
    """Write a size given in bytes, in binary units: 3 * 2**20 is `3.00 MiB`."""
    return quantity(n, "B")


def joules(x: float) -> str:
    """Write an energy given in joules: 1234 is `1.23 kJ`."""
    return quantity(x, "J")


def ratio(x: float) -> str:
    """Write a ratio: 1.9 is `1.90×`."""
    return quantity(x, "×")


def number(x: float) -> str:
    """Write a figure without a unit: 2.3141 is `2.31`; below 1e-4 and from 1e7 on with an exponent."""
    return quantity(x, "")


def status(name: str) -> str:
    """How a trial ended: `out of memory` for `out_of_memory`."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """Write a share of one: 0.984 is `98.4%`; a part is never rounded away to none or to all."""
    if not math.isfinite(share):
        return NOT_FINITE
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{_fixed(100 * share, 1).removesuffix('.0')}%"


def duration(x: float) -> str:
    """Write a long time given in seconds: 131.2 is `2 min 11 s`; under two minutes as `seconds` does."""
    if not math.isfinite(x) or x < 120:
        return seconds(x)
    minutes, rest = divmod(round(x), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def quantity(x: float, unit: str) -> str:
    """Write x, given in the base unit ("s", "B", "J", "W", "×" or ""), to three significant digits."""
    if not math.isfinite(x):
        return NOT_FINITE
    size, name = scale(x, unit)
    return _join(_digits(x / size, _decimals(x / size, name)), name)


def pm(value: float, low: float | None, high: float | None, unit: str) -> str:
    """Write a value with its interval, all in one unit: `142 ms ± 3 ms`.

    An interval that is not symmetric to the digits shown is written with its ends, `142 ms (139–150 ms)`;
    without an interval the value stands alone.
    """
    if low is None or high is None or not all(map(math.isfinite, (value, low, high))):
        return quantity(value, unit)
    size, name = scale(value, unit)
    ends = Ends.of(value, low, high, unit)
    places = _places(value / size, ends.low / size, ends.high / size, name)
    middle = _join(_digits(value / size, places), name)
    below, above = (_arm(abs(end - value) / size, places) for end in (ends.low, ends.high))
    if below == above:
        return f"{middle} ± {_join(below, name)}"
    return f"{middle} ({_ends(ends, size, places, name)})"


def span(value: float, low: float, high: float, unit: str) -> str:
    """Write the interval alone, in the unit that its value is written in: `139–150 ms`.

    Ends that are the same to the digits shown are written as what they differ by, `± 0 ms` or `± <1 ms`.
    """
    if not all(map(math.isfinite, (value, low, high))):
        return NOT_FINITE
    size, name = scale(value, unit)
    ends = Ends.of(value, low, high, unit)
    return _ends(ends, size, _places(value / size, ends.low / size, ends.high / size, name), name)


class Ends(NamedTuple):
    """The ends of an interval, and what stands before each: ``<`` or ``>`` where the interval goes on."""

    low: float
    high: float
    below: str = ""
    above: str = ""

    @classmethod
    def of(cls, value: float, low: float, high: float, unit: str) -> Ends:
        """No further from the value than :data:`WIDE` times; a figure without a unit may be negative, and keeps its."""
        if not unit:
            return cls(low, high)
        first, last = max(low, value / WIDE), min(high, value * WIDE)
        return cls(first, last, "<" * (low < first), ">" * (high > last))


def _ends(ends: Ends, size: float, places: int, name: str) -> str:
    low, high = ends.low / size, ends.high / size
    first, last = _digits(low, places), _digits(high, places)
    if first == last:
        return f"± {_join(_arm((high - low) / 2, places), name)}"
    first, last = f"{ends.below}{first}", f"{ends.above}{last}"
    # A minus, an exponent or a mark beside a dash misleads.
    dash = " to " if set("-<>") & set(first + last) else "–"
    return _join(f"{first}{dash}{last}", name)


def scale(x: float, unit: str) -> tuple[float, str]:
    """The largest unit in which x still rounds to one or more: 1023.9 MiB is 1.00 GiB."""
    scales = _SCALES[unit]
    if x == 0:
        return next(scale for scale in scales if scale[0] == 1)
    return next((scale for scale in scales if abs(_three(x / scale[0])) >= 1), scales[-1])


def _three(x: float) -> float:
    return float(f"{x:.2e}")


def _decimals(x: float, name: str) -> int:
    """Decimals for three significant digits; bytes and zero are whole, -1 asks for an exponent."""
    rounded = abs(_three(x))
    if rounded == 0 or name == "B":
        return 0
    if not 1e-4 <= rounded < 1e7:
        return -1
    return max(0, 2 - math.floor(math.log10(rounded)))


def _places(value: float, low: float, high: float, name: str) -> int:
    """Decimals that show one or two digits of the interval's half width, at most two more than the value's."""
    places = _decimals(value, name)
    half = (high - low) / 2
    if places < 0 or half <= 0 or name == "B":
        return places
    first = -math.floor(math.log10(half))
    shown = max(0, min(max(places, first), places + 2, first + 1))
    if 0 < low < 10.0**-shown / 2:  # a ratio of 0.04 is not one of 0.0
        return min(-math.floor(math.log10(low)), places + 2)
    return shown


def _arm(x: float, places: int) -> str:
    """One side of ±: a side that is there is never written as zero."""
    if places < 0:
        return _digits(x, places)
    smallest = 10.0**-places
    return f"<{_fixed(smallest, places)}" if 0 < x < smallest / 2 else _digits(x, places)


def _digits(x: float, places: int) -> str:
    if x == 0:
        return "0"
    return f"{x:.2e}" if places < 0 else _fixed(x, places)


def _fixed(x: float, places: int) -> str:
    written = f"{x:.{places}f}"
    return written.removeprefix("-") if not written.strip("-0.") else written


def _join(digits: str, name: str) -> str:
    return f"{digits}{name}" if name in ("×", "") else f"{digits} {name}"

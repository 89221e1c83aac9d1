"""What a format does to numbers whose exponents were counted, at any loss scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halfstep.diagnosis.evidence import Numbers, Rounding
from halfstep.precisions.formats import Format, get_scalar

_ZERO, _NOT_FINITE = -127, 128


@dataclass(frozen=True)
class Shares:
    """Shares of the numbers that are not zero, from 0 to 1."""

    flushed: float  #: become zero
    subnormal: float  #: keep fewer significant bits
    overflowing: float  #: lie beyond the largest number
    lost: float  #: of the sum of magnitudes, what the flushed ones held: what a sum or a norm would miss
    #: powers of two from the largest number here to the format's largest; None where all are zero
    headroom: float | None


def shares(numbers: Numbers, format: str, scale: float = 1.0) -> Shares:
    """What ``format`` does to ``numbers * scale``.

    Counts are exact. Half the smallest subnormal, the lowest number of its bin [2^e, 2^(e+1)), becomes zero (a tie, to
    even). Numbers of the highest bin overflow if they round up out of it. Magnitudes are those of the bins' lower ends.
    """
    row = get_scalar(format)
    shift = round(math.log2(scale))
    bins = [(e + shift, count) for e, count in numbers.counts.items() if _ZERO < e < _NOT_FINITE]
    whole = sum(count for _, count in bins) or 1
    lowest = row.min_exponent - row.fraction_bits - 1
    ties = numbers.edges.get("powers", {}).get(lowest - shift, 0)
    flushed = [*((e, count) for e, count in bins if e < lowest), (lowest, ties)]
    over = numbers.edges.get(row.name, {}).get(row.max_exponent - shift, 0)
    weight = sum(count * 2.0**e for e, count in bins) or 1.0
    return Shares(
        flushed=sum(count for _, count in flushed) / whole,
        subnormal=(sum(count for e, count in bins if lowest <= e < row.min_exponent) - ties) / whole,
        overflowing=(sum(count for e, count in bins if e > row.max_exponent) + over) / whole,
        lost=sum(count * 2.0**e for e, count in flushed) / weight,
        headroom=math.log2(row.largest) - math.log2(numbers.largest * scale) if numbers.largest else None,
    )


def counted(rounding: Rounding) -> Shares:
    """What an emulated format was seen to do to operands; its scales move with them, so there is no headroom."""
    numbers, whole = rounding.nonzero or 1, rounding.magnitude or 1.0
    return Shares(
        flushed=rounding.flushed / numbers,
        subnormal=rounding.subnormal / numbers,
        overflowing=rounding.overflowing / numbers,
        lost=rounding.lost / whole,
        headroom=None,
    )


#: the share of the sum of magnitudes that a loss scale may lose
_LOST = 0.01


def serving(numbers: Numbers, format: str) -> tuple[float, float] | None:
    """The loss scales that serve these gradients, lowest and highest: powers of two.

    The highest keeps the largest gradient at or below the format's largest number; the lowest loses at most
    1 % of the sum of magnitudes. None where all gradients are zero; the first is above the second where no
    one scale does both.
    """
    if not numbers.largest:
        return None
    row: Format = get_scalar(format)
    highest = math.floor(math.log2(row.largest) - math.log2(numbers.largest))
    lowest = next(k for k in range(-24, 400) if shares(numbers, format, 2.0**k).lost <= _LOST)
    return 2.0**lowest, 2.0**highest

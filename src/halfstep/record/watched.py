"""What a watch counts, and writes as fields of a record's ``watch`` events."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class NumberCounts:
    """Numbers of one kind in one layer."""

    #: how many by binary exponent: e for [2^e, 2^(e+1)), -127 for zeros, 128 for what is not finite
    counts: dict[int, int] = field(default_factory=dict)
    largest: float = 0.0  #: the largest finite magnitude
    elements: int = 0  #: how many there were; ``counted`` of them were looked at
    counted: int = 0
    dtype: str = ""  #: the format in which they are stored
    scale: float = 1.0  #: the loss scale that was on them, already taken off
    #: numbers among ``counts`` for which the exponent alone does not decide how they round: powers of two (``powers``),
    #: and by a format's name those that it rounds up to the next power of two. With ``counts`` they say exactly what
    #: 16-bit formats flush to zero, and what overflows
    edges: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass
class OperandCounts:
    """What a format does to the operands of one kind in one layer."""

    format: str = ""  #: what they were rounded to
    nonzero: int = 0  #: how many finite numbers were not zero
    flushed: int = 0  #: how many of these became zero
    #: how many of these lay below the format's smallest normal number and did not become zero
    subnormal: int = 0
    overflowing: int = 0  #: how many of these lay beyond its largest number, and were clamped to it
    magnitude: float = 0.0  #: the sum of magnitudes
    lost: float = 0.0  #: the part of it that the flushed numbers held
    clamped: float = 0.0  #: the part of it that lay above the format's largest number
    #: how many vectors had a number that is not zero; a vector is one factor of a dot product
    vectors: int = 0
    emptied: float = 0.0  #: the sum over these vectors of the share of its magnitude that was flushed

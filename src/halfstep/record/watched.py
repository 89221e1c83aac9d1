"""What a watch counts, and writes as fields of a record's ``watch`` events."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class NumberCounts:
    """Numbers of one kind in one layer.

    Attributes:
        counts: how many by binary exponent: e for [2^e, 2^(e+1)), -127 for zeros, 128 for what is not finite.
        largest: the largest finite magnitude.
        elements: how many there were; ``counted`` of them were looked at.
        dtype: the format in which they are stored.
        scale: the loss scale that was on them, already taken off.
        edges: numbers among ``counts`` for which the exponent alone does not decide how they round: powers of two
            (``powers``), and by a format's name those that it rounds up to the next power of two. With ``counts`` they
            say exactly what 16-bit formats flush to zero, and what overflows.
    """

    counts: dict[int, int] = field(default_factory=dict)
    largest: float = 0.0
    elements: int = 0
    counted: int = 0
    dtype: str = ""
    scale: float = 1.0
    edges: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass
class OperandCounts:
    """What a format does to the operands of one kind in one layer.

    Attributes:
        format: what they were rounded to.
        nonzero: how many finite numbers were not zero.
        flushed: how many of these became zero.
        subnormal: how many of these lay below the format's smallest normal number and did not become zero.
        overflowing: how many of these lay beyond its largest number, and were clamped to it.
        magnitude: the sum of magnitudes.
        lost: the part of it that the flushed numbers held.
        clamped: the part of it that lay above the format's largest number.
        vectors: how many vectors had a number that is not zero; a vector is one factor of a dot product.
        emptied: the sum over these vectors of the share of its magnitude that was flushed.
    """

    format: str = ""
    nonzero: int = 0
    flushed: int = 0
    subnormal: int = 0
    overflowing: int = 0
    magnitude: float = 0.0
    lost: float = 0.0
    clamped: float = 0.0
    vectors: int = 0
    emptied: float = 0.0

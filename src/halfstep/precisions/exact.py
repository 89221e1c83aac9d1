"""Rounding in exact arithmetic: slow, readable, and what every faster route is tested against.

All formats here are part of fp64, so a rounded number is a Python float and loses nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from halfstep.errors import UsageError
from halfstep.precisions.formats import Format, Overflow, get_scalar

Mode = Literal["nearest_even", "toward_zero", "stochastic"]
MODES: tuple[Mode, ...] = ("nearest_even", "toward_zero", "stochastic")


def check_mode(mode: str) -> None:
    """Raise a :class:`UsageError` that lists the modes if ``mode`` is none of them."""
    if mode not in MODES:
        raise UsageError(f"Unknown rounding mode {mode!r}; choose one of {', '.join(MODES)}.")


def round_exact(
    x: Fraction | float,
    format: str | Format,
    mode: str = "nearest_even",
    *,
    overflow: str | None = None,
    random: Fraction | float = 0,
) -> float:
    """Round a number to a format.

    With the quantum q = 2^(max(floor(log2|x|), min_exponent) - fraction_bits) and |x| = (n + d) q, n whole and
    0 <= d < 1, the result is n q or (n + 1) q, with x's sign:

        nearest_even   n + 1 where d > 1/2, or d = 1/2 and n is odd
        toward_zero    n
        stochastic     n + 1 where d + random >= 1; unbiased for random uniform in [0, 1)

    A result above the largest number overflows, as if the exponent range were unbounded; ``toward_zero`` gives the
    largest instead. NaN stays NaN, also for formats that cannot store it (in a block format the block's scale
    says NaN). Zeros keep their sign. Infinity stays where the policy is ``infinity``. A scale (E8M0) has
    neither sign nor zero: negative numbers become NaN, and those below the smallest become the smallest.

    Args:
        overflow: ``saturate``, ``infinity`` or ``nan`` (:meth:`Format.overflow_policy`); None: the format's own.
        random: the random fraction, in [0, 1), for ``stochastic``.

    Raises:
        UsageError: unknown mode or policy, a block format, or a random fraction out of range.

    Example: ``round_exact(0.1, "fp16")`` is 0.0999755859375, ``round_exact(65520, "fp16")`` is infinity.
    """
    check_mode(mode)
    fmt = get_scalar(format)
    policy = fmt.overflow_policy(overflow)
    if not 0 <= random < 1:
        raise UsageError(f"random is {random}; it must be at least 0 and below 1.")
    if isinstance(x, float) and math.isnan(x):
        return math.nan
    sign = -1.0 if x < 0 or (isinstance(x, float) and math.copysign(1.0, x) < 0) else 1.0
    if fmt.scale:
        if x < 0:
            return math.nan
        sign = 1.0
    if isinstance(x, float) and math.isinf(x):
        return math.copysign(_overflowed(fmt, policy), sign)
    magnitude = _round_magnitude(abs(Fraction(x)), fmt, mode, Fraction(random))
    if magnitude > Fraction(fmt.largest):
        return math.copysign(fmt.largest if mode == "toward_zero" else _overflowed(fmt, policy), sign)
    return math.copysign(float(magnitude), sign)


def _round_magnitude(x: Fraction, fmt: Format, mode: str, random: Fraction) -> Fraction:
    exponent = max(floor_log2(x), fmt.min_exponent) if x else fmt.min_exponent
    quantum = Fraction(2) ** (exponent - fmt.fraction_bits)
    n = math.floor(x / quantum)
    d = x / quantum - n
    if mode == "nearest_even":
        n += d > Fraction(1, 2) or (d == Fraction(1, 2) and n % 2 == 1)
    elif mode == "stochastic":
        n += d + random >= 1
    return max(n, int(fmt.scale)) * quantum


def floor_log2(x: Fraction) -> int:
    """The largest e with 2^e <= x, for x > 0."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def _overflowed(fmt: Format, policy: Overflow) -> float:
    return {"saturate": fmt.largest, "infinity": math.inf, "nan": math.nan}[policy]

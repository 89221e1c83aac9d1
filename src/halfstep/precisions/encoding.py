"""The bits of a number: encode and decode, exact for every format that has single numbers."""

from __future__ import annotations

import math

from halfstep.errors import UsageError
from halfstep.precisions.formats import Format


def decode(code: int, format: Format) -> float:
    """The number that a bit pattern stands for; exact, as every format is part of fp64.

    Raises:
        UsageError: the pattern is wider than the format.
    """
    if not 0 <= code < 1 << format.bits:
        last = (1 << format.bits) - 1
        raise UsageError(f"{code} is not a bit pattern of {format.name}; give a number from 0 to {last:#x}.")
    width = format.exponent_bits + format.fraction_bits
    sign, magnitude = (-1.0 if code >> width else 1.0), code & ((1 << width) - 1)
    if magnitude > format.largest_code:
        infinite = format.infinities and magnitude == format.largest_code + 1
        return sign * math.inf if infinite else math.nan
    field, fraction = divmod(magnitude, 1 << format.fraction_bits)
    if field == 0 and not format.scale:
        return sign * math.ldexp(fraction, format.min_exponent - format.fraction_bits)
    return sign * math.ldexp(
        (1 << format.fraction_bits) + fraction, field - format.bias - format.fraction_bits
    )


def encode(value: float, format: Format) -> int:
    """The bit pattern of a number of the format; of all NaNs the positive quiet one.

    Raises:
        UsageError: the value is not in the format; round it first (:func:`halfstep.precisions.exact.round_exact`).
    """
    sign = 1 << (format.bits - 1) if math.copysign(1.0, value) < 0 and not format.scale else 0
    special = _encode_special(value, format)
    if special is not None:
        return special if math.isnan(value) else sign | special
    if not math.isfinite(value) or abs(value) > format.largest or (format.scale and value <= 0):
        raise _not_in(format, value)
    exponent = max(math.frexp(value)[1] - 1, format.min_exponent)
    significand = math.ldexp(abs(value), format.fraction_bits - exponent)
    if not significand.is_integer() or not significand:
        raise _not_in(format, value)
    # a subnormal has no leading 1: taking it off lowers the exponent field from 1 to 0
    field = exponent - format.min_exponent + (0 if format.scale else 1)
    return sign | (field << format.fraction_bits) + int(significand) - (1 << format.fraction_bits)


def _encode_special(value: float, format: Format) -> int | None:
    """The magnitude bits of NaN, infinity and zero, where the format has them."""
    if math.isnan(value) and format.nan == "ieee":
        return format.largest_code + 1 + (1 << (format.fraction_bits - 1))
    if math.isnan(value) and format.nan == "all_ones":
        return format.largest_code + 1
    if math.isinf(value) and format.infinities:
        return format.largest_code + 1
    return 0 if value == 0 and not format.scale else None


def _not_in(format: Format, value: float) -> UsageError:
    return UsageError(f"{value!r} is not a number of {format.name}; round it to the format first.")

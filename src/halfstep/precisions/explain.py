"""What a number becomes in a format, in bits and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from halfstep.precisions.encoding import encode
from halfstep.precisions.exact import round_exact
from halfstep.precisions.exact_blocks import round_tensor_exact
from halfstep.precisions.formats import BlockFormat, Format

Outcome = Literal["exact", "rounded", "subnormal", "flushed to zero", "overflow", "not representable"]


@dataclass(frozen=True)
class Rounded:
    """What a number became in a format."""

    value: float  #: the number in the format (in a block format: element times scale)
    #: its bit pattern (in a block format: the element's); None where the format has none for it
    code: int | None
    outcome: Outcome  #: one word or two for what happened
    relative_error: float | None  #: (value - x) / x; None where x is zero or either is not finite
    scale: float | None = None  #: the block's scale, None outside block formats


def explain(x: Fraction | float, format: Format | BlockFormat) -> Rounded:
    """Round to nearest even, by the format's own overflow policy, and say what happened.

    In a block format the number is taken to be alone in its tensor, so it sets the scales.
    """
    if isinstance(format, BlockFormat):
        return _explain_block(x, format)
    value = round_exact(x, format)
    return Rounded(value, _code(value, format), _outcome(x, value, format), _relative_error(x, value))


def _explain_block(x: Fraction | float, format: BlockFormat) -> Rounded:
    block = round_tensor_exact([round_exact(x, "fp64")], format)
    value, element, scale = block.values[0], block.elements[0], block.scales[0]
    # what the element was rounded from; infinity and NaN make the scale NaN, and so the element
    scaled = Fraction(x) / Fraction(scale) / Fraction(block.tensor_scale) if math.isfinite(scale) else x
    outcome: Outcome = "exact" if value == x else _outcome(scaled, element, format.element)
    return Rounded(value, _code(element, format.element), outcome, _relative_error(x, value), scale)


def _code(value: float, format: Format) -> int | None:
    return None if math.isnan(value) and format.nan == "none" else encode(value, format)


def _outcome(x: Fraction | float, value: float, format: Format) -> Outcome:
    if math.isnan(value):
        if isinstance(x, float) and math.isnan(x):
            return "not representable" if format.nan == "none" else "exact"
        return "not representable" if format.scale and x < 0 else "overflow"
    if math.isinf(value):
        return "exact" if x == value else "overflow"
    magnitude = abs(value)
    if magnitude == format.largest and _overflows(x, format):
        return "overflow"
    if value == 0 and x != 0:
        return "flushed to zero"
    if 0 < magnitude < format.smallest_normal:
        return "subnormal"
    return "exact" if x == value else "rounded"


def _overflows(x: Fraction | float, format: Format) -> bool:
    threshold = format.overflow_threshold
    return bool(
        x > threshold or x < -threshold or (format.overflows_at_threshold and x in (threshold, -threshold))
    )


def _relative_error(x: Fraction | float, value: float) -> float | None:
    # a Fraction may lie beyond fp64, so it must not become a float here
    if (isinstance(x, float) and not math.isfinite(x)) or not math.isfinite(value) or x == 0:
        return None
    return round_exact((Fraction(value) - Fraction(x)) / Fraction(x), "fp64")

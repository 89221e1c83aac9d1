"""The number formats as rows; every other figure of a format is derived, with its formula.

A floating-point format with sign s, exponent field E and fraction f (``fraction_bits`` wide) stores

    normal      (-1)^s * 2^(E - bias)     * (1 + f / 2^fraction_bits)
    subnormal   (-1)^s * 2^(1 - bias)     * (f / 2^fraction_bits)        where E = 0

Sources: IEEE 754-2019; OCP 8-bit Floating Point (OFP8) v1.0; OCP Microscaling (MX) v1.0; NVIDIA PTX ISA (tf32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

from halfstep.errors import UsageError

Overflow = Literal["saturate", "infinity", "nan"]
OVERFLOWS: tuple[Overflow, ...] = ("saturate", "infinity", "nan")


@dataclass(frozen=True)
class Format:
    """How one number is stored."""

    name: str  #: halfstep's name
    standard: str  #: the standard's name
    exponent_bits: int  #: width of the exponent field
    significand_bits: int  #: p, the significant bits of a normal number, its leading 1 included
    bias: int  #: what is subtracted from the exponent field
    #: which codes are NaN: ``ieee`` (exponent all ones; fraction 0 is infinity), ``all_ones`` (exponent and fraction
    #: all ones, no infinity) or ``none``
    nan: Literal["ieee", "all_ones", "none"] = "ieee"
    #: what becomes of numbers beyond the largest unless the caller says otherwise
    overflow: Overflow = "infinity"
    scale: bool = False  #: a scale holds powers of two only: no sign, no zero, no subnormals

    @property
    def infinities(self) -> bool:
        """Whether the format has infinities: those with IEEE's NaN do."""
        return self.nan == "ieee"

    @property
    def fraction_bits(self) -> int:
        """Stored bits of the significand: p - 1."""
        return self.significand_bits - 1

    @property
    def bits(self) -> int:
        """Width of a number: 1 for the sign (scales have none) + exponent_bits + fraction_bits."""
        return int(not self.scale) + self.exponent_bits + self.fraction_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number: 1 - bias; for scales, whose field 0 is normal, -bias."""
        return -self.bias if self.scale else 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest number: floor(log2(largest))."""
        return (self.largest_code >> self.fraction_bits) - self.bias

    @property
    def largest(self) -> float:
        """Largest finite number, what :attr:`largest_code` stands for; fp16: (2 - 2^-10) * 2^15 = 65504."""
        significand = (1 << self.fraction_bits) + self.largest_code % (1 << self.fraction_bits)
        return math.ldexp(significand, self.max_exponent - self.fraction_bits)

    @property
    def smallest_normal(self) -> float:
        """Smallest number with all p significant bits: 2^min_exponent."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number: 2^(min_exponent - fraction_bits)."""
        return math.ldexp(1.0, self.min_exponent - self.fraction_bits)

    @property
    def machine_epsilon(self) -> float:
        """Distance from 1 to the next number: 2^(1 - p)."""
        return math.ldexp(1.0, 1 - self.significand_bits)

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding a number in the normal range to nearest: 2^-p."""
        return math.ldexp(1.0, -self.significand_bits)

    @property
    def decimal_digits(self) -> int:
        """Decimal digits that always survive a round trip: floor((p - 1) * log10(2))."""
        return math.floor(self.fraction_bits * math.log10(2))

    @property
    def overflow_threshold(self) -> Fraction:
        """Magnitude where rounding to nearest leaves the format: largest + half its spacing.

        At the threshold itself, a tie, the number overflows where the largest significand is odd (fp16: from
        65520 on) and rounds down where it is even (E4M3: 464 becomes 448); see :attr:`overflows_at_threshold`.
        """
        return Fraction(self.largest) + Fraction(2) ** (self.max_exponent - self.fraction_bits) / 2

    @property
    def overflows_at_threshold(self) -> bool:
        """Whether the overflow threshold itself overflows: the largest significand is odd."""
        return bool(self.largest_code & 1) or self.fraction_bits == 0

    @property
    def flush_threshold(self) -> Fraction:
        """Magnitude up to which, inclusive, rounding to nearest gives zero: smallest_subnormal / 2.

        Zero where the format has no zero (scales).
        """
        return Fraction(0) if self.scale else Fraction(self.smallest_subnormal) / 2

    @property
    def largest_code(self) -> int:
        """Pattern of the largest number: below infinity (``ieee``), below NaN (``all_ones``), or all ones."""
        codes = 1 << (self.exponent_bits + self.fraction_bits)
        below_top = {"ieee": (1 << self.fraction_bits) + 1, "all_ones": 2, "none": 1}
        return codes - below_top[self.nan]

    def overflow_policy(self, overflow: str | None) -> Overflow:
        """The policy to use: the one given, or the format's own where None is given.

        ``saturate``: everything beyond the largest, infinity included, becomes the largest, with its sign.
        ``infinity``, ``nan``: it becomes infinity, NaN.

        Raises:
            UsageError: no such policy, or the format lacks infinities or NaN.
        """
        if overflow is None:
            return self.overflow
        if overflow not in OVERFLOWS:
            raise UsageError(f"Unknown overflow policy {overflow!r}; choose one of {', '.join(OVERFLOWS)}.")
        if overflow == "infinity" and not self.infinities:
            raise UsageError(
                f"{self.name} has no infinity, so overflow='infinity' cannot be; use 'saturate'."
            )
        if overflow == "nan" and self.nan == "none":
            raise UsageError(f"{self.name} has no NaN, so overflow='nan' cannot be; use 'saturate'.")
        return overflow


@dataclass(frozen=True)
class BlockFormat:
    """Numbers that share a scale: value = element * scale of its block (* scale of the tensor)."""

    name: str  #: halfstep's name
    standard: str  #: the standard's name
    element: Format  #: the format of one element
    scale: Format  #: the format of a block's scale
    block: int  #: elements that share a scale
    tensor_scale: Format | None = None  #: the format of a second scale, one for the whole tensor, or None

    @property
    def bits(self) -> float:
        """Bits per number: element.bits + scale.bits / block (the one tensor scale left out)."""
        return self.element.bits + self.scale.bits / self.block

    @property
    def largest(self) -> float:
        """Largest number: element.largest * scale.largest (times the tensor's scale, where there is one)."""
        return self.element.largest * self.scale.largest

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number: element.smallest_subnormal * scale.smallest_subnormal."""
        return self.element.smallest_subnormal * self.scale.smallest_subnormal


_FP64 = Format("fp64", "IEEE 754 binary64", 11, 53, 1023)
_FP32 = Format("fp32", "IEEE 754 binary32", 8, 24, 127)
_TF32 = Format("tf32", "NVIDIA TF32", 8, 11, 127)
_BF16 = Format("bf16", "bfloat16", 8, 8, 127)
_FP16 = Format("fp16", "IEEE 754 binary16", 5, 11, 15)
_E5M2 = Format("fp8_e5m2", "OCP OFP8 E5M2", 5, 3, 15)
_E4M3 = Format("fp8_e4m3", "OCP OFP8 E4M3", 4, 4, 7, "all_ones", "saturate")
_E3M2 = Format("fp6_e3m2", "OCP MX FP6 E3M2", 3, 3, 3, "none", "saturate")
_E2M3 = Format("fp6_e2m3", "OCP MX FP6 E2M3", 2, 4, 1, "none", "saturate")
_E2M1 = Format("fp4_e2m1", "OCP MX FP4 E2M1", 2, 2, 1, "none", "saturate")
_E8M0 = Format("e8m0", "OCP MX E8M0 scale", 8, 1, 127, "all_ones", "nan", scale=True)

_SCALARS = (_FP64, _FP32, _TF32, _BF16, _FP16, _E5M2, _E4M3, _E3M2, _E2M3, _E2M1, _E8M0)
_BLOCKS = (
    BlockFormat("mxfp8_e5m2", "OCP MXFP8 E5M2", _E5M2, _E8M0, 32),
    BlockFormat("mxfp8_e4m3", "OCP MXFP8 E4M3", _E4M3, _E8M0, 32),
    BlockFormat("mxfp6_e3m2", "OCP MXFP6 E3M2", _E3M2, _E8M0, 32),
    BlockFormat("mxfp6_e2m3", "OCP MXFP6 E2M3", _E2M3, _E8M0, 32),
    BlockFormat("mxfp4", "OCP MXFP4 E2M1", _E2M1, _E8M0, 32),
    BlockFormat("nvfp4", "NVIDIA NVFP4", _E2M1, _E4M3, 16, _FP32),
)

#: every format by its name, the widest first
FORMATS: Mapping[str, Format | BlockFormat] = MappingProxyType(
    {row.name: row for row in (*_SCALARS, *_BLOCKS)}
)

#: other names, written in lower case without ``torch.`` and with ``_`` for ``-``
SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("float64", "double", "binary64"), "fp64"),
        **dict.fromkeys(("float32", "float", "single", "binary32"), "fp32"),
        **dict.fromkeys(("tensorfloat32", "tfloat32"), "tf32"),
        **dict.fromkeys(("bfloat16", "bfloat"), "bf16"),
        **dict.fromkeys(("float16", "half", "binary16"), "fp16"),
        **dict.fromkeys(("e5m2", "float8_e5m2"), "fp8_e5m2"),
        **dict.fromkeys(("e4m3", "e4m3fn", "float8_e4m3fn", "float8_e4m3"), "fp8_e4m3"),
        **dict.fromkeys(("e3m2", "float6_e3m2fn"), "fp6_e3m2"),
        **dict.fromkeys(("e2m3", "float6_e2m3fn"), "fp6_e2m3"),
        **dict.fromkeys(("fp4", "e2m1", "float4_e2m1fn"), "fp4_e2m1"),
        **dict.fromkeys(("float8_e8m0fnu",), "e8m0"),
        **dict.fromkeys(("mxfp8",), "mxfp8_e4m3"),
        **dict.fromkeys(("mxfp6",), "mxfp6_e2m3"),
        **dict.fromkeys(("mxfp4_e2m1",), "mxfp4"),
    }
)


def get(name: str) -> Format | BlockFormat:
    """The format of a name or synonym, e.g. ``fp16``, ``float16``, ``half``, ``torch.float8_e4m3fn``.

    Raises:
        UsageError: no such format; the message lists those that exist.
    """
    key = name.strip().lower().removeprefix("torch.").replace("-", "_")
    row = FORMATS.get(SYNONYMS.get(key, key))
    if row is None:
        raise UsageError(f"Unknown format {name!r}; choose one of {', '.join(FORMATS)}.")
    return row


def get_scalar(format: str | Format | BlockFormat) -> Format:
    """The format of single numbers of that name.

    Raises:
        UsageError: an unknown name, or a block format, whose numbers cannot be rounded one by one.
    """
    row = get(format) if isinstance(format, str) else format
    if isinstance(row, BlockFormat):
        raise UsageError(f"{row.name} is a block format, its numbers share scales; use round_blocks for it.")
    return row


def get_block(format: str | Format | BlockFormat) -> BlockFormat:
    """The block format of that name. Raises UsageError for an unknown name, or a format without blocks."""
    row = get(format) if isinstance(format, str) else format
    if isinstance(row, Format):
        known = ", ".join(block.name for block in _BLOCKS)
        raise UsageError(f"{row.name} is not a block format; choose one of {known}, or use round_to.")
    return row

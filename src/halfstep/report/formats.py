"""The formats as a table, and what numbers become in them, at any width of the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from halfstep.precisions.explain import Rounded, explain
from halfstep.precisions.formats import FORMATS, BlockFormat, Format

_GAP = 2
_SIGN, _EXPONENT, _SIGNIFICAND = "red", "green", "cyan"
#: formats with more bits are shown in hexadecimal; the first of these that fits the terminal is used
_PICTURED = (64, 32, 19, 16, 0)
_OUTCOMES = {
    "exact": "green",
    "rounded": "",
    "subnormal": "yellow",
    "flushed to zero": "red",
    "overflow": "red",
    "not representable": "red",
}


@dataclass(frozen=True)
class _Column:
    """A column; if the terminal is too narrow, columns of the highest rank are left out first."""

    title: str
    rank: int
    cells: list[Text]
    right: bool = False

    @property
    def width(self) -> int:
        return max(cell_len(self.title), *(cell_len(cell.plain) for cell in self.cells))


@dataclass(frozen=True)
class FormatTable:
    """Every format, a row each."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        scalars = [row for row in FORMATS.values() if isinstance(row, Format)]
        blocks = [row for row in FORMATS.values() if isinstance(row, BlockFormat)]
        yield _table(_scalar_columns(scalars), options.max_width)
        yield Text()
        yield _table(_block_columns(blocks), options.max_width)
        yield Text()
        yield Text(
            "Precision bf16-lean stores a weight as bf16 and a 16-bit remainder: together fp32, bit for bit. Precision "
            "bf16-sr stores bf16 alone, and rounds up or down at random: the mean of many roundings is the number.",
            "dim",
        )
        yield Text("What a number becomes in each:  halfstep formats 0.1 65520 2^-24", "dim")


@dataclass(frozen=True)
class ValueTable:
    """What one number becomes in each format."""

    given: str  #: the number as the user wrote it
    x: Fraction | float  #: the number

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = list(FORMATS.values())
        results = [explain(self.x, row) for row in rows]
        decimal = _decimal(self.x)
        yield Text.assemble((self.given, "bold"), "" if decimal in ("", self.given) else f"  about {decimal}")
        yield _table(_value_columns(rows, results, options.max_width), options.max_width)


def legend() -> Text:
    """Which colour is which part of a number."""
    parts = (("sign", _SIGN), " ", ("exponent", _EXPONENT), " ", ("significand", _SIGNIFICAND))
    return Text.assemble("Bits: ", *parts, ". Block formats: the element, alone in its block.", style="dim")


def _decimal(x: Fraction | float) -> str:
    """Nine significant digits; empty for what lies beyond fp64."""
    try:
        return f"{float(x):.9g}" if float(x) or not x else ""
    except OverflowError:
        return ""


def _power(x: float | Fraction) -> str:
    """2^k for a power of two, else the number."""
    mantissa, exponent = math.frexp(x) if math.isfinite(x) else (0.0, 0)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{float(x):.6g}"


def _scalar_columns(rows: Sequence[Format]) -> list[_Column]:
    return [
        _column("format", 0, [row.name for row in rows]),
        _column("bits", 0, [row.bits for row in rows], right=True),
        _column("exponent", 2, [row.exponent_bits for row in rows], right=True),
        _column("significand", 2, [row.significand_bits for row in rows], right=True),
        _column("largest", 0, [f"{row.largest:.6g}" for row in rows], right=True),
        _column("smallest normal", 3, [_power(row.smallest_normal) for row in rows], right=True),
        _column("smallest", 1, [_power(row.smallest_subnormal) for row in rows], right=True),
        _column("roundoff", 1, [_power(row.unit_roundoff) for row in rows], right=True),
        _column("digits", 4, [row.decimal_digits for row in rows], right=True),
        _column("overflow to", 5, [row.overflow for row in rows]),
        _column("standard", 6, [row.standard for row in rows]),
    ]


def _block_columns(rows: Sequence[BlockFormat]) -> list[_Column]:
    tensor = [row.tensor_scale.name if row.tensor_scale else "none" for row in rows]
    return [
        _column("block format", 0, [row.name for row in rows]),
        _column("bits", 0, [f"{row.bits:g}" for row in rows], right=True),
        _column("block", 0, [row.block for row in rows], right=True),
        _column("element", 1, [row.element.name for row in rows]),
        _column("scale", 1, [row.scale.name for row in rows]),
        _column("tensor's scale", 2, tensor),
        _column("standard", 3, [row.standard for row in rows]),
    ]


def _value_columns(
    rows: Sequence[Format | BlockFormat], results: Sequence[Rounded], width: int
) -> list[_Column]:
    errors = ["" if t.relative_error is None else f"{t.relative_error:+.2g}" for t in results]
    elements = [row.element if isinstance(row, BlockFormat) else row for row in rows]
    scales = ["" if t.scale is None else _power(t.scale) for t in results]
    outcomes = [Text(t.outcome, _OUTCOMES[t.outcome]) for t in results]
    columns = [
        _column("format", 0, [row.name for row in rows]),
        _column("becomes", 0, [f"{t.value:.9g}" for t in results], right=True),
        _column("error", 1, ["0" if error in ("+0", "-0") else error for error in errors], right=True),
        _Column("", 0, outcomes),
        _column("scale", 4, scales, right=True),
    ]
    for longest in _PICTURED:
        bits = _Column("bits", 3, [_bits(t.code, e, longest) for t, e in zip(results, elements, strict=True)])
        if _width([*columns, bits]) <= width:
            break
    return [*columns, bits]


def _bits(code: int | None, format: Format, longest: int) -> Text:
    """The bits of sign, exponent and significand, coloured; in hexadecimal if there are more than ``longest``."""
    if code is None:
        return Text("")
    if format.bits > longest:
        return Text(f"{code:#0{2 + -(-format.bits // 4)}x}")
    bits = f"{code:0{format.bits}b}"
    signs = 0 if format.scale else 1
    field = signs + format.exponent_bits
    parts = ((bits[:signs], _SIGN), (bits[signs:field], _EXPONENT), (bits[field:], _SIGNIFICAND))
    return Text(" ").join(Text(part, style) for part, style in parts if part)


def _column(title: str, rank: int, cells: Sequence[object], right: bool = False) -> _Column:
    return _Column(title, rank, [Text(str(cell)) for cell in cells], right)


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _table(columns: Sequence[_Column], width: int) -> Table:
    """The columns that fit: the least important go first."""
    kept = list(columns)
    while _width(kept) > width and max(column.rank for column in kept):
        kept.remove(max(reversed(kept), key=lambda column: column.rank))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for column in kept:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*cells)
    return table

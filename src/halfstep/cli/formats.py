"""``halfstep formats``: the number formats, and what a value becomes in each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import click

from halfstep.errors import UsageError
from halfstep.precisions.explain import explain
from halfstep.precisions.formats import FORMATS, BlockFormat, Format

#: numbers further from 1 than 2^±LIMIT are beyond every format here, and would take long to compute
_LIMIT = 5000
_SPECIAL = {"inf": math.inf, "infinity": math.inf, "nan": math.nan}
_POWER = re.compile(r"([+-]?)2(?:\^|\*\*)([+-]?\d{1,5})")


# a value may begin with a minus, which is no option
@click.command(
    context_settings={"ignore_unknown_options": True},
    short_help="Show the number formats, and what a value becomes in each.",
)
@click.argument("values", nargs=-1, type=click.UNPROCESSED, metavar="[VALUE]...")
@click.option("--json", "json_file", metavar="FILE", help="Write it as JSON to FILE instead; - for stdout.")
def formats(values: tuple[str, ...], json_file: str | None) -> None:
    """List the number formats, or say what each VALUE becomes in each of them.

    A VALUE is a decimal, a fraction 1/3, a power 2^-24, a hexadecimal float 0x1.8p-3, inf or nan. It is taken
    exactly as written and rounded once, to nearest, ties to even. In a block format it is alone in its block.
    """
    parsed = [(text, parse_value(text)) for text in values]
    if json_file is not None:
        _write(_as_json(parsed), json_file)
        return
    _print(parsed)


def parse_value(text: str) -> Fraction | float:
    """Read a number exactly: a Fraction, or a float for what no Fraction can be (inf, nan, -0).

    Raises:
        UsageError: not a number, or further from 1 than 2^5000.
    """
    word = text.strip().lower().replace("_", "")
    sign = -1.0 if word.startswith("-") else 1.0
    special = _SPECIAL.get(word.lstrip("+-")) if re.match(r"[+-]?[in]", word) else None
    if special is not None:
        return sign * special
    try:
        value = _finite(word)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(
            f"{text!r} is not a number; give a decimal, 1/3, 2^-24, 0x1.8p-3, inf or nan."
        ) from None
    if value is None:
        raise UsageError(f"{text!r} is too far from 1; give a number between 2^-{_LIMIT} and 2^{_LIMIT}.")
    return sign * 0.0 if value == 0 else value


def _finite(word: str) -> Fraction | None:
    """The number; None if it is further from 1 than 2^±5000."""
    power = _POWER.fullmatch(word)
    if power:
        exponent = int(power[2])
        return None if abs(exponent) > _LIMIT else (-1 if power[1] == "-" else 1) * Fraction(2) ** exponent
    if "0x" in word:
        return Fraction(float.fromhex(word))
    exponent_digits = re.search(r"e([+-]?\d+)$", word)
    if exponent_digits and abs(int(exponent_digits[1])) > _LIMIT * math.log10(2):
        return None
    return Fraction(word)


def _as_json(parsed: list[tuple[str, Fraction | float]]) -> Mapping[str, object]:
    return {
        "schema": 1,
        "formats": [_row(row) for row in FORMATS.values()],
        "values": [
            {"given": text, "results": [_result(x, row) for row in FORMATS.values()]} for text, x in parsed
        ],
    }


def _row(row: Format | BlockFormat) -> Mapping[str, object]:
    common = {"name": row.name, "standard": row.standard, "bits": row.bits, "largest": row.largest}
    if isinstance(row, BlockFormat):
        tensor = row.tensor_scale.name if row.tensor_scale else None
        return common | {
            "element": row.element.name,
            "scale": row.scale.name,
            "tensor_scale": tensor,
            "block": row.block,
        }
    return common | {
        "exponent_bits": row.exponent_bits,
        "significand_bits": row.significand_bits,
        "bias": row.bias,
        "smallest_normal": row.smallest_normal,
        "smallest_subnormal": row.smallest_subnormal,
        "unit_roundoff": row.unit_roundoff,
        "machine_epsilon": row.machine_epsilon,
        "decimal_digits": row.decimal_digits,
        "infinities": row.infinities,
        "nan": row.nan,
        "overflow": row.overflow,
    }


def _result(x: Fraction | float, row: Format | BlockFormat) -> Mapping[str, object]:
    rounded = explain(x, row)
    return {
        "format": row.name,
        "value": _jsonable(rounded.value),
        "code": rounded.code,
        "outcome": rounded.outcome,
        "relative_error": _jsonable(rounded.relative_error),
        "scale": _jsonable(rounded.scale),
    }


def _jsonable(x: float | None) -> float | str | None:
    """JSON has no infinity and no NaN: these are the words ``inf``, ``-inf`` and ``nan``."""
    return x if x is None or math.isfinite(x) else str(x)


def _write(content: Mapping[str, object], file: str) -> None:
    text = json.dumps(content, indent=1, allow_nan=False)
    if file == "-":
        click.echo(text)
        return
    try:
        Path(file).write_text(text + "\n")
    except OSError as error:
        raise UsageError(
            f"Cannot write {file!r} ({error.strerror}); give --json a file you may write."
        ) from None


def _print(parsed: list[tuple[str, Fraction | float]]) -> None:
    from rich.console import Console

    from halfstep.report.formats import FormatTable, ValueTable, legend

    console = Console(highlight=False)
    if not parsed:
        console.print(FormatTable())
        return
    for text, x in parsed:
        console.print(ValueTable(text, x))
        console.print()
    console.print(legend())

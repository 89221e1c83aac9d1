"""Pictures and tables of the number formats and the precisions, drawn from halfstep's own definitions.

```{bit-layout} fp32 bf16 fp16      a row of bits for each format; `:value: 0.1` writes that number's bits in
```{format-ranges} fp32 bf16 fp16   from the smallest to the largest number, by powers of two
```{format-table}                   every format's figures
```{precision-table}                every precision's formats
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from halfstep.precisions.encoding import encode
from halfstep.precisions.exact import round_exact
from halfstep.precisions.formats import FORMATS, BlockFormat, Format, get_scalar
from halfstep.precisions.loss_scale import DynamicScale
from halfstep.precisions.recipes import PRECISIONS, SYNONYMS, parse

#: bits in a row of the widest format; narrower ones leave the rest of the row empty
_WIDEST = 32
_LOWEST, _HIGHEST, _TICKS = -150, 130, (-126, -64, -24, 15, 64, 127)

_SCALAR_COLUMNS = (
    "bits",
    "exponent",
    "significand",
    "largest",
    "smallest normal",
    "smallest",
    "roundoff",
    "digits",
)
_BLOCK_COLUMNS = ("bits per number", "numbers per scale", "element", "scale", "tensor's scale")


def power(x: float) -> str:
    """``2^-24`` for a power of two, else the number."""
    mantissa, exponent = math.frexp(x)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{x:.6g}"


def bits_row(row: Format, value: float | None) -> str:
    """One format's bits as HTML, one cell for each; a number's own bits are written in them."""
    parts = (("sign", int(not row.scale)), ("exponent", row.exponent_bits), ("fraction", row.fraction_bits))
    kinds = [kind for kind, width in parts for _ in range(width)]
    code = "" if value is None else f"{encode(round_exact(value, row), row):0{row.bits}b}"
    cells = "".join(
        f'<span class="bits-{kind}">{code[i] if code else ""}</span>' for i, kind in enumerate(kinds)
    )
    told = ", ".join(f"{width} {kind}" for kind, width in parts if width)
    if value is not None:
        told = f"{value:g} is stored as {round_exact(value, row):.9g}"
    share = 100 * row.bits / _WIDEST
    return (
        f'<div class="bits-row"><span class="bits-name">{row.name}</span><span class="bits-told">{escape(told)}</span>'
        f'<div class="bits-cells" role="img" aria-label="{escape(told)}" style="width:{share:.4g}%">{cells}</div></div>'
    )


def range_row(row: Format) -> str:
    """One format's numbers on the axis of powers of two: the normal ones, and the subnormal ones below them."""

    def bar(kind: str, low: float, high: float) -> str:
        left, right = (100 * (x - _LOWEST) / (_HIGHEST - _LOWEST) for x in (low, high))
        return f'<i class="ranges-{kind}" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'

    smallest, normal = (math.log2(x) for x in (row.smallest_subnormal, row.smallest_normal))
    bars = bar("subnormal", smallest, normal) + bar("normal", normal, math.log2(row.largest))
    told = f"{row.name}: from {power(row.smallest_subnormal)} to {row.largest:.6g}"
    return (
        f'<div class="ranges-row"><span class="ranges-name">{row.name}</span>'
        f'<div class="ranges-line" role="img" aria-label="{told}">{bars}</div></div>'
    )


class BitLayout(SphinxDirective):
    """A row of bits for each format that is named."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {"value": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        value = None if "value" not in self.options else float(self.options["value"])
        rows = "".join(bits_row(get_scalar(name), value) for name in self.arguments[0].split())
        keys = "".join(
            f'<span class="bits-key bits-{kind}"></span>{kind}' for kind in ("sign", "exponent", "fraction")
        )
        html = f'<div class="bits">{rows}<div class="bits-legend">{keys}</div></div>'
        return [nodes.raw("", html, format="html")]


class FormatRanges(SphinxDirective):
    """What each named format reaches, on one axis."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        rows = "".join(range_row(get_scalar(name)) for name in self.arguments[0].split())
        ticks = "".join(
            f'<span style="left:{100 * (x - _LOWEST) / (_HIGHEST - _LOWEST):.2f}%">2<sup>{x}</sup></span>'
            for x in _TICKS
        )
        keys = (
            '<span class="bits-key ranges-normal"></span>full precision'
            '<span class="bits-key ranges-subnormal"></span>subnormal: fewer digits, down to one bit'
        )
        html = (
            f'<div class="ranges">{rows}<div class="ranges-ticks">{ticks}</div>'
            f'<div class="bits-legend">{keys}</div></div>'
        )
        return [nodes.raw("", html, format="html")]


class MarkdownTable(SphinxDirective):
    """A table that is written as Markdown and parsed as the page is."""

    def rows(self) -> Iterator[list[str]]:
        """The header, then the rows."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        header, *rest = list(self.rows())
        lines = [header, ["---"] * len(header), *rest]
        text = "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
        return self.parse_text_to_nodes(text)


class FormatTable(MarkdownTable):
    """Every format of single numbers, or with ``blocks`` every block format."""

    optional_arguments = 1

    def rows(self) -> Iterator[list[str]]:
        return _blocks() if self.arguments else _scalars()


def _scalars() -> Iterator[list[str]]:
    yield ["format", *_SCALAR_COLUMNS, "standard"]
    for row in FORMATS.values():
        if isinstance(row, Format):
            widths = (row.bits, row.exponent_bits, row.significand_bits)
            smallest = (row.smallest_normal, row.smallest_subnormal, row.unit_roundoff)
            yield [
                f"`{row.name}`",
                *map(str, widths),
                f"{row.largest:.6g}",
                *map(power, smallest),
                str(row.decimal_digits),
                row.standard,
            ]


def _blocks() -> Iterator[list[str]]:
    yield ["format", *_BLOCK_COLUMNS, "standard"]
    for row in FORMATS.values():
        if isinstance(row, BlockFormat):
            scale = row.tensor_scale.name if row.tensor_scale else "none"
            sizes = (f"{row.bits:g}", str(row.block))
            yield [f"`{row.name}`", *sizes, row.element.name, row.scale.name, scale, row.standard]


class PrecisionTable(MarkdownTable):
    """Every precision: its other names, its formats, its loss scale."""

    def rows(self) -> Iterator[list[str]]:
        yield ["name", "also accepted", "weights", "matrix products", "loss scaling", "runs"]
        for name in sorted(PRECISIONS, key=lambda name: name == "as-is"):
            recipe = parse(name)
            others = ", ".join(f"`{other}`" for other, meant in SYNONYMS.items() if meant == name)
            if recipe.as_is:
                own = "as the script has them"
                yield ["`as-is`", others, own, own, "the script's own", "everywhere"]
                continue
            products = recipe.compute
            if recipe.gradients != recipe.compute:
                products += f"; gradients {recipe.gradients}"
            scaling = "dynamic" if isinstance(recipe.loss_scale, DynamicScale) else "none"
            where = "with `--emulate` only" if recipe.only_emulated else "where the hardware can"
            how = " + 16-bit remainder" if recipe.remainder else ", stochastic" if recipe.stochastic else ""
            weights = recipe.weights + how
            yield [f"`{name}`", others, weights, products, scaling, where]


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in {
        "bit-layout": BitLayout,
        "format-ranges": FormatRanges,
        "format-table": FormatTable,
        "precision-table": PrecisionTable,
    }.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}

"""Histograms of exponents as small pictures of block characters, coloured by what the format does to them."""

from __future__ import annotations

from rich.text import Text

from halfstep.diagnosis.model import LayerPart
from halfstep.precisions.formats import FORMATS, Format, get_scalar

#: the exponents that are drawn; what lies beyond counts in the outermost bar
LOW, HIGH = -40, 24
LEGEND = (
    "Bars: how many numbers by binary exponent; red: flushed to zero or overflowing, yellow: subnormal, green: normal; "
    "the share is that of red ones."
)
_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*%#"


def ruler(width: int) -> str:
    """The axis: its ends and zero."""
    left, right = f"2^{LOW}", f"2^{HIGH}"
    return left + right.rjust(width - len(left))


def binned(part: LayerPart, width: int) -> list[tuple[float, int]]:
    """(middle exponent, count) of each bar, the loss scale included."""
    step = (HIGH - LOW) / width
    shift = max(int(part.scale or 1.0).bit_length() - 1, 0)
    counts = [0] * width
    for exponent, count in part.exponents.items():
        if count > 0 and -127 < exponent < 128:
            counts[min(max(int((exponent + shift - LOW) / step), 0), width - 1)] += count
    return [(LOW + (n + 0.5) * step, count) for n, count in enumerate(counts)]


def spark(part: LayerPart, width: int, ascii_only: bool = False) -> Text:
    """The histogram in `width` characters; blank where nothing was counted."""
    bars = binned(part, width)
    top = max((count for _, count in bars), default=0)
    if not top:
        return Text(" " * width)
    # If scales follow the numbers, no exponent is always lost; only the share says what is lost.
    row = get_scalar("fp32" if part.scaled or part.format not in FORMATS else part.format)
    glyphs = _ASCII if ascii_only else _BLOCKS
    line = Text()
    for exponent, count in bars:
        # The root makes a share of one in a thousand visible.
        height = 0 if not count else max(1, round(8 * (count / top) ** 0.5))
        line.append(glyphs[height], colour(exponent, row))
    return line


def colour(exponent: float, format: Format) -> str:
    """The colour for what the format does to numbers of this exponent."""
    if exponent < format.min_exponent - format.fraction_bits - 1 or exponent > format.max_exponent + 1:
        return "red"
    return "yellow" if exponent < format.min_exponent else "green"

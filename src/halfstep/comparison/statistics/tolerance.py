"""``--tolerance``: the margin below which a difference does not matter, for all figures or for one by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from halfstep.comparison.statistics.curves import LOSS
from halfstep.errors import UsageError


@dataclass(frozen=True)
class Tolerance:
    """Margins by the figure's name: (number, whether it is a share of the baseline's value)."""

    margins: tuple[tuple[str, float, bool], ...] = ()

    def __str__(self) -> str:
        return ",".join(
            f"{name}={value * (100 if share else 1):.12g}{'%' * share}" for name, value, share in self.margins
        )

    def margin(self, name: str, baseline: float) -> float | None:
        """The margin of a figure with this baseline value; None if the user gave none.

        The margin for the name wins over that for ``*``, which is a percentage that was given without a name.
        """
        for wanted in (name, "*"):
            for of, value, share in self.margins:
                if of == wanted:
                    return value * abs(baseline) if share else value
        return None


def parse_tolerance(texts: Sequence[str]) -> Tolerance:
    """``0.01`` is for the loss, ``1%`` for every figure, ``accuracy=0.005`` or ``accuracy=0.5%`` for one.

    Raises:
        UsageError: not of that form, or not above zero.
    """
    return Tolerance(tuple(_one(part.strip()) for text in texts for part in text.split(",")))


def _one(text: str) -> tuple[str, float, bool]:
    name, _, amount = text.rpartition("=")
    share = amount.endswith("%")
    try:
        value = float(amount.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(
            f"{text!r} is not a tolerance; give a number above zero (0.01, of the loss), a percentage (1%, of every "
            "figure), or either for one figure (accuracy=0.005)."
        )
    return name.strip() or ("*" if share else LOSS), value / 100 if share else value, share

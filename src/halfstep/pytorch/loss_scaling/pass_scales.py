"""The scale of each line of the script that asks for gradients, and which line is executed now."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import CodeType, FrameType

import torch

#: the lowest and the highest scale of such a pass
LOWEST, HIGHEST = 2.0**-24, 2.0**40
#: finite passes in a row after which a scale is doubled; an overflow then costs a repeat, and no step
INTERVAL = 500

#: a place in the program, and the depth of ``torch.func`` transforms there
Line = tuple[object, ...]

_CODES: dict[int, CodeType] = {}

_level = torch._C._functorch.maybe_current_level


@dataclass
class PassScale:
    """The scale of one line that asks for gradients.

    Attributes:
        value: a power of two.
        finite: finite passes in a row.
        largest: the largest magnitude, in the unit of the scale, that it was found for; 0 for a scale that was not.
        new: whether it was never used.
        hopeless: whether the last pass was not finite under any scale.
        repeatable: whether its graph bears a repeat; a compiled one that has given its buffers away does not.
    """

    value: float
    finite: int = 0
    largest: float = 0.0
    new: bool = True
    hopeless: bool = False
    repeatable: bool = True


class PassScales:
    """The scale of each line of the program that asks for gradients.

    Args:
        searches: whether a first pass looks for a higher scale, too.
        grows: whether scales are doubled after many finite passes.
    """

    def __init__(self, searches: bool, grows: bool) -> None:
        self.searches, self._grows = searches, grows
        self._scales: dict[tuple[Line, tuple[object, ...]], PassScale] = {}

    def here(self, start: float, *kind: object) -> PassScale:
        """The scale of the line outside PyTorch and halfstep that is executed now; ``start`` where it has none yet.

        Args:
            start: the loss scale.
            kind: tells passes of one line apart.
        """
        return self._scales.setdefault((here(), kind), PassScale(start))

    def succeeded(self, scale: PassScale, under: float) -> None:
        """A pass was finite ``under`` this scale."""
        scale.finite = scale.finite + 1 if under == scale.value else 1
        scale.value, scale.new, scale.hopeless = under, False, False
        if self._grows and scale.finite >= INTERVAL:
            scale.value, scale.finite = min(scale.value * 2, HIGHEST), 0


def here() -> Line:
    """The line outside PyTorch and halfstep that is executed now."""
    frame = _outside(sys._getframe(1))
    code = frame.f_code
    _CODES[id(code)] = code  # else another one may get its id
    return id(code), frame.f_lasti, _level()


def _outside(frame: FrameType) -> FrameType:
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("torch.", "halfstep.")
    ):
        frame = frame.f_back
    return frame
